"""Checks before any weight is loaded: trackers, checkpoints, data, rewards, environments, the models' configs.

A run calls `prepare` or `prepared`, then `engine.build`, which begins with `engine.check`. `hone plan` calls the same
functions in `check`, so it raises the same errors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hone import engine
from hone.algorithms.online import OnlineAlgorithm
from hone.algorithms.supervised import SupervisedAlgorithm
from hone.checkpoint.checkpoints import Checkpoints
from hone.config import Loaded, OnlineConfig
from hone.data import PromptData, build_prompts
from hone.engine.local.local_engine import tokenizer_of
from hone.lazy import lazy
from hone.registry import spec_of
from hone.rollout.environments.episode import EpisodeRunner
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.sampler import open_episode_runner
from hone.rollout.scoring import open_reward_pool
from hone.tracking import Activity, check_trackers, working
from hone.training.process import check_could_write, written_folders
from hone.training.recovery import check_same_run


def check_run(loaded: Loaded[Any]) -> None:
    """Raise ConfigError for a tracker that is not installed, CheckpointError for a folder that holds a run of other
    settings."""
    config = loaded.config
    check_trackers(config.logger)
    checkpoints = Checkpoints(config.checkpointing)
    steps = checkpoints.steps() if config.checkpointing.enabled else []
    if steps:
        check_same_run(loaded.algorithm, loaded.to_yaml(), checkpoints, checkpoints.path(steps[-1]))


def prepare(loaded: Loaded[Any]) -> tuple[PreTrainedTokenizerBase, SupervisedAlgorithm]:
    """The tokenizer and the algorithm (with its data) of a supervised run. Raises HoneError for what would stop it."""
    check_run(loaded)
    tokenizer = tokenizer_of(loaded.config)
    with working("reading the data"):
        algorithm = lazy(spec_of(loaded.algorithm).build)(loaded.config, tokenizer)
    return tokenizer, algorithm


@dataclass
class Prepared:
    """What an online run needs besides its models."""

    algorithm: OnlineAlgorithm
    tokenizer: PreTrainedTokenizerBase
    data: PromptData
    pool: RewardPool
    episodes: EpisodeRunner | None


@contextlib.asynccontextmanager
async def prepared(
    loaded: Loaded[Any], printed: Path | None, *, load_models: bool = True
) -> AsyncIterator[Prepared]:
    """What an online run needs besides its models. `printed`: file for the output of reward functions; `load_models`:
    whether reward models are loaded. Raises HoneError for what would stop the run."""
    config: OnlineConfig = loaded.config
    check_run(loaded)
    algorithm: OnlineAlgorithm = lazy(spec_of(loaded.algorithm).build)(config)
    pool = open_reward_pool(config.rewards, printed, load_models=load_models)
    with contextlib.closing(Activity()) as activity:
        pool.start(activity.begin)
    with contextlib.closing(pool):
        tokenizer = tokenizer_of(config)
        with working("reading the data"):
            data = build_prompts(config, tokenizer)
        if algorithm.needs_answers():
            data.check_answers()
        pool.check_columns(data.columns)
        with open_episode_runner(config, tokenizer, printed) as episodes:
            yield Prepared(algorithm, tokenizer, data, pool, episodes)


def check(loaded: Loaded[Any]) -> None:
    """Raise the errors that would stop a training run before its first step. Writes nothing."""
    for path, key in written_folders(loaded.config):
        check_could_write(path, key)
    if not isinstance(loaded.config, OnlineConfig):
        engine.check(loaded.config, prepare(loaded)[0])
        return

    async def check_online() -> None:
        async with prepared(loaded, None, load_models=False) as ready:
            engine.check(loaded.config, ready.tokenizer)

    asyncio.run(check_online())
