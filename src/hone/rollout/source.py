"""Where the groups of the online loop come from: prompts are sampled for, and what comes back is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hone.config.schema import OnlineConfig, RewardedConfig
from hone.rollout.collect import collect, scored_groups, unscored_groups
from hone.rollout.rewards.pool import RewardPool
from hone.types import Generator, Group, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Source:
    """Samples with one generator and scores with one pool, as one configuration says."""

    generator: Generator
    tokenizer: PreTrainedTokenizerBase
    pool: RewardPool
    config: OnlineConfig

    async def sample(
        self, prompts: Sequence[Prompt], *, lap: Callable[[str], None] = lambda part: None
    ) -> list[Group]:
        """A group for each prompt, to learn from; scored where rewards are learnt from. `lap` is told of each part that
        is done: `generation`, `reward`. Raises RewardError (see RewardPool.score)."""
        config = self.config
        sampling, count = sampling_of(config), config.loop.num_generations_per_prompt
        completions = await self.generator.generate(prompts, sampling, count=count)
        lap("generation")
        if not isinstance(config, RewardedConfig):
            return unscored_groups(prompts, completions, self.tokenizer, config)
        groups = await collect(prompts, completions, self.tokenizer, self.pool, config)
        lap("reward")
        return groups

    async def validate(self, prompts: Sequence[Prompt]) -> list[Group]:
        """A group for each held-out prompt, with rewards as the functions gave them."""
        sampling = sampling_of(self.config, validation=True)
        count = self.config.loop.val_num_generations_per_prompt
        completions = await self.generator.generate(prompts, sampling, count=count)
        return await scored_groups(prompts, completions, self.tokenizer, self.pool)


def sampling_of(config: OnlineConfig, *, validation: bool = False) -> Sampling:
    """How rollouts (or validation samples) are drawn."""
    g = config.policy.generation
    return Sampling(
        max_new_tokens=g.max_new_tokens,
        temperature=g.val_temperature if validation else g.temperature,
        top_p=g.val_top_p if validation else g.top_p,
        top_k=g.val_top_k if validation else g.top_k,
        stop_token_ids=tuple(g.stop_token_ids or ()),
        stop_strings=tuple(g.stop_strings or ()),
        seed=config.loop.seed,
    )
