"""Whole runs with environments: GRPO, PPO and evaluation by the real commands; the examples, which must learn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import ENVIRONMENT

from hone.tracking.metrics_csv import read_table
from tests.helpers.env_helpers import here

ROOT = Path(__file__).resolve().parents[4]
TINY = (
    "policy.generation.max_new_tokens=60",
    "policy.max_total_sequence_length=400",
    "policy.train_global_batch_size=8",
    "policy.train_micro_batch_size=8",
    f"env.path={here('Counter')}",
    f"data.train.dataset_name={here('conversations')}",
    f"data.validation.dataset_name={here('conversations')}",
    "rewards.functions=[]",
)


def hone(*arguments: str) -> str:
    """The command's output. Run from the repository's root, as the examples say."""
    done = subprocess.run(
        [sys.executable, "-m", "hone", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def metrics(run: Path) -> list[dict[str, Any]]:
    return read_table(run / "metrics.csv")[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_run_with_an_environment(kind: str, tmp_path: Path) -> None:
    sizes = (
        f"{kind}.num_prompts_per_step=2",
        f"{kind}.num_generations_per_prompt=4",
        f"{kind}.max_num_steps=2",
    )
    turns = (f"{kind}.max_rollout_turns=4", f"{kind}.val_period=2", f"{kind}.val_at_start=false")
    value = ("value.train_global_batch_size=8", "value.train_micro_batch_size=8") if kind == "ppo" else ()
    hone(kind, *TINY, *sizes, *turns, *value, f"checkpointing.checkpoint_dir={tmp_path / 'run'}")
    last = metrics(tmp_path / "run")[-1]
    # Some rollouts are cut off in a turn; each turn that an environment saw is worth 1.
    assert 2 < float(last["turns"]) <= 3
    assert 2 < float(last["val_turns"]) <= 3
    assert float(last["reward_Counter"]) == float(last["reward"]) <= float(last["turns"])
    assert float(last["val_reward"]) > 0
    assert not last.get("val_accuracy"), "turns are no share of right answers"
    assert float(last["tool_calls"]) == 0
    [first, *_] = [json.loads(line) for line in (tmp_path / "run/rollouts/step_2.jsonl").open()]
    assert first["turns"] == sum(message["role"] == "assistant" for message in first["messages"])


@pytest.mark.slow
def test_an_evaluation_with_an_environment(tmp_path: Path) -> None:
    hone(
        "eval",
        f"env.path={here('Counter')}",
        "eval.max_rollout_turns=2",
        f"data.dataset_name={here('conversations')}",
        "rewards.functions=[]",
        "generation.max_new_tokens=60",
        f"eval.save_path={tmp_path}",
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["turns"] == 2.0
    assert report["out_of_turns"] == 1.0
    assert report["failed"] == 0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("name", "steps", "gain"), [("calculator", 10, 0.4), ("guess", 20, 0.4)])
def test_a_run_of_the_documented_example_learns(name: str, steps: int, gain: float, tmp_path: Path) -> None:
    config = ROOT / "examples" / "environments" / f"{name}.yaml"
    start, run = tmp_path / "sft", tmp_path / "run"
    hone("sft", f"--config={config.with_name(f'{name}_sft.yaml')}", f"checkpointing.checkpoint_dir={start}")
    hone(
        "grpo",
        f"--config={config}",
        f"policy.model_name={start}",
        f"checkpointing.checkpoint_dir={run}",
        f"grpo.max_num_steps={steps}",
        f"grpo.val_period={steps}",
    )
    validated = [float(row["val_accuracy"]) for row in metrics(run) if row.get("val_accuracy")]
    assert validated[-1] >= validated[0] + gain, validated
