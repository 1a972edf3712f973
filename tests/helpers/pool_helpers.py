"""What the tests of the reward pool share."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool, Scored

FUNCTIONS = Path(__file__).with_name("reward_functions.py")
SEEDS = Path(__file__).with_name("seed_functions.py")


def entry(function: str, **more: object) -> dict:
    return {"path": f"{FUNCTIONS}:{function}", **more}


def score(entries: list, completions: list, columns: dict | None = None, **options) -> list[Scored]:
    group_size = options.pop("group_size", 1)
    with RewardPool(resolve_all(entries), **{"num_workers": 2, "timeout_s": 0.5, **options}) as pool:
        return asyncio.run(pool.score(["2+2?"] * len(completions), completions, columns or {}, group_size))
