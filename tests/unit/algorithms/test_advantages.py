"""GAE, whitening and the estimators that compare completions, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import make_groups
from torch import Tensor

from hone.algorithms import policy_loss
from hone.algorithms.advantages import (
    GroupBaseline,
    adaptive_lambda,
    by_group,
    compute_advantages,
    gae,
    reinforce_plus_plus,
    scaled,
    whiten,
)
from hone.types import Group

# Four tokens: a charge of 0.1 on the second, a reward of 1 at the end; values of the state before each.
REWARDS = [0.0, -0.1, 0.0, 1.0]
VALUES = [0.5, 0.4, 0.6, 0.2]


def one_row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def gae_of(gamma: float, lam: float) -> list[float]:
    lambda_S = torch.tensor([lam], dtype=torch.float64)
    return gae(one_row(REWARDS), one_row(VALUES), gamma=gamma, lambda_S=lambda_S)[0].tolist()


def test_gae_of_four_tokens_by_hand() -> None:
    """gamma 0.9, lambda 0.5, so 0.45 from one token to the next.

    delta_4 = 1 - 0.2 = 0.8
    delta_3 = 0.9 * 0.2 - 0.6 = -0.42
    delta_2 = -0.1 + 0.9 * 0.6 - 0.4 = 0.04
    delta_1 = 0.9 * 0.4 - 0.5 = -0.14
    A_4 = 0.8, A_3 = -0.42 + 0.36 = -0.06, A_2 = 0.04 - 0.027 = 0.013, A_1 = -0.14 + 0.00585 = -0.13415
    """
    assert gae_of(0.9, 0.5) == pytest.approx([-0.13415, 0.013, -0.06, 0.8], abs=1e-15)


def test_lambda_and_gamma_of_one_are_return_minus_value() -> None:
    # returns: 0.9, 0.9, 1, 1
    expected = [0.9 - 0.5, 0.9 - 0.4, 1 - 0.6, 1 - 0.2]
    assert gae_of(1.0, 1.0) == pytest.approx(expected, abs=1e-15)


def test_lambda_of_zero_is_one_step_ahead() -> None:
    # r_t + V_(t+1) - V_t
    assert gae_of(1.0, 0.0) == pytest.approx([-0.1, -0.1 + 0.2, -0.4, 0.8], abs=1e-15)


def test_shorter_sequences_are_not_touched_by_what_pads_them() -> None:
    """Two tokens, reward 1, values 0.3 and 0.6, lambda 0.5: A_2 = 0.4, A_1 = 0.6 - 0.3 + 0.5 * 0.4 = 0.5."""
    rewards = torch.tensor([REWARDS, [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    values = torch.tensor([VALUES, [0.3, 0.6, 0.0, 0.0]], dtype=torch.float64)
    found = gae(rewards, values, gamma=1.0, lambda_S=torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx(gae_of(1.0, 1.0), abs=1e-15)
    assert found[1].tolist() == pytest.approx([0.5, 0.4, 0.0, 0.0], abs=1e-15)


def test_values_that_are_right_leave_no_advantage() -> None:
    found = gae(one_row([0, 0, 0.7]), one_row([0.7] * 3), gamma=1.0, lambda_S=torch.tensor([0.3]))
    assert found.abs().max() < 1e-15


def test_adaptive_lambda_by_hand() -> None:
    # alpha 0.05: 1 - 1 / (0.05 * 100) = 0.8; 400 tokens: 0.95; 10 tokens: 1 - 2 is no lambda
    assert adaptive_lambda(torch.tensor([100, 400, 10]), 0.05).tolist() == pytest.approx([0.8, 0.95, 0.0])


def test_whitening_by_hand() -> None:
    """1, 2, 6: mean 3, deviations -2, -1, 3, so a variance of 14 / 2 = 7."""
    found = whiten(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64), eps=0.0)
    assert found.tolist() == pytest.approx([-2 / math.sqrt(7), -1 / math.sqrt(7), 3 / math.sqrt(7)])


def test_whitening_what_is_equal_is_exactly_zero() -> None:
    assert whiten(torch.full((7,), 0.1 + 0.2, dtype=torch.float64)).tolist() == [0.0] * 7
    assert whiten(torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64)).tolist() == [0.0, 0.0]
    assert whiten(torch.tensor([5.0])).tolist() == [0.0]


def test_scaling_keeps_signs_and_zeros() -> None:
    found = scaled(torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64), eps=0.0)
    # mean 2/3, variance (4/9 + 4/9 + 16/9) / 2 = 4/3
    assert found.tolist() == pytest.approx([0.0, 0.0, 2 / math.sqrt(4 / 3)])
    assert scaled(torch.tensor([2.0, 2.0])).tolist() == [2.0, 2.0]


def advantages_of(groups: list[Group]) -> list[list[float | None]]:
    return [[rollout.advantage for rollout in group.rollouts] for group in groups]


def test_rloo_by_hand() -> None:
    """Rewards 1, 0, 0.5: the others' means are 0.25, 0.75, 0.5. Nothing is divided; a failure is no part of it."""
    groups = make_groups([[1.0, 0.0, None, 0.5], [3.0, 1.0]])
    by_group(groups, GroupBaseline("rloo", normalize=True))
    assert advantages_of(groups) == [[0.75, -0.75, None, 0.0], [2.0, -2.0]]


