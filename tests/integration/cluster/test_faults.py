"""Runs on two ranks of a Ray cluster that Hone starts: what is lost is named and replaced, and the end is the same.

Kills at random moments, of a rank, the raylet and the driver, are in test_kills.py.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import ENVIRONMENT, metric_rows, same, steps_of, tensors

from hone.checkpoint.safe_reader import read_state

SEED = int(os.environ.get("HONE_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
RANDOM = random.Random(SEED)
STEPS = 40
SETTINGS = (
    "policy.precision=float32",
    "policy.train_micro_batch_size=4",
    "checkpointing.save_period=4",
    "checkpointing.keep_top_k=null",
    "logger.tensorboard_enabled=false",
    "cluster.cpu_workers_per_node=2",
)
OF_KIND = {
    "sft": (
        "policy.model_name=hone/tiny",
        "policy.train_global_batch_size=8",
        f"sft.max_num_steps={STEPS}",
        "sft.val_period=0",
    ),
    "grpo": (
        "policy.model_name=hone/tiny-sft",
        "grpo.num_prompts_per_step=2",
        "grpo.num_generations_per_prompt=4",
        "policy.train_global_batch_size=8",
        "policy.generation.max_new_tokens=16",
        "loss_fn.reference_policy_kl_penalty=0.05",
        f"grpo.max_num_steps={STEPS}",
        "grpo.val_period=0",
    ),
    # Losses with something of their own to keep: BCO's running mean, KTO's answers to other prompts, AOT's ranks.
    "dpo": (
        "policy.model_name=hone/tiny-sft",
        "policy.train_global_batch_size=4",
        "dpo.preference_loss={sigmoid: 1.0, bco_pair: 0.5, kto: 0.3, aot_unpaired: 0.2}",
        "dpo.val_period=0",
    ),
    "rm": ("policy.model_name=hone/tiny-sft", "policy.train_global_batch_size=4", "rm.val_period=0"),
    # Killed before and after the policy begins to be trained.
    "ppo": (
        "policy.model_name=hone/tiny-sft",
        "ppo.num_prompts_per_step=8",
        "policy.train_global_batch_size=8",
        "value.train_global_batch_size=4",
        "value.train_micro_batch_size=4",
        "policy.generation.max_new_tokens=16",
        "loss_fn.reference_policy_kl_penalty=0.05",
        "ppo.policy_training_start_step=8",
        "ppo.val_period=0",
    ),
    # Own answers and given ones take turns.
    "distill": (
        "policy.model_name=hone/tiny",
        "distillation.num_prompts_per_step=8",
        "distillation.on_policy_fraction=0.5",
        "policy.train_global_batch_size=8",
        "policy.generation.max_new_tokens=16",
        "distillation.val_period=0",
    ),
}
MODELS = {"ppo": ("policy", "value")}
"""What a run trains, where that is more than the policy."""


def start(run: Path, *more: str, kind: str = "sft") -> subprocess.Popen[str]:
    """The real command, in a process group of its own."""
    run.parent.mkdir(parents=True, exist_ok=True)
    output = open(run.parent / f"{run.name}.out", "a")  # noqa: SIM115  the process has it
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hone",
            kind,
            *SETTINGS,
            *OF_KIND[kind],
            *more,
            f"checkpointing.checkpoint_dir={run}",
        ],
        env={**os.environ, **ENVIRONMENT},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=run.parent,
    )


def said(run: Path) -> str:
    return (run.parent / f"{run.name}.out").read_text()


def finish(process: subprocess.Popen[str], run: Path, code: int = 0, seconds: float = 480) -> None:
    assert process.wait(seconds) == code, said(run)


def processes_of(driver: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Those that a run started, by a part of their command line."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has recorded a step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if any(int(row["step"]) >= step for row in metric_rows(run)):
                return
        except (OSError, KeyError, ValueError, IndexError):
            pass
        time.sleep(0.02)
    raise AssertionError(said(run))


def same_end(run: Path, reference: Path, steps: int = STEPS, models: Sequence[str] = ("policy",)) -> None:
    """Weights, optimizer and losses, to the bit."""
    assert steps_of(run)[-1] == steps_of(reference)[-1] == steps
    for model, part in itertools.product(models, ("weights", "optimizer")):
        ended = tensors(reference, part, model=model)
        assert ended, f"{model} has no {part}"
        same(tensors(run, part, model=model), ended, f"{model}.{part}")
    named = ("loss", "reward", "grad_norm", "learning_rate", "accuracy", "kl")
    mine, others = (
        [
            {c: v for c, v in row.items() if c == "step" or any(n in c for n in named)}
            for row in metric_rows(folder)
        ]
        for folder in (run, reference)
    )
    assert mine == others


def state_of(run: Path) -> dict[str, Any]:
    """Where the run's own process ended: its place in the data, its random generators."""
    return read_state(run / f"step_{STEPS}" / "state.pt")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    finish(start(run), run)
    return run


@pytest.mark.slow
def test_a_killed_rank_is_named_and_replaced(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    process = start(run)
    until_step(run, RANDOM.randrange(4, STEPS // 2), process)
    victim = RANDOM.choice(processes_of(process, "ray::Worker"))
    victim.kill()
    finish(process, run)
    assert f"pid {victim.pid} on" in said(run)
    assert "died" in said(run)
    assert "with new workers" in said(run)
    same_end(run, uninterrupted)
    same(state_of(run), state_of(uninterrupted), "state.pt")


@pytest.mark.slow
def test_a_hung_rank_is_named_and_replaced(tmp_path: Path, uninterrupted: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "cluster.worker_timeout_s=8")
    until_step(run, 4, process)
    victim = processes_of(process, "ray::Worker")[1]
    victim.suspend()
    finish(process, run)
    assert f"pid {victim.pid} on" in said(run)
    assert "made no progress for 8 s" in said(run)
    same_end(run, uninterrupted)


@pytest.mark.slow
def test_a_run_that_cannot_get_on_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "cluster.max_restarts=0")
    until_step(run, 1, process)
    processes_of(process, "ray::Worker")[0].kill()
    finish(process, run, code=1)
    assert "error: rank" in said(run)
    assert "died" in said(run)
