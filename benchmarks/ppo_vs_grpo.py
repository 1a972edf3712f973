"""Seconds of a PPO step against a GRPO step on the same work: what a critic costs.

    python benchmarks/ppo_vs_grpo.py --pairs 3 --steps 3

The rollouts of grpo_vs_trl.py (its model, prompts, reward), one update a step, no reference. PPO's value model is as
large as the policy: it is evaluated on each rollout and trained on it.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import common
from grpo_vs_trl import GROUP, PROMPTS, WARM_UP, prepare, settings


def train(folder: Path, steps: int, threads: int, kind: str) -> None:
    from hone.config import load
    from hone.training import online

    marks = common.step_marks()
    own = ["ppo.ppo_epochs=1", "value.optimizer.kwargs.lr=1e-6"] if kind == "ppo" else []
    summary = online.main(load(kind, None, [*settings(folder, steps, threads, kind), *own]))
    laps = {k: round(v, 2) for k, v in summary["metrics"].items() if k.startswith("seconds")}
    print(laps, file=sys.stderr)
    seconds = marks[-1][0] - marks[WARM_UP - 1][0]
    print(json.dumps({"seconds": seconds, "work": PROMPTS * GROUP * steps, "laps": laps}))


if __name__ == "__main__":
    options = common.arguments(__doc__ or "")
    if options.worker:
        train(options.folder, options.steps, options.threads, options.worker)
    else:
        common.compare(options, __file__, partial(prepare), "completions", ("grpo", "ppo"))
