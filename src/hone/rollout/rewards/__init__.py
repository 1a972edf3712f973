"""Reward functions with TRL's signature, run in worker processes that can be killed.

    functions/     the built-in functions            resolve.py   config entry -> RewardSpec
    worker.py      the body of a worker process      process.py   the parent's end of one worker
    lanes.py       which worker is asked what        batch.py     one batch being scored
    pool.py        RewardPool: scores a batch

A reward function is `f(prompts, completions, **columns) -> list[float | None]`. `log_metric` and `log_extra`
are what TRL passes under those names; a function may also import them from here.
"""

from __future__ import annotations

from hone.rollout.rewards.metrics import log_extra, log_metric

__all__ = ["log_extra", "log_metric"]
