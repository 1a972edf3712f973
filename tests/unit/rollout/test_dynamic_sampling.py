"""Dynamic sampling: which groups count, how many prompts are drawn, what is counted, where it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tiny import make_groups

from hone.errors import TrainingError
from hone.rollout.dynamic_sampling import (
    DynamicSamplingResult,
    DynamicSamplingSpec,
    classify_group,
    sample_informative_groups,
)
from hone.types import Group, Prompt

RIGHT, WRONG, MIXED = [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]


def group_of(rewards: Sequence[float | None], number: int = 0) -> Group:
    group = make_groups([list(rewards)])[0]
    group.id = f"draw{number}"
    for rollout in group.rollouts:
        rollout.rewards = {"answer": rollout.reward}
    return group


class Data:
    """Prompts whose groups' rewards are known beforehand."""

    def __init__(self, rewards: Sequence[Sequence[float | None]]) -> None:
        self.rewards, self.drawn, self.asked = list(rewards), 0, list[int]()

    def draw(self, count: int) -> list[Prompt]:
        self.asked.append(count)
        numbers = range(self.drawn, min(self.drawn + count, len(self.rewards)))
        self.drawn += len(numbers)
        return [Prompt(str(number), (5,), "text") for number in numbers]

    async def sample(self, prompts: Sequence[Prompt]) -> list[Group]:
        return [group_of(self.rewards[int(prompt.id)], int(prompt.id)) for prompt in prompts]


def filled(data: Data, wanted: DynamicSamplingSpec) -> DynamicSamplingResult:
    groups = sample_informative_groups(
        data.draw, data.sample, wanted, last=lambda: data.drawn == len(data.rewards)
    )
    return asyncio.run(groups)


@pytest.mark.parametrize(
    ("rewards", "kind"),
    [
        (MIXED, "informative"),
        ([0.0, 0.0, 0.0, 1.0], "informative"),  # a lone success
        (RIGHT, "all_right"),
        (WRONG, "all_wrong"),
        ([-1.0, -1.0], "all_wrong"),
        ([1.0, None], "all_right"),
        ([1.0, None, 0.0], "informative"),
        ([None, None], "all_failed"),
    ],
)
def test_groups_are_classified_by_their_rewards(rewards: list[float | None], kind: str) -> None:
    assert classify_group(group_of(rewards)) == kind


def test_what_only_shaping_tells_apart_is_filtered() -> None:
    group = group_of(RIGHT)
    group.rollouts[0].reward = 0.7  # a penalty on length
    assert classify_group(group) == "all_right"


def test_equal_sums_of_unequal_rewards_count_only_for_gdpo() -> None:
    group = group_of([1.0, 1.0])
    group.rollouts[0].rewards = {"right": 1.0, "form": 0.0}
    group.rollouts[1].rewards = {"right": 0.0, "form": 1.0}
    assert classify_group(group) == "all_right"
    assert classify_group(group, lambda rollout, name: 1.0) == "informative"
    assert classify_group(group, lambda rollout, name: 0.0) == "all_right"


def test_draws_until_enough_groups_differ() -> None:
    # four wanted: of the first four one is kept (a quarter), three are missing: 12 more would do, 4 are a batch
    data = Data([MIXED, RIGHT, WRONG, RIGHT, MIXED, MIXED, RIGHT, WRONG, MIXED, MIXED])
    found = filled(data, DynamicSamplingSpec(4, max_batches=10))
    assert data.asked == [
        4,
        4,
        3,
    ]  # of eight three are kept: for the one that is missing 8 / 3 draws, but 2 are left
    assert [group.id for group in found.groups] == ["draw0", "draw4", "draw5", "draw8"]
    assert found.batches == 3
    assert found.counts == {"informative": 5, "all_right": 3, "all_wrong": 2}
    assert (found.missing, found.surplus) == (0, 2)  # the two completions of the last group are thrown away
    assert [r.excluded for r in found.drawn[1].rollouts] == ["all_right"] * 2
    assert [r.excluded for r in found.drawn[9].rollouts] == ["surplus"] * 2
    assert [r.excluded for r in found.drawn[0].rollouts] == [None] * 2


def test_a_full_first_batch_is_the_last() -> None:
    data = Data([MIXED] * 9)
    found = filled(data, DynamicSamplingSpec(4, max_batches=10, multiplier=1.5))
    assert data.asked == [6]
    assert (len(found.groups), found.surplus, data.drawn) == (4, 4, 6)


def test_dynamic_sampling_ends_at_the_maximum_of_batches() -> None:
    data = Data([RIGHT, MIXED] * 50)
    found = filled(data, DynamicSamplingSpec(10, max_batches=1))
    assert (len(found.groups), found.missing, found.batches) == (5, 5, 1)
    with pytest.raises(TrainingError, match=r"no group of 100 in 10 batches .*70 all right, 30 all wrong"):
        filled(Data([RIGHT] * 70 + [WRONG] * 50), DynamicSamplingSpec(10, max_batches=10))


def test_dynamic_sampling_ends_with_the_data() -> None:
    data = Data([MIXED, RIGHT, RIGHT])
    found = filled(data, DynamicSamplingSpec(2, max_batches=10))
    assert (len(found.groups), found.missing, found.batches) == (1, 1, 2)
    found = filled(data, DynamicSamplingSpec(2, max_batches=10))
    assert (found.groups, found.drawn, found.batches) == ([], [], 0)


def test_data_without_anything_to_learn_from_are_an_error_that_names_the_reward() -> None:
    """Of a run that has not learnt anything yet: its weights would be those it began with."""
    data = Data([WRONG, WRONG, WRONG])
    why = (
        r"no group of 3 in 2 batches, all the data, has unequal rewards "
        r"\(0 all right, 3 all wrong; reward function 'answer' is 0 for all 6 completions\)"
    )
    with pytest.raises(TrainingError, match=why):
        asyncio.run(
            sample_informative_groups(
                data.draw, data.sample, DynamicSamplingSpec(2, max_batches=10), last=lambda: False
            )
        )


def test_metrics_count_every_group() -> None:
    metrics = filled(
        Data([MIXED, RIGHT, WRONG, MIXED, [None, None], MIXED]), DynamicSamplingSpec(3, max_batches=3)
    ).metrics()
    assert metrics == {
        "dynamic_sampling_num_gen_batches": 2.0,
        "dynamic_sampling_num_discarded_valid_samples": 0.0,
        "groups_drawn": 6.0,
        "groups_missing": 0.0,
        "groups_all_right": 1.0,
        "groups_all_wrong": 1.0,
        "groups_all_failed": 1.0,
        "filtered_reward": 0.5,
    }
