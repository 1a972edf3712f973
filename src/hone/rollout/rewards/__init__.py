"""Reward functions with TRL's signature, run in worker processes that can be killed.

    resolve.py         config entry -> RewardSpec    reward_pool.py     RewardPool: scores a batch
    functions/         the built-in functions        scoring_batch.py   one batch while it is scored
    worker.py          the body of a worker process  worker_pool.py  the parent's end of workers

A reward function is `f(prompts, completions, **columns) -> list[float | None]`. `log_metric` and `log_extra` are the
functions that TRL passes under these names; they can also be imported from here.
"""

from __future__ import annotations

from hone.rollout.rewards.metrics import log_extra, log_metric

__all__ = ["log_extra", "log_metric"]