def test_rloo_of_constant_rewards_is_exactly_zero() -> None:
    groups = make_groups([[0.1 + 0.2, 0.3, 0.3]])
    by_group(groups, GroupBaseline("rloo"))
    assert advantages_of(groups) == [[0.0, 0.0, 0.0]]


def of_lengths(rewards: list[list[float | None]], lengths: list[list[int]]) -> list[Group]:
    groups = make_groups(rewards, longest=8)
    for group, wanted in zip(groups, lengths, strict=True):
        for rollout, length in zip(group.rollouts, wanted, strict=True):
            tokens, logprobs = (5,) * length, (-1.0,) * length
            rollout.completion = type(rollout.completion).of_version(tokens, logprobs, "stop", 0)
    return groups


def columns_of(
    groups: list[Group], baseline: GroupBaseline, kl_penalty: float | None = None
) -> list[list[float]]:
    samples = policy_loss.samples_per_rollout(groups)
    kl_penalties = [
        None if sample is None or kl_penalty is None else torch.full((sample.num_targets,), kl_penalty)
        for sample in samples
    ]
    compute_advantages(groups, samples, kl_penalties, baseline)
    return [sample.token_columns["advantage"].tolist() for sample in samples if sample is not None]


def test_reinforce_plus_plus_by_hand() -> None:
    """Rewards 1 and 0 of one and three tokens: tokens 1, 0, 0, 0 have mean 1/4 and variance (9/16 + 3/16) / 3 = 1/4."""
    found = columns_of(
        of_lengths([[1.0, None, 0.0]], [[1, 2, 3]]),
        GroupBaseline("reinforce_plus_plus", minus_baseline=False),
    )
    assert found[0] == pytest.approx([1.5], rel=1e-5)
    assert found[1] == pytest.approx([-0.5] * 3, rel=1e-5)


def test_reinforce_plus_plus_with_its_baseline_by_hand() -> None:
    """Groups (1, 0) and (5, 5), two tokens each: minus the groups' means 1/2, -1/2, 0, 0, with variance
    (4 * 1/4) / 7 over 8 tokens."""
    groups = of_lengths([[1.0, 0.0], [5.0, 5.0]], [[2, 2], [2, 2]])
    found = columns_of(groups, GroupBaseline("reinforce_plus_plus", minus_baseline=True))
    unit = 0.5 / math.sqrt(1 / 7)
    assert found[0] == pytest.approx([unit] * 2, rel=1e-5)
    assert found[1] == pytest.approx([-unit] * 2, rel=1e-5)
    assert found[2] == found[3] == [0.0, 0.0]
    assert groups[0].rollouts[0].advantage == pytest.approx(unit, rel=1e-5)  # as it is written down


def test_reinforce_plus_plus_charges_what_follows_a_token() -> None:
    """One completion of three tokens, reward 0, 0.1 a token: returns -0.3, -0.2, -0.1; mean -0.2, std 0.1."""
    found = columns_of(
        of_lengths([[0.0]], [[3]]),
        GroupBaseline("reinforce_plus_plus", minus_baseline=False),
        kl_penalty=0.1,
    )
    assert found[0] == pytest.approx([-1.0, 0.0, 1.0], abs=1e-4)


def test_reinforce_plus_plus_of_constant_rewards_is_exactly_zero() -> None:
    for baseline in (False, True):
        groups = of_lengths([[0.3, 0.1 + 0.2], [0.3, 0.3]], [[1, 4], [2, 2]])
        found = columns_of(groups, GroupBaseline("reinforce_plus_plus", minus_baseline=baseline))
        assert found == [[0.0], [0.0] * 4, [0.0] * 2, [0.0] * 2]


def test_nothing_to_learn_from_is_no_error() -> None:
    assert reinforce_plus_plus([]) == []
    assert columns_of(make_groups([[None]]), GroupBaseline("reinforce_plus_plus")) == []
