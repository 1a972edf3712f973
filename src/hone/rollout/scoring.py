"""From prompts and their completions to scored groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.rollout.prompt_prefix import prefills_of
from hone.rollout.reward_shaping import shape_reward
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.sandbox import SandboxLimits
from hone.types import Completion, Group, Prompt, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hone.config.schema import OnlineConfig, RewardsConfig, RLConfig

_NOT_COLUMNS = ("prompt", "completion", "prompts", "completions", "completion_ids", "prefills")


def open_reward_pool(
    rewards: RewardsConfig, log_path: str | Path | None = None, *, load_models: bool = True
) -> RewardPool:
    """The pool that a configuration's `rewards` section describes, for `async with`.

    What the functions print goes to `log_path`, if given. Without `load_models` the functions that hold a model are
    left out: a plan loads no weights. Raises RewardError (see resolve.resolve_all).
    """
    specs = resolve_all(rewards.functions) if rewards.functions else []  # where an environment rewards alone
    return RewardPool(
        specs if load_models else [spec for spec in specs if not spec.alone],
        num_workers=rewards.num_workers,
        timeout_s=rewards.timeout_s,
        max_failure_fraction=rewards.max_failure_fraction,
        load_timeout_s=rewards.load_timeout_s,
        memory_limit_mb=rewards.memory_limit_mb,
        sandbox=SandboxLimits(**rewards.sandbox.model_dump()),
        log_path=log_path,
    )


async def score_completions(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    tokenizer: PreTrainedTokenizerBase,
    pool: RewardPool,
    cfg: RLConfig,
) -> list[Group]:
    """Score the completions of each prompt: one Group for a prompt, in order, with rewards or failures.

    Reward functions see text without special tokens, in a message when the prompt is conversational; the
    tokens stay as generated. `reward` is scaled and shaped as cfg.loop says, `rewards` are what the
    functions returned. A completion cut off by its length is marked excluded where
    cfg.loop.overlong_filtering is set. Raises RewardError (see RewardPool.score), ConfigError (see
    reward_shaping.shape_reward).
    """
    rollouts = rollouts_of(prompts, completions, tokenizer)
    await score_rollouts(rollouts, pool, max((len(group) for group in completions), default=1))
    apply_reward_shaping(rollouts, cfg)
    return _grouped(prompts, completions, rollouts)


def apply_reward_shaping(rollouts: Sequence[Rollout], cfg: RLConfig) -> None:
    """Scale and shape rewards and exclude truncated rollouts, as `cfg.loop` says. Raises ConfigError."""
    for rollout in rollouts:
        truncated = rollout.completion.finish == "length"
        if rollout.reward is not None:
            length = len(rollout.completion.tokens)
            rollout.reward = shape_reward(rollout.reward, length, truncated, cfg.loop)
        if truncated and cfg.loop.overlong_filtering:
            rollout.excluded = "truncated"


def unscored_groups(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    tokenizer: PreTrainedTokenizerBase,
    cfg: OnlineConfig,
) -> list[Group]:
    """A Group for each prompt, in order, where nothing is learnt from rewards; exclusions as in `score_completions`."""
    rollouts = rollouts_of(prompts, completions, tokenizer)
    for rollout in rollouts:
        if rollout.completion.finish == "length" and cfg.loop.overlong_filtering:
            rollout.excluded = "truncated"
    return _grouped(prompts, completions, rollouts)


def _grouped(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]], rollouts: Sequence[Rollout]
) -> list[Group]:
    rest = iter(rollouts)
    return [Group(p.id, [next(rest) for _ in group]) for p, group in zip(prompts, completions, strict=True)]


def rollouts_of(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]], tokenizer: PreTrainedTokenizerBase
) -> list[Rollout]:
    """Unscored rollouts, prompt by prompt, with their text decoded."""
    pairs = [(p, c) for p, group in zip(prompts, completions, strict=True) for c in group]
    texts = tokenizer.batch_decode([list(c.tokens) for _, c in pairs], skip_special_tokens=True)
    begun = {p.id: prefill for p, prefill in zip(prompts, prefills_of(prompts, tokenizer), strict=True)}
    return [
        Rollout(prompt, completion, text, prefill=begun[prompt.id])
        for (prompt, completion), text in zip(pairs, texts, strict=True)
    ]


async def score_rollouts(rollouts: Sequence[Rollout], pool: RewardPool, group_size: int = 1) -> None:
    """Give each rollout what the reward functions say, neither scaled nor shaped: validation needs no more.

    Raises RewardError (see RewardPool.score).
    """
    columns = columns_of([rollout.prompt.row for rollout in rollouts])
    columns["prefills"] = [rollout.prefill for rollout in rollouts]
    columns["completion_ids"] = [list(rollout.completion.tokens) for rollout in rollouts]
    prompts = [rollout.prompt.content for rollout in rollouts]
    sources = [(rollout.prompt.dataset, rollout.prompt.env) for rollout in rollouts]
    texts = [_as_prompted(rollout) for rollout in rollouts]
    scores = await pool.score(prompts, texts, columns, group_size, sources)
    for rollout, scored in zip(rollouts, scores, strict=True):
        rollout.rewards, rollout.reward, rollout.failure = scored.rewards, scored.reward, scored.failure
        rollout.extra, rollout.weights = scored.extra, dict(scored.weights)
        judging = (
            spec.name for spec in pool.specs if spec.judges and scored.rewards.get(spec.name) is not None
        )
        rollout.judge = next(judging, "")


async def scored_groups(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    tokenizer: PreTrainedTokenizerBase,
    pool: RewardPool,
) -> list[Group]:
    """A Group for each prompt, with rewards as the functions gave them: for validation and evaluation."""
    rollouts = rollouts_of(prompts, completions, tokenizer)
    await score_rollouts(rollouts, pool)
    return _grouped(prompts, completions, rollouts)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, a value for each row: None where datasets are mixed and a row lacks the column."""
    names = dict.fromkeys(name for row in rows for name in row if name not in _NOT_COLUMNS)
    return {name: [row.get(name) for row in rows] for name in names}


def _as_prompted(rollout: Rollout) -> str | list[dict[str, Any]]:
    if rollout.messages is not None:
        return rollout.messages
    if isinstance(rollout.prompt.content, str):
        return rollout.text
    return [{"role": "assistant", "content": rollout.text}]
