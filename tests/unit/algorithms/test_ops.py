"""The pure tensor functions against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import make_batch

from hone.algorithms import ops
from hone.types import Totals

LN2 = math.log(2.0)


def group(rewards: list[float], *, leave_one_out: bool = False, normalize: bool = False) -> list[float]:
    tensor = torch.tensor(rewards, dtype=torch.float64)
    return ops.group_advantages(tensor, leave_one_out=leave_one_out, normalize=normalize).tolist()


def test_the_baseline_is_the_mean_of_the_group() -> None:
    # mean of (1, 0, 0, 3) is 1
    assert group([1, 0, 0, 3]) == [0.0, -1.0, -1.0, 2.0]


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    # others of 1: (0, 0, 3) mean 1 -> 0; others of 0: (1, 0, 3) mean 4/3 -> -4/3; others of 3: mean 1/3 -> 8/3
    assert group([1, 0, 0, 3], leave_one_out=True) == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3], abs=1e-15)


def test_normalised_by_the_sample_standard_deviation() -> None:
    # deviations of (1, 0, 0, 1) are +-1/2; variance 4 * 1/4 / 3 = 1/3; 1/2 * sqrt(3) = 0.8660254
    expected = [0.8660254, -0.8660254, -0.8660254, 0.8660254]
    assert group([1, 0, 0, 1], normalize=True) == pytest.approx(expected, rel=2e-6)


def test_a_lone_success_is_kept_under_leave_one_out() -> None:
    # baseline of the success: mean of (0, 0, 0) = 0 -> 1; of a failure: 1/3 -> -1/3.
    # std of (1, 0, 0, 0): (9/16 + 3/16) / 3 = 1/4 -> 1/2. The std of the success's others would be 0.
    assert group([1, 0, 0, 0], leave_one_out=True, normalize=True) == pytest.approx(
        [2, -2 / 3, -2 / 3, -2 / 3], rel=3e-6
    )


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "rewards",
    [
        [0.0] * 4,
        [0.7] * 3,  # the mean of three 0.7 is not 0.7 in binary
        [0.1 + 0.2, 0.3, 0.3],  # 0.30000000000000004 and 0.3: one sum of weights, two orders
        [0.1 + 0.2 - 0.3, 0.0],  # 5.6e-17 and 0
        [-1e6, -1e6],
        [0.1] * 10,
    ],
)
def test_a_constant_reward_gives_exactly_zero(
    rewards: list[float], leave_one_out: bool, normalize: bool
) -> None:
    assert group(rewards, leave_one_out=leave_one_out, normalize=normalize) == [0.0] * len(rewards)


def test_a_small_but_real_difference_is_not_a_constant() -> None:
    assert group([1.0, 1.0 + 1e-6]) == pytest.approx([-5e-7, 5e-7], rel=1e-6)
    assert group([0.0, 1e-9]) == pytest.approx([-5e-10, 5e-10], rel=1e-6)


def test_groups_of_one_and_none() -> None:
    assert group([5.0], leave_one_out=True, normalize=True) == [0.0]
    assert group([]) == []


# policy probability 1/2, reference 1/4: d = ln 2, exp(-d) = 1/2
#   k1 = ln 2          gradient (by the policy's log-probability) 1
#   k2 = (ln 2)^2 / 2  gradient ln 2
#   k3 = 1/2 - 1 + d   gradient 1 - exp(-d) = 1/2
@pytest.mark.parametrize(
    ("kind", "value", "gradient"),
    [("k1", LN2, 1.0), ("k2", 0.2402265, LN2), ("k3", 0.1931472, 0.5)],
)
def test_kl_estimators(kind: ops.KLType, value: float, gradient: float) -> None:
    policy = torch.tensor([math.log(0.5)], dtype=torch.float64, requires_grad=True)
    kl = ops.kl_estimate(policy, torch.tensor([math.log(0.25)], dtype=torch.float64), kind)
    kl.sum().backward()
    assert kl.item() == pytest.approx(value, rel=1e-6)
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(gradient, rel=1e-12)


# d = ln 2 clamped to 0.5: k1 0.5; k2 0.125; k3 exp(-0.5) - 0.5 = 0.1065307. A clamped input has no gradient.
@pytest.mark.parametrize(("kind", "value"), [("k1", 0.5), ("k2", 0.125), ("k3", 0.1065307)])
def test_kl_input_clamp(kind: ops.KLType, value: float) -> None:
    policy = torch.tensor([LN2], dtype=torch.float64, requires_grad=True)
    kl = ops.kl_estimate(policy, torch.zeros(1, dtype=torch.float64), kind, input_clamp=0.5)
    kl.sum().backward()
    assert kl.item() == pytest.approx(value, rel=1e-6)
    assert policy.grad is not None
    assert policy.grad.item() == 0.0


@pytest.mark.parametrize(("difference", "value"), [(LN2, 0.1), (-LN2, -0.1)])
def test_kl_output_clamp_is_symmetric(difference: float, value: float) -> None:
    policy = torch.tensor([difference], requires_grad=True)
    kl = ops.kl_estimate(policy, torch.zeros(1), "k1", output_clamp=0.1)
    kl.sum().backward()
    assert kl.item() == pytest.approx(value)
    assert policy.grad is not None
    assert policy.grad.item() == 0.0


def test_kl_of_a_token_the_reference_likes_far_more_stays_finite() -> None:
    # d = -1000: exp(1000) is infinite; clamped to exp(20) at the input and to 10 at the output
    policy = torch.tensor([-1000.0], requires_grad=True)
    kl = ops.kl_estimate(policy, torch.zeros(1), "k3", input_clamp=20.0, output_clamp=10.0)
    kl.sum().backward()
    assert kl.item() == 10.0
    assert policy.grad is not None
    assert policy.grad.item() == 0.0


def test_k3_keeps_its_digits_where_the_policies_are_close() -> None:
    # d = 1e-4: k3 = d^2/2 - d^3/6 + ... = 4.99983e-9, far below the rounding of exp(-d) - 1 in fp32 (6e-8)
    kl = ops.kl_estimate(torch.tensor([1e-4]), torch.zeros(1), "k3")
    assert kl.item() == pytest.approx(4.99983e-9, rel=2e-3)


VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])  # two sequences: (1, 2, 3) and (4, 5)


@pytest.mark.parametrize(
    ("token_level", "constant", "expected"),
    [
        (True, None, 15 / 5),
        (False, None, (2.0 + 4.5) / 2),
        (True, 10, 15 / (2 * 10)),  # Dr. GRPO: sums over the constant, mean over sequences
        (False, 10, 15 / (2 * 10)),
    ],
)
def test_aggregate(token_level: bool, constant: float | None, expected: float) -> None:
    totals = Totals(tokens=5, sequences=2)
    whole = ops.aggregate(VALUES, make_batch([3, 2]), totals, token_level=token_level, constant=constant)
    assert whole.item() == pytest.approx(expected)
    parts = [
        ops.aggregate(values, make_batch([len(values)]), totals, token_level=token_level, constant=constant)
        for values in (VALUES[:3], VALUES[3:])
    ]
    assert sum(part.item() for part in parts) == pytest.approx(expected)


def test_a_sequence_without_targets_weighs_nothing() -> None:
    totals = Totals(tokens=5, sequences=2)
    mean = ops.aggregate(VALUES, make_batch([3, 0, 2]), totals, token_level=False)
    assert mean.item() == pytest.approx(3.25)


def test_sequence_log_ratio_is_the_mean_given_to_each_token() -> None:
    # means of (1, 2, 3) and (4, 5): 2 and 4.5
    assert ops.sequence_log_ratio(VALUES, make_batch([3, 2])).tolist() == [2.0, 2.0, 2.0, 4.5, 4.5]
