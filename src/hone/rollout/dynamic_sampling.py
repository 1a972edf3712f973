"""Dynamic sampling (DAPO, arXiv 2503.14476 eq. 11): prompts are drawn until enough of their groups can be learnt from.

A group all of whose rewards are equal has advantages of zero: it costs a place in the batch and teaches nothing. Such
groups are left out, and further prompts drawn in their place, a batch at a time:

    first batch     the groups that are wanted, times `batch_multiplier`
    further ones    what is missing over the share that was kept so far, at most as many as the first

What comes is a function of the data's order and of the rewards alone, and the position in the data is a count of draws:
a run that is killed draws the same prompts again. Groups beyond those wanted are thrown away (by the next step they
would be of older weights). All of this is counted.
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
"""What a reward of a rollout, by its name, counts."""
GroupKind = Literal["informative", "all_right", "all_wrong", "all_failed"]


@dataclass(frozen=True)
class DynamicSamplingSpec:
    """How much a step is to have, and what may be spent on it."""

    groups: int
    max_batches: int
    multiplier: float = 1.0
    weight: Weight | None = None
    """Where rewards are learnt from one by one (gdpo): what each counts. Equal sums of unequal rewards can then be
    learnt from, and differences in one of weight 0 cannot. None: their sum is learnt from."""

    @classmethod
    def of(cls, loop: RLSection, weight: Weight | None) -> DynamicSamplingSpec:
        """As a run's settings have it."""
        most = loop.dynamic_sampling_max_gen_batches
        return cls(loop.num_prompts_per_step, most, loop.batch_multiplier, weight)

    @property
    def batch(self) -> int:
        """Prompts of a batch at most."""
        return max(self.groups, round(self.groups * self.multiplier))


@dataclass
class DynamicSamplingResult:
    """The groups of a step. `rollout.excluded` of those that are not trained on says why."""

    groups: list[Group] = field(default_factory=list)
    """To train on: as many as wanted, unless the batches or the data ended before."""
    drawn: list[Group] = field(default_factory=list)
    """All that were sampled, in order."""
    batches: int = 0
    counts: dict[GroupKind, int] = field(default_factory=dict)
    missing: int = 0
    surplus: int = 0

    def metrics(self) -> dict[str, float]:
        """What dynamic sampling cost."""
        rewards = [r.reward for group in self.groups for r in group.rollouts if r.reward is not None]
        return {
            "dynamic_sampling_num_gen_batches": float(self.batches),
            "dynamic_sampling_num_discarded_valid_samples": float(self.surplus),
            "groups_drawn": float(len(self.drawn)),
            "groups_missing": float(self.missing),
            **{
                f"groups_{kind}": float(self.counts.get(kind, 0))
                for kind in ("all_right", "all_wrong", "all_failed")
            },
            "filtered_reward": sum(rewards) / len(rewards) if rewards else float("nan"),
        }

    def summary(self) -> str:
        """What came instead of groups to learn from, and which reward functions told nothing apart."""
        found = ", ".join(
            f"{self.counts.get(kind, 0)} {kind.replace('_', ' ')}" for kind in ("all_right", "all_wrong")
        )
        failed = self.counts.get("all_failed", 0)
        return f"{found}{f', {failed} failed' if failed else ''}{describe_constant_rewards(self.drawn)}"


def describe_constant_rewards(groups: Sequence[Group]) -> str:
    """ "; reward function 'f' is 0 for all 64 completions" of each that never gave two values; empty without any."""
    judged: dict[str, list[float]] = {}
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        for name, value in rollout.rewards.items():
            if value is not None:
                judged.setdefault(name, []).append(value)
    return "".join(
        f"; reward function '{name}' is {values[0]:g} for all {len(values)} completions"
        for name, values in judged.items()
        if len(values) > 1 and len(set(values)) == 1
    )


def classify_group(group: Group, weight: Weight | None = None) -> GroupKind:
    """Whether there is something to learn from a group: its rewards differ, and so do those that a function gave (what
    only a penalty on length tells apart is not what dynamic sampling is for). `weight`: see DynamicSamplingSpec.

    Else whether it is all right (see Rollout.right) or all wrong.
    """
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
    wanted: DynamicSamplingSpec,
    last: Callable[[], bool] = lambda: False,
) -> DynamicSamplingResult:
    """Draw prompts and sample for them until `wanted.groups` groups can be learnt from, the batches are spent, or there
    are no more prompts. `draw` gives fewer prompts than asked for, then none, at the end of the data. `last` says then
    whether a step may have no groups, as the last of a run that has learnt before.

    Raises TrainingError where the batches, or the data, are spent without one group to learn from.
    """
    found = DynamicSamplingResult()
    kept: list[Group] = []
    while len(kept) < wanted.groups and found.batches < wanted.max_batches:
        prompts = draw(_next_batch(len(kept), len(found.drawn), wanted))
        if not prompts:
            break
        found.batches += 1
        for group in await sample(prompts):
            kind = classify_group(group, wanted.weight)
            found.counts[kind] = found.counts.get(kind, 0) + 1
            found.drawn.append(group)
            if kind == "informative":
                kept.append(group)
            else:
                _exclude(group, kind)
    if not kept and not last():
        every = "" if found.batches == wanted.max_batches else ", all the data,"
        raise TrainingError(
            f"no group of {len(found.drawn)} in {found.batches} batches{every} has unequal rewards "
            f"({found.summary()}): "
            "nothing can be learnt from them. Give prompts that are neither too easy nor too hard, raise "
            "num_generations_per_prompt or dynamic_sampling_max_gen_batches, or stop earlier with "
            "stop_at_validation_metric"
        )
    found.groups, beyond = kept[: wanted.groups], kept[wanted.groups :]
    for group in beyond:
        _exclude(group, "surplus")
    found.surplus = sum(len(group.rollouts) for group in beyond)
    found.missing = wanted.groups - len(found.groups)
    return found


def _next_batch(kept: int, drawn: int, wanted: DynamicSamplingSpec) -> int:
    if not drawn or not kept:
        return wanted.batch
    missing = wanted.groups - kept
    return min(wanted.batch, math.ceil(missing * drawn / kept))


def _exclude(group: Group, why: str) -> None:
    for rollout in group.rollouts:
        rollout.excluded = rollout.excluded or why
