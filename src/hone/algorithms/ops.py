"""Pure tensor functions that algorithms share. Suffixes: `_N` target tokens, `_S` sequences, `_G` one group."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hone.errors import TrainingError
from hone.types import Batch, Totals

KLType = Literal["k1", "k2", "k3"]

REWARD_NOISE = 1e-12
"""Rewards closer than this (relative to the larger of 1 and their size) differ by rounding alone: 0.1 + 0.2 and 0.3."""


def all_equal(values: Tensor) -> bool:
    """Whether the values are equal up to the rounding of fp64 sums (REWARD_NOISE)."""
    return float(values.max() - values.min()) <= REWARD_NOISE * max(1.0, float(values.abs().max()))


def group_advantages(
    rewards_G: Tensor,
    *,
    leave_one_out: bool,
    normalize: bool,
    limits: tuple[float | None, float | None] = (None, None),
    eps: float = 1e-6,
) -> Tensor:
    """Advantage of each rollout relative to its group.

    Baseline: the group's mean (GRPO, arXiv 2402.03300 section 4.1.2), or the mean of the others (RLOO,
    arXiv 2402.14740 eq. 6), which is the same times G / (G - 1). `normalize` divides by the standard deviation
    (ddof 1) of the *whole* group plus `eps`, also under leave-one-out: the std of the others is zero beside a lone
    success, which would drop the one sample that carries the signal.

    A group whose rewards are all equal, up to the rounding of fp64 sums, gets exactly zero, never rounding noise
    divided by `eps`. `limits` bound the result from below and above.
    """
    count = rewards_G.numel()
    if count < 2 or all_equal(rewards_G):
        return torch.zeros_like(rewards_G)
    advantages_G = rewards_G - rewards_G.mean()
    if leave_one_out:
        advantages_G = advantages_G * (count / (count - 1))
    if normalize:
        advantages_G = advantages_G / (rewards_G.std() + eps)
    return advantages_G if limits == (None, None) else advantages_G.clamp(*limits)


def mean_advantages(rewards_G: Tensor, *, limits: tuple[float | None, float | None] = (None, None)) -> Tensor:
    """(r - mean) / mean of each rollout of a group (MaxRL, arXiv 2602.02710): with rewards of 0 and 1, the gradient of
    an estimate of log(success rate), that of rare successes weighs most. Zero where all rewards are equal.

    Raises TrainingError for a reward below 0: the mean is to be a success rate.
    """
    if rewards_G.numel() and float(rewards_G.min()) < 0:
        raise TrainingError(
            f"a reward is {float(rewards_G.min()):g}, but adv_estimator.name=maxrl divides by a group's mean reward, "
            "which stands for its success rate: give rewards of at least 0"
        )
    centred_G = group_advantages(rewards_G, leave_one_out=False, normalize=False)
    if not centred_G.any():
        return centred_G
    advantages_G = centred_G / rewards_G.mean()
    return advantages_G if limits == (None, None) else advantages_G.clamp(*limits)


def kl_estimate(
    logprobs_N: Tensor,
    reference_N: Tensor,
    kind: KLType,
    *,
    input_clamp: float | None = None,
    output_clamp: float | None = None,
    weight_N: Tensor | None = None,
) -> Tensor:
    """Per-token estimate of KL(policy || reference) from the policy's own samples (Schulman, "Approximating KL").

    With d = log policy - log reference: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d; times `weight_N`, if given.
    `input_clamp` bounds d, `output_clamp` the weighted estimate, both symmetric; what a bound cuts has no gradient.
    """
    difference_N = logprobs_N - reference_N
    if input_clamp is not None:
        if weight_N is not None:
            weight_N = torch.where(difference_N.abs() <= input_clamp, weight_N, weight_N.detach())
        difference_N = difference_N.clamp(-input_clamp, input_clamp)
    if kind == "k1":
        estimate_N = difference_N
    elif kind == "k2":
        estimate_N = difference_N.square() / 2
    else:
        estimate_N = torch.expm1(-difference_N) + difference_N
    if weight_N is not None:
        estimate_N = weight_N * estimate_N
    if output_clamp is not None:
        estimate_N = estimate_N.clamp(-output_clamp, output_clamp)
    return estimate_N


def aggregate(
    values_N: Tensor, batch: Batch, totals: Totals, *, token_level: bool, constant: float | None = None
) -> Tensor:
    """This batch's part of the global mean of a per-token value.

    `token_level`: every token of the global batch weighs the same (DAPO, arXiv 2503.14476 eq. 8). Otherwise every
    sequence does (GRPO eq. 3). With `constant`, each sequence's sum is divided by that constant in place of its
    length (Dr. GRPO, arXiv 2503.20783 section 3.2).
    """
    if constant is not None:
        return values_N.sum() / (constant * max(totals.sequences, 1.0))
    if token_level:
        return values_N.sum() / max(totals.tokens, 1.0)
    return batch.mean_by_sequence(values_N).sum() / max(totals.sequences, 1.0)


def sequence_log_ratio(log_ratio_N: Tensor, batch: Batch) -> Tensor:
    """Length-normalised log-ratio of each sequence, given to each of its tokens (GSPO, arXiv 2507.18071 eq. 7)."""
    return batch.per_token(batch.mean_by_sequence(log_ratio_N))
