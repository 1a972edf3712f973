"""Steps per hour with environments whose answers take long now and then: in turns, one step ahead, and as a stream.

    python benchmarks/async_rl.py --pairs 3 --steps 12                # a stream against taking turns
    ASYNC=lookahead python benchmarks/async_rl.py --pairs 3

A model of 5 M parameters, 8 prompts x 4 completions of 20 tokens on average a step. After a completion its environment
takes DELAY seconds, one in ten 10 times as long. `max_staleness` is 2.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import common
from grpo_vs_trl import WARM_UP

DELAY = 0.3
PROMPTS, GROUP, LONGEST = 8, 4, 96
ASYNC = os.environ.get("ASYNC", "stream")


class LongTail:
    """Answers after DELAY seconds, or 10 times that."""

    def reset(self, row: dict[str, Any]) -> None:
        """Nothing to prepare."""

    def step(self, message: dict[str, Any]) -> tuple[str, float, bool]:
        """The reward is the share of digits."""
        time.sleep(DELAY * (10 if random.random() < 0.1 else 1))
        text = str(message["content"])
        return "", sum(ch.isdigit() for ch in text) / max(len(text), 1), True


def prepare(folder: Path) -> None:
    common.make_model(folder / "model", eos=200)
    with (folder / "rows.jsonl").open("w") as out:
        for row in common.rows(1000):
            out.write(json.dumps({"prompt": [{"role": "user", "content": row["question"]}]}) + "\n")


def settings(folder: Path, steps: int, threads: int, side: str) -> list[str]:
    """The run as Hone is told it."""
    mode = {
        "in turns": [],
        "lookahead": ["grpo.async_rollouts=lookahead"],
        "stream": ["grpo.max_staleness=2"],
    }
    return [
        f"policy.model_name={folder / 'model'}",
        f"data.train.dataset_name={folder / 'rows.jsonl'}",
        f"env.path={Path(__file__).resolve()}:LongTail",
        "env.num_workers=48",
        "env.max_wait_s=0.05",
        "rewards.functions=[]",
        "rewards.max_failure_fraction=1",
        f"grpo.num_prompts_per_step={PROMPTS}",
        f"grpo.num_generations_per_prompt={GROUP}",
        f"grpo.max_num_steps={WARM_UP + steps}",
        "grpo.max_rollout_turns=2",
        "grpo.val_period=0",
        "grpo.val_at_start=false",
        "grpo.val_at_end=false",
        f"policy.train_global_batch_size={PROMPTS * GROUP}",
        f"policy.train_micro_batch_size={GROUP}",
        f"policy.generation_batch_size={PROMPTS * GROUP}",
        "policy.max_total_sequence_length=1024",
        f"policy.generation.max_new_tokens={LONGEST}",
        "policy.precision=float32",
        "policy.optimizer.kwargs.lr=1e-6",
        "loss_fn.reference_policy_kl_penalty=0",
        "checkpointing.enabled=false",
        f"checkpointing.checkpoint_dir={folder / 'run'}",
        "checkpointing.metric_name=null",
        "logger.tensorboard_enabled=false",
        f"cluster.cpu_threads={threads}",
        *mode[side],
    ]


def train(folder: Path, steps: int, threads: int, side: str) -> None:
    from hone.config import load
    from hone.training import online

    marks = common.step_marks()
    summary = online.main(load("grpo", None, settings(folder, steps, threads, side)))
    wanted = ("seconds", "staleness", "idle")
    laps = {k: round(v, 2) for k, v in summary["metrics"].items() if k.startswith(wanted) or "idle" in k}
    print(laps, file=sys.stderr)
    print(json.dumps({"seconds": (marks[-1][0] - marks[WARM_UP - 1][0]) / 3600, "work": steps, "laps": laps}))


if __name__ == "__main__":
    options = common.arguments(__doc__ or "")
    if options.worker:
        train(options.folder, options.steps, options.threads, options.worker)
    else:
        common.compare(options, __file__, prepare, "steps/h", (ASYNC, "in turns"))
