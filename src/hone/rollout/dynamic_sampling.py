"""Dynamic sampling (DAPO, arXiv 2503.14476, eq. 11): prompts are drawn until enough groups are informative.

A group whose rewards are all equal has zero advantages. Such groups are excluded and replaced, one batch at a time:

    first batch      `groups` x `batch_multiplier` prompts
    later batches    missing groups / fraction kept so far; not more than in the first batch

The result depends only on the order of the data and on the rewards, and the data position counts draws: a killed run
draws the same prompts again. Surplus groups are discarded, since the next step has newer weights. Metrics count all of
these groups.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hone.config.schema import RLSection
from hone.errors import TrainingError
from hone.types import Group, Prompt, Rollout

Weight = Callable[[Rollout, str], float]
"""(rollout, name of a reward) -> weight of that reward."""
GroupClass = Literal["informative", "all_right", "all_wrong", "all_failed"]


_UNINFORMATIVE: tuple[GroupClass, ...] = ("all_right", "all_wrong", "all_failed")


@dataclass(frozen=True)
class DynamicSamplingSpec:
    """How many groups a step needs, and how many batches it may sample."""

    groups: int
    max_batches: int
    multiplier: float = 1.0
    weight: Weight | None = None
    """For algorithms that normalize each reward separately (GDPO): groups with equal sums of unequal rewards are
    informative; differences in a reward of weight 0 are not. None: only the sum counts."""

    @classmethod
    def of(cls, section: RLSection, weight: Weight | None) -> DynamicSamplingSpec:
        """From the settings of a run."""
        max_batches = section.dynamic_sampling_max_gen_batches
        return cls(section.num_prompts_per_step, max_batches, section.batch_multiplier, weight)

    @property
    def batch(self) -> int:
        """The largest number of prompts in a batch."""
        return max(self.groups, round(self.groups * self.multiplier))


@dataclass
class DynamicSamplingResult:
    """The groups of a step. `rollout.excluded` says why a rollout is not trained on."""

    groups: list[Group] = field(default_factory=list)
    """The groups to train on; fewer than requested if the batches or the data ran out."""
    drawn: list[Group] = field(default_factory=list)
    """All sampled groups, in order."""
    batches: int = 0
    counts: dict[GroupClass, int] = field(default_factory=dict)
    missing: int = 0
    surplus: int = 0

    def metrics(self) -> dict[str, float]:
        """Counts of batches and groups."""
        rewards = [r.reward for group in self.groups for r in group.rollouts if r.reward is not None]
        return {
            "dynamic_sampling_num_gen_batches": float(self.batches),
            "dynamic_sampling_num_discarded_valid_samples": float(self.surplus),
            "groups_drawn": float(len(self.drawn)),
            "groups_missing": float(self.missing),
            **{f"groups_{name}": float(self.counts.get(name, 0)) for name in _UNINFORMATIVE},
            "filtered_reward": sum(rewards) / len(rewards) if rewards else float("nan"),
        }

    def summary(self) -> str:
        """Counts of the uninformative groups, and reward functions that were constant."""
        right, wrong, failed = (self.counts.get(name, 0) for name in _UNINFORMATIVE)
        counts = f"{right} all right, {wrong} all wrong" + (f", {failed} failed" if failed else "")
        return counts + describe_constant_rewards(self.drawn)


def describe_constant_rewards(groups: Sequence[Group]) -> str:
    """For each reward function with one value only: "; reward function 'f' is 0 for all 64 completions"."""
    by_name: dict[str, list[float]] = {}
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        for name, value in rollout.rewards.items():
            if value is not None:
                by_name.setdefault(name, []).append(value)
    return "".join(
        f"; reward function '{name}' is {values[0]:g} for all {len(values)} completions"
        for name, values in by_name.items()
        if len(values) > 1 and len(set(values)) == 1
    )


def classify_group(group: Group, weight: Weight | None = None) -> GroupClass:
    """Informative if the rewards differ, and the values of the functions, too (a difference by length penalty alone
    does not count). Otherwise all right (see Rollout.right), all wrong or all failed. `weight`: see
    DynamicSamplingSpec."""
    scored = [rollout for rollout in group.rollouts if rollout.reward is not None]
    if not scored:
        return "all_failed"
    by_function = {
        tuple(pair for pair in rollout.rewards.items() if weight is None or weight(rollout, pair[0]))
        for rollout in scored
    }
    if len(by_function) > 1 and (weight is not None or len({rollout.reward for rollout in scored}) > 1):
        return "informative"
    return "all_right" if scored[0].right else "all_wrong"


async def sample_informative_groups(
    draw: Callable[[int], Sequence[Prompt]],
    sample: Callable[[Sequence[Prompt]], Awaitable[list[Group]]],
    spec: DynamicSamplingSpec,
    last: Callable[[], bool] = lambda: False,
) -> DynamicSamplingResult:
    """Draw prompts and sample completions until `spec.groups` groups are informative, or batches or prompts run out.

    At the end of the data `draw` returns fewer prompts than requested, then none. `last` says whether a step may have
    no groups (the last step of a run that has trained before). Raises TrainingError if no group is informative.
    """
    result = DynamicSamplingResult()
    kept: list[Group] = []
    while len(kept) < spec.groups and result.batches < spec.max_batches:
        prompts = draw(_next_batch(len(kept), len(result.drawn), spec))
        if not prompts:
            break
        result.batches += 1
        for group in await sample(prompts):
            group_class = classify_group(group, spec.weight)
            result.counts[group_class] = result.counts.get(group_class, 0) + 1
            result.drawn.append(group)
            if group_class == "informative":
                kept.append(group)
            else:
                exclude(group, group_class)
    if not kept and not last():
        raise no_informative_group(result, spec)
    result.groups, surplus = kept[: spec.groups], kept[spec.groups :]
    for group in surplus:
        exclude(group, "surplus")
    result.surplus = sum(len(group.rollouts) for group in surplus)
    result.missing = spec.groups - len(result.groups)
    return result


def no_informative_group(result: DynamicSamplingResult, spec: DynamicSamplingSpec) -> TrainingError:
    """The error of a step for which no group is informative."""
    every = "" if result.batches == spec.max_batches else ", all the data,"
    return TrainingError(
        f"no group of {len(result.drawn)} in {result.batches} batches{every} has unequal rewards "
        f"({result.summary()}), so all advantages are zero. Use prompts that are neither too easy nor too "
        "hard, raise num_generations_per_prompt or dynamic_sampling_max_gen_batches, or stop earlier with "
        "stop_at_validation_metric"
    )


def _next_batch(kept: int, drawn: int, spec: DynamicSamplingSpec) -> int:
    if not drawn or not kept:
        return spec.batch
    return min(spec.batch, math.ceil((spec.groups - kept) * drawn / kept))


def exclude(group: Group, why: str) -> None:
    """Leave a group out of the training, for this reason."""
    for rollout in group.rollouts:
        rollout.excluded = rollout.excluded or why
