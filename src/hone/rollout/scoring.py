"""From prompts and completions to scored groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from hone.config.schema import OnlineConfig, RewardsConfig, RLConfig
from hone.endpoint_completion import EndpointCompletion
from hone.rollout.prompt_prefix import prefills_of
from hone.rollout.reward_shaping import shape_reward
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.rewards.scoring_batch import Scoring
from hone.rollout.sandbox import SandboxLimits
from hone.rollout.workers.failure_budget import FailureBudget
from hone.types import Completion, Group, Prompt, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOT_COLUMNS = ("prompt", "completion", "prompts", "completions", "completion_ids", "prefills")


def open_reward_pool(rewards: RewardsConfig, log_path: Any = None, *, load_models: bool = True) -> RewardPool:
    """The pool that a configuration's `rewards` section describes, for `with`.

    The functions' output goes to the file `log_path`, if given. Without `load_models`, functions that hold a model are
    left out: a plan loads no weights. Raises RewardError (see resolve.resolve_all).
    """
    specs = resolve_all(rewards.functions) if rewards.functions else []  # environments give rewards, too
    return RewardPool(
        [spec for spec in specs if load_models or not spec.alone],
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
    tokenizer: PreTrainedTokenizerBase | None,
    pool: RewardPool | None,
    *,
    scoring: Scoring | None = None,
) -> list[Group]:
    """A Group for each prompt, in order, with the rewards (or failures) of its completions; unscored without a pool.

    Reward functions get text without special tokens, in a message if the prompt is conversational; tokens are not
    changed. Rewards are neither scaled nor shaped. Without a tokenizer, completions have their text. Raises RewardError
    (see RewardPool.score).
    """
    pairs = [(p, c) for p, group in zip(prompts, completions, strict=True) for c in group]
    prefills = [""] * len(prompts)
    if tokenizer is None:
        texts = [c.text if isinstance(c, EndpointCompletion) else "" for _, c in pairs]
    else:
        texts = tokenizer.batch_decode([list(c.tokens) for _, c in pairs], skip_special_tokens=True)
        prefills = prefills_of(prompts, tokenizer)
    begun = {prompt.id: prefill for prompt, prefill in zip(prompts, prefills, strict=True)}
    rollouts = [
        Rollout(p, c, text, prefill=begun[p.id], failure=c.failure if is_unanswered(c) else None)
        for (p, c), text in zip(pairs, texts, strict=True)
    ]
    answered = [rollout for rollout in rollouts if rollout.failure is None]
    if pool is not None and answered:
        size = max(map(len, completions)) if len(answered) == len(rollouts) else 1
        await score_rollouts(answered, pool, size, scoring=scoring)
    rest = iter(rollouts)
    return [Group(p.id, [next(rest) for _ in group]) for p, group in zip(prompts, completions, strict=True)]


def is_unanswered(completion: Completion) -> TypeGuard[EndpointCompletion]:
    """Whether an endpoint did not give this answer."""
    return isinstance(completion, EndpointCompletion) and completion.failure is not None


def check_answered(completions: Sequence[Sequence[Completion]], allowed: float) -> None:
    """Raise RewardError if an endpoint did not give more than the fraction `allowed` of its answers."""
    every = [completion for group in completions for completion in group]
    failures = FailureBudget(allowed, len(every))
    for number, completion in enumerate(every):
        if is_unanswered(completion):
            failures.add(number, completion.failure or "")
    failures.check("answers were not given", "", fix="See to the endpoint")


def apply_reward_shaping(groups: Sequence[Group], cfg: OnlineConfig) -> None:
    """Scale and shape rewards and exclude truncated rollouts, according to `cfg.algorithm`. Raises ConfigError (see
    reward_shaping.shape_reward)."""
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        truncated = rollout.completion.finish == "length"
        if rollout.reward is not None and isinstance(cfg, RLConfig):
            rollout.reward = shape_reward(
                rollout.reward, len(rollout.completion.tokens), truncated, cfg.algorithm
            )
        if truncated and cfg.algorithm.overlong_filtering:
            rollout.excluded = "truncated"


async def score_rollouts(
    rollouts: Sequence[Rollout],
    pool: RewardPool,
    group_size: int = 1,
    *,
    scoring: Scoring | None = None,
) -> None:
    """Set the rewards, extra columns and failures of rollouts. Raises RewardError (see RewardPool.score)."""
    columns = columns_of([rollout.prompt.row for rollout in rollouts])
    columns["prefills"] = [rollout.prefill for rollout in rollouts]
    if not any(isinstance(r.completion, EndpointCompletion) and not r.completion.tokens for r in rollouts):
        columns["completion_ids"] = [list(rollout.completion.tokens) for rollout in rollouts]
    prompts = [rollout.prompt.content for rollout in rollouts]
    sources = [(rollout.prompt.dataset, rollout.prompt.env) for rollout in rollouts]
    texts = [_as_prompted(rollout) for rollout in rollouts]
    scores = await pool.score(prompts, texts, columns, group_size, sources, scoring=scoring)
    judges = [spec.name for spec in pool.specs if spec.judges]
    for rollout, scored in zip(rollouts, scores, strict=True):
        rollout.rewards, rollout.reward, rollout.failure = scored.rewards, scored.reward, scored.failure
        rollout.extra, rollout.weights = scored.extra, dict(scored.weights)
        rollout.judge = next((name for name in judges if scored.rewards.get(name) is not None), "")


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns with a value for each row: None if a row lacks the column (mixed datasets)."""
    names = dict.fromkeys(name for row in rows for name in row if name not in _NOT_COLUMNS)
    return {name: [row.get(name) for row in rows] for name in names}


def _as_prompted(rollout: Rollout) -> str | list[dict[str, Any]]:
    if rollout.messages is not None:
        return rollout.messages
    if isinstance(rollout.prompt.content, str):
        return rollout.text
    return [{"role": "assistant", "content": rollout.text}]
