"""The gap between the generator's and the learner's log-probabilities: how large it is, and weights that correct it.

With d = log pi_old(learner) - log pi(generator) of each token, before the rollout's first update:

    token_mult_prob_error   mean exp |d|            gen_kl_error      mean exp(d) - 1 - d, KL(generator || learner)
    generation_mismatch     mean |d|                policy_kl_error   mean exp(-d) - 1 + d, KL(learner || generator)
    js_divergence_error     half the k3 of each to their mixture

The names are NeMo RL's. The KL estimates are k3, which are unbiased for samples of the first distribution; the samples
here are the generator's. Shapes: `_N` target tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hone.algorithms import ops
from hone.config.schema import LossConfig
from hone.errors import TrainingError
from hone.types import Batch, Totals


def old_logprobs(logprobs_N: Tensor, batch: Batch, config: LossConfig, *, on_policy: bool) -> Tensor:
    """Log-probabilities under the weights before the first update: the present ones only if the samples are
    `on_policy`. Raises TrainingError for samples of unknown weights."""
    known = "old_logprobs" in batch.token_columns
    if config.force_on_policy_ratio or (on_policy and not known):
        return logprobs_N.detach()
    if not known:
        raise TrainingError(
            f"samples {', '.join(batch.ids[:4])} have no old_logprobs and are not known to be on-policy: their ratios "
            "would be 1. Score them before the first update, or set "
            "loss_fn.force_on_policy_ratio=true"
        )
    return batch.token_columns["old_logprobs"]


def mismatch(learner_N: Tensor, generator_N: Tensor) -> dict[str, Tensor]:
    """Distances between the two log-probabilities of each token, [N]."""
    learner_N, generator_N = learner_N.detach(), generator_N.detach()
    gap_N = learner_N - generator_N
    mixture_N = torch.logaddexp(learner_N, generator_N) - math.log(2)
    to_learner_N = ops.kl_estimate(mixture_N, learner_N, "k3")
    to_generator_N = ops.kl_estimate(mixture_N, generator_N, "k3")
    return {
        "generation_mismatch": gap_N.abs(),
        "token_mult_prob_error": gap_N.abs().exp(),
        "gen_kl_error": ops.kl_estimate(generator_N, learner_N, "k3"),
        "policy_kl_error": ops.kl_estimate(learner_N, generator_N, "k3"),
        "js_divergence_error": (to_learner_N + to_generator_N) / 2,
    }


@dataclass(frozen=True)
class Correction:
    """Weights of the tokens' losses, without gradient."""

    weight_N: Tensor
    ratio_N: Tensor
    """The weight before it was limited."""
    outside_N: Tensor
    """Whether the limits changed it."""
    by_sequence: bool
    """Whether the limits apply to whole sequences."""

    def metrics(self, batch: Batch, totals: Totals) -> dict[str, Tensor]:
        """The mean weight, and the share of tokens (or sequences) that the limits changed."""
        outside_N = self.outside_N.to(self.weight_N.dtype)
        if self.by_sequence:
            outside = batch.mean_by_sequence(outside_N).sum() / max(totals.sequences, 1.0)
        else:
            outside = outside_N.sum() / max(totals.tokens, 1.0)
        return {
            "sampling_importance_ratio": self.weight_N.sum() / max(totals.tokens, 1.0),
            "is_oob_ratio": outside,
        }


def corrected(gap_N: Tensor, batch: Batch, config: LossConfig) -> Correction:
    """The configured weights for d [N].

    The ratio is the token's, exp(d), or its sequence's, exp(sum d). Without a limit it is the weight. "tis" (and
    None) clamps it to [low, high] (truncated importance sampling; Yao et al. 2025, "Your Efficient RL Framework
    Secretly Brings You Off-Policy RL Training"). "icepop" sets it to 0 outside (Ring-1T). "seq-mask-tis" sets it to 0
    in sequences whose geometric mean, exp(mean d), lies outside."""
    level = config.truncated_importance_sampling_level
    by_sequence = config.sequence_level_importance_ratios if level is None else level == "sequence"
    gap_N = gap_N.detach()
    geometric_N = ops.sequence_log_ratio(gap_N, batch)
    ratio_N = (batch.per_token(batch.sum_by_sequence(gap_N)) if by_sequence else gap_N).exp()
    high, low = config.truncated_importance_sampling_ratio, config.truncated_importance_sampling_ratio_min
    if high is None:
        return Correction(ratio_N, ratio_N, torch.zeros_like(ratio_N, dtype=torch.bool), by_sequence)
    kind, low = config.truncated_importance_sampling_type, low or 0.0
    judged_N = geometric_N.exp() if kind == "seq-mask-tis" else ratio_N
    outside_N = (judged_N < low) | (judged_N > high)
    if kind in (None, "tis"):
        weight_N = ratio_N.clamp(low, high)
    else:
        weight_N = torch.where(outside_N, torch.zeros_like(ratio_N), ratio_N)
    return Correction(weight_N, ratio_N, outside_N, by_sequence or kind == "seq-mask-tis")
