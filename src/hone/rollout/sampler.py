"""Samples completions or episodes for prompts and scores them: groups for the online loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hone.config.schema import EvalConfig, OnlineConfig, RewardsConfig, RLConfig
from hone.config.schema.model import SamplingConfig
from hone.data.chat import Encoder
from hone.rollout.environments.episode import EpisodeRunner
from hone.rollout.environments.episode_result import EpisodeResult, add_rewards, check_failures
from hone.rollout.environments.pool import EnvironmentPool
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.rewards.scoring_batch import NO_FUNCTION_APPLIES, Scoring
from hone.rollout.scoring import apply_reward_shaping, score_completions, score_rollouts
from hone.rollout.timeline import GENERATOR, REWARDS, Timeline
from hone.types import Completion, Generator, Group, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


OnEnd = Callable[[str], None]


@dataclass
class RolloutSampler:
    """Samples completions with the generator and scores them, according to the configuration."""

    generator: Generator
    tokenizer: PreTrainedTokenizerBase
    pool: RewardPool
    config: OnlineConfig
    episodes: EpisodeRunner | None = None
    """Runs rollouts with environments, if the configuration has any."""
    timeline: Timeline = field(default_factory=Timeline)
    scoring: Scoring | None = None
    """How a call's completions are judged and counted; None: as the pool does, with `rewards.max_failure_fraction`."""

    async def sample(self, prompts: Sequence[Prompt], *, on_end: OnEnd = lambda part: None) -> list[Group]:
        """A group to train on for each prompt, with rewards if the algorithm uses them. `on_end` is called when a part
        has ended: `generation` (with environments), `reward`. Raises RewardError (see RewardPool.score)."""
        pool = self.pool if isinstance(self.config, RLConfig) else None
        count = self.config.algorithm.num_generations_per_prompt
        groups = await self._groups(prompts, sampling_of(self.config), count, pool, on_end)
        apply_reward_shaping(groups, self.config)
        if pool is not None:
            on_end("reward")
        return groups

    async def validate(self, prompts: Sequence[Prompt]) -> list[Group]:
        """A group for each validation prompt, with rewards as the functions returned them."""
        count = self.config.algorithm.val_num_generations_per_prompt
        return await self._groups(prompts, sampling_of(self.config, validation=True), count, self.pool)

    async def _groups(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        count: int,
        pool: RewardPool | None,
        on_end: OnEnd = lambda part: None,
    ) -> list[Group]:
        if self.episodes is not None and pool is not None:
            results = await self.episodes.run(prompts, self.generator, sampling, count)
            on_end("generation")
            with self.timeline.busy(REWARDS, "scoring"):
                return await score_episodes(prompts, results, pool, self.config.rewards, scoring=self.scoring)
        completions = await self.generator.generate(prompts, sampling, count=count)
        on_end("generation")
        with self.timeline.busy(REWARDS, "scoring") if pool is not None else contextlib.nullcontext():
            return await score_completions(prompts, completions, self.tokenizer, pool, scoring=self.scoring)


class TimedGenerator:
    """A generator whose work is recorded."""

    def __init__(self, generator: Generator, timeline: Timeline) -> None:
        self.generator, self.timeline = generator, timeline

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As the generator's."""
        with self.timeline.busy(GENERATOR, "sampling"):
            return await self.generator.generate(prompts, sampling, count=count)


async def score_episodes(
    prompts: Sequence[Prompt],
    results: Sequence[Sequence[EpisodeResult]],
    pool: RewardPool,
    rewards: RewardsConfig,
    *,
    scoring: Scoring | None = None,
) -> list[Group]:
    """A Group for each prompt, with the rewards of functions and environments. Raises RewardError past
    `max_failure_fraction` (that of `scoring`, else of `rewards`)."""
    every = [one for group in results for one in group]
    limit = rewards.max_failure_fraction if scoring is None else scoring.max_failure_fraction
    check_failures(every, limit)
    ended = [one for one in every if one.rollout.failure is None]
    if pool.specs and ended:
        group_size = max(map(len, results)) if len(ended) == len(every) else 1
        rollouts = [one.rollout for one in ended]
        await score_rollouts(rollouts, pool, group_size, scoring=scoring)
    add_rewards(ended, NO_FUNCTION_APPLIES)
    return [Group(p.id, [one.rollout for one in group]) for p, group in zip(prompts, results, strict=True)]


@contextlib.contextmanager
def open_episode_runner(
    config: OnlineConfig | EvalConfig, tokenizer: PreTrainedTokenizerBase, log_path: str | Path | None = None
) -> Iterator[EpisodeRunner | None]:
    """A runner for the environments of a configuration; None without any. Their output goes to environments.log beside
    `log_path`. Raises ConfigError for a target that is not an environment, and for a chat template that cannot write an
    environment's messages."""
    if not isinstance(config, RLConfig | EvalConfig) or not (config.env.is_configured or config.env.named):
        yield None
        return
    if isinstance(config, EvalConfig):
        turns, context = config.eval.max_rollout_turns, config.generation.max_model_len
        kwargs = config.tokenizer.chat_template_kwargs
    else:
        turns, context = config.algorithm.max_rollout_turns, config.policy.max_total_sequence_length
        kwargs = config.policy.tokenizer.chat_template_kwargs
    encoder = Encoder(tokenizer, add_bos=config.data.add_bos, template_kwargs=kwargs or {})
    log = Path(log_path).with_name("environments.log") if log_path is not None else None
    with EnvironmentPool(config.env, log) as pool:
        streams = isinstance(config, OnlineConfig) and config.streams_rollouts
        episodes = EpisodeRunner(pool, encoder, turns, context, config.env.max_wait_s, batches=not streams)
        episodes.check()
        yield episodes


def sampling_of(config: OnlineConfig, *, validation: bool = False) -> Sampling:
    """The sampling parameters of rollouts, or of validation samples."""
    return sampling_from(config.policy.generation, config.algorithm.seed, "val_" if validation else "")


def sampling_from(generation: SamplingConfig, seed: int, prefix: str = "") -> Sampling:
    """The sampling parameters of a `generation` section. `prefix`: of the settings for validation."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return Sampling(
        max_new_tokens=generation.max_new_tokens,
        stop_token_ids=tuple(generation.stop_token_ids or ()),
        stop_strings=tuple(generation.stop_strings or ()),
        seed=seed,
        min_new_tokens=generation.min_new_tokens,
        ignore_eos=generation.ignore_eos,
        **{name: getattr(generation, prefix + name) for name in names},
    )
