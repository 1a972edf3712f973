"""Reward functions with TRL's signature, run in worker processes that can be killed.

    functions.py   the built-in functions            resolve.py   config entry -> RewardSpec
    worker.py      the body of a worker process      process.py   the parent's end of one worker
    pool.py        RewardPool: scores a batch        batch.py     one batch being scored

A reward function is `f(prompts, completions, **columns) -> list[float | None]`. `log_metric` is what TRL
passes under that name; a function may also import it from here.
"""

from __future__ import annotations

from hone.rollout.rewards.metrics import log_metric

__all__ = ["log_metric"]
