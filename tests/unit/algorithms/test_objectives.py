"""GDPO and MaxRL: advantages against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from tiny import grpo_config, make_groups, make_learner, make_model, run

from hone.algorithms import grpo
from hone.algorithms.advantages import GroupBaseline, by_group, gdpo
from hone.config.schema.grpo import GRPOSection
from hone.config.schema.run import RewardFunctionConfig
from hone.errors import TrainingError
from hone.rollout.environments.episode_result import EpisodeResult, add_rewards
from hone.rollout.rewards.resolve import resolve_all
from hone.types import Group


def advantages_of(groups: list[Group]) -> list[list[float | None]]:
    return [[rollout.advantage for rollout in group.rollouts] for group in groups]


# ---- MaxRL ----


def test_maxrl_by_hand() -> None:
    # a lone success of four: mean 1/4, (1 - 1/4) / (1/4) = 3, and -1 for the others; two of two: nothing
    groups = make_groups([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0], [1.0, None, 0.0]])
    by_group(groups, GroupBaseline("maxrl"))
    assert advantages_of(groups) == [[3.0, -1.0, -1.0, -1.0], [0.0, 0.0], [1.0, None, -1.0]]


def test_maxrl_weighs_rare_successes_most() -> None:
    """The sum over successes of A is (1 - p) N, whatever p: each success counts as 1 / p does."""
    for successes in (1, 2, 5):
        groups = make_groups([[1.0] * successes + [0.0] * (8 - successes)])
        by_group(groups, GroupBaseline("maxrl"))
        assert groups[0].rollouts[0].advantage == pytest.approx(8 / successes - 1)


def test_maxrl_without_a_success_is_exactly_zero() -> None:
    groups = make_groups([[0.0, 0.0, 0.0], [0.1 + 0.2, 0.3]])
    by_group(groups, GroupBaseline("maxrl"))
    assert advantages_of(groups) == [[0.0, 0.0, 0.0], [0.0, 0.0]]


def test_maxrl_refuses_negative_rewards() -> None:
    with pytest.raises(TrainingError, match="a reward is -1"):
        by_group(make_groups([[1.0, -1.0]]), GroupBaseline("maxrl"))


def test_maxrl_within_limits() -> None:
    groups = make_groups([[1.0, 0.0, 0.0, 0.0]])
    by_group(groups, GroupBaseline("maxrl", limits=(-0.5, 2.0)))
    assert advantages_of(groups) == [[2.0, -0.5, -0.5, -0.5]]


# ---- GDPO ----


def with_parts(parts: list[list[dict[str, float | None]]]) -> list[Group]:
    groups = make_groups([[0.0] * len(group) for group in parts])
    for group, rewards in zip(groups, parts, strict=True):
        for rollout, found in zip(group.rollouts, rewards, strict=True):
            rollout.rewards, rollout.weights = found, dict.fromkeys(found, 1.0)
            rollout.reward = sum(value for value in found.values() if value is not None)
    return groups


ROOT = math.sqrt(0.5)
"""Of two rewards 1 and 0 the standard deviation is sqrt(1/2): normalised they are +-1/2 / sqrt(1/2) = +-sqrt(1/2)."""


def test_gdpo_by_hand() -> None:
    """Right but ill-formed against wrong but well-formed: GRPO sees 1 and 1, GDPO sees both.

    Group 1: right 1, 0 -> +-ROOT; form 0, 1 -> -+ROOT; with weights 2 and 1: +-ROOT. Group 2: right alone differs:
    +-2 ROOT. Sums ROOT, -ROOT, 2 ROOT, -2 ROOT: mean 0, variance (0.5 + 0.5 + 2 + 2) / 3 = 5/3.
    """
    groups = with_parts(
        [
            [{"right": 1.0, "form": 0.0}, {"right": 0.0, "form": 1.0}],
            [{"right": 1.0, "form": 1.0}, {"right": 0.0, "form": 1.0}],
        ]
    )
    baseline = GroupBaseline("gdpo", normalize=True, weights=(("right", 2.0), ("form", 1.0)))
    gdpo(groups, baseline)
    expected = [value * ROOT / math.sqrt(5 / 3) for value in (1, -1, 2, -2)]
    found = [value for group in advantages_of(groups) for value in group]
    assert found == pytest.approx(expected, rel=1e-5)


def test_gdpo_tells_apart_what_a_sum_does_not() -> None:
    """Sums (2, 0) and (1, 0) are the same to GRPO, which normalises them alike."""
    parts: list[list[dict[str, float | None]]] = [
        [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}],
        [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}],
    ]
    by_sum, apart = with_parts(parts), with_parts(parts)
    by_group(by_sum, GroupBaseline("grpo", normalize=True))
    assert by_sum[0].rollouts[0].advantage == pytest.approx(by_sum[1].rollouts[0].advantage, rel=1e-5)
    gdpo(apart, GroupBaseline("gdpo", normalize=True))
    one, other = (group.rollouts[0].advantage for group in apart)
    assert one == pytest.approx(2 * (other or 0.0), rel=1e-5)


def test_gdpo_of_constant_rewards_is_exactly_zero() -> None:
    constant: list[dict[str, float | None]] = [{"a": 0.1 + 0.2, "b": 1.0}, {"a": 0.3, "b": 1.0}]
    differing: list[dict[str, float | None]] = [
        {"a": 0.3, "b": 0.7},
        {"a": 0.2, "b": 1.9},
        {"a": 0.1, "b": 0.3},
    ]
    groups = with_parts([constant, differing])
    gdpo(groups, GroupBaseline("gdpo", normalize=True))
    assert advantages_of(groups)[0] == [0.0, 0.0]
    assert all(advantages_of(groups)[1])
    groups = with_parts([constant])
    gdpo(groups, GroupBaseline("gdpo", normalize=True))
    assert advantages_of(groups) == [[0.0, 0.0]]


def test_a_function_that_does_not_apply_is_no_part_of_its_comparison() -> None:
    groups = with_parts([[{"a": 1.0, "b": None}, {"a": 0.0, "b": 3.0}, {"a": 0.0, "b": 1.0}]])
    groups[0].rollouts.append(make_groups([[None]])[0].rollouts[0])  # and a failed one takes no part at all
    gdpo(groups, GroupBaseline("gdpo"))
    # a: 2/3, -1/3, -1/3; b: -, 1, -1. Sums 2/3, 2/3, -4/3: variance (4/9 + 4/9 + 16/9) / 2 = 4/3
    expected = [2 / 3, 2 / 3, -4 / 3]
    found = advantages_of(groups)[0]
    assert found[:3] == pytest.approx([value / math.sqrt(4 / 3) for value in expected], rel=1e-5)
    assert found[3] is None


def test_weights_are_those_that_a_rollout_was_scored_with() -> None:
    """Also an environment's own, of which no list of functions knows. Right and form differ by +-1/2, the environment's
    by -+1/2: 2 and 1/2 of them are +-3/4, with standard deviation sqrt(9/8)."""
    groups = with_parts([[{"right": 1.0}, {"right": 0.0}]])
    for rollout, of_env in zip(groups[0].rollouts, (0.0, 1.0), strict=True):
        rollout.weights = {"right": 2.0}
        add_rewards([EpisodeResult(rollout, "Shop", of_env, weight=0.5)], "")
    gdpo(groups, GroupBaseline("gdpo"))
    size = (2 * 0.5 - 0.5 * 0.5) / math.sqrt(9 / 8)
    assert advantages_of(groups)[0] == pytest.approx([size, -size], rel=1e-5)


def test_a_reward_without_a_weight_is_an_error_not_a_weight_of_one() -> None:
    groups = with_parts([[{"right": 1.0}, {"right": 0.0}]])
    groups[0].rollouts[0].weights = {"rihgt": 2.0}
    with pytest.raises(TrainingError, match="reward 'right' of draw0 has no weight"):
        gdpo(groups, GroupBaseline("gdpo"))


def test_given_weights_go_by_the_alphabetical_order_of_the_functions_names() -> None:
    entries = [{"name": "right", "path": "answer"}, {"name": "exact"}, {"path": "my.module.form"}]
    functions = [RewardFunctionConfig(**entry) for entry in entries]
    section = GRPOSection(adv_estimator={"name": "gdpo", "reward_weights": [5.0, 7.0, 9.0]})
    baseline = grpo.baseline_of(section, functions)
    assert baseline.weights == (("exact", 5.0), ("form", 7.0), ("right", 9.0))
    assert sorted(spec.name for spec in resolve_all(entries)) == [name for name, _ in baseline.weights]


@pytest.mark.parametrize("name", ["gdpo", "maxrl"])
def test_a_step_learns_from_them(name: str) -> None:
    config = grpo_config(
        policy={"train_global_batch_size": 4},
        grpo={"adv_estimator": {"name": name}},
        loss_fn={"reference_policy_kl_penalty": 0.0},
    )
    groups = with_parts([[{"a": 1.0}, {"a": 0.0}], [{"a": 1.0}, {"a": 1.0}]])
    learner = make_learner(make_model("llama"), config.policy)
    metrics = run(grpo.step(learner, None, groups, config))
    assert metrics["grad_norm"] > 0
    assert [rollout.advantage for rollout in groups[1].rollouts] == [0.0, 0.0]
