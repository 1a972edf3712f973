"""Losses that learn from comparisons: pure functions of the log-probabilities of whole answers.

Shapes: `_P` pairs, `_S` answers. With pi the policy, ref the reference, y_w the chosen and y_l the rejected answer:

    ratio(y) = log pi(y|x) - log ref(y|x),   margin = ratio(y_w) - ratio(y_l),   beta = reference_policy_kl_penalty

Each function gives one loss for each pair (KTO: for each answer), which the caller averages over the global batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Pairs:
    """Sums of the log-probabilities of P pairs' answers, and their lengths; or means, and lengths of 1."""

    chosen_P: Tensor
    rejected_P: Tensor
    reference_chosen_P: Tensor
    reference_rejected_P: Tensor
    chosen_length_P: Tensor
    rejected_length_P: Tensor

    def mean(self) -> Pairs:
        """The same with means over each answer's tokens."""
        chosen, rejected = self.chosen_length_P.clamp(min=1), self.rejected_length_P.clamp(min=1)
        return Pairs(
            self.chosen_P / chosen,
            self.rejected_P / rejected,
            self.reference_chosen_P / chosen,
            self.reference_rejected_P / rejected,
            torch.ones_like(chosen),
            torch.ones_like(rejected),
        )

    @property
    def chosen_ratio_P(self) -> Tensor:
        return self.chosen_P - self.reference_chosen_P

    @property
    def rejected_ratio_P(self) -> Tensor:
        return self.rejected_P - self.reference_rejected_P

    @property
    def margin_P(self) -> Tensor:
        return self.chosen_ratio_P - self.rejected_ratio_P


@dataclass(frozen=True)
class PreferenceLossParams:
    """Parameters of the losses."""

    beta: float = 0.1
    smoothing: float | None = None
    """Probability that a comparison is wrong (label smoothing)."""
    gamma: float = 0.5
    tau: float = 0.05
    desirable: float = 1.0
    undesirable: float = 1.0
    delta: float = 0.0
    """BCO's reward shift."""
    kl: float = 0.0
    """KTO's reference point z0 / beta: the batch's estimate of KL(pi || ref), not below 0."""


def _logistic(logit: Tensor, smoothing: float | None) -> Tensor:
    """-log sigmoid(z), and cDPO's mixture with the flipped comparison (Mitchell 2023, "A note on DPO with noisy
    preferences", eq. 3)."""
    if not smoothing:
        return -logsigmoid(logit)
    return -(1 - smoothing) * logsigmoid(logit) - smoothing * logsigmoid(-logit)


def sigmoid(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """DPO (arXiv 2305.18290 eq. 7): -log sigmoid(beta margin); with label smoothing cDPO."""
    return _logistic(params.beta * pairs.margin_P, params.smoothing)


def sigmoid_norm(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """Length-normalised DPO (Tulu 3, arXiv 2411.15124 eq. 6): ratios are means over an answer's tokens."""
    return sigmoid(pairs.mean(), params)


def hinge(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """RSO (arXiv 2309.06657 eq. 11): max(0, 1 - beta margin)."""
    return torch.relu(1 - params.beta * pairs.margin_P)


def ipo(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """IPO (arXiv 2310.12036 eq. 17): (margin - 1 / (2 beta))^2, of means over an answer's tokens."""
    return (pairs.mean().margin_P - 1 / (2 * params.beta)).square()


def robust(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """Robust DPO (arXiv 2403.00409 eq. 12): unbiased where a share of the comparisons is the wrong way round."""
    flip, logit = params.smoothing or 0.0, params.beta * pairs.margin_P
    return (-(1 - flip) * logsigmoid(logit) + flip * logsigmoid(-logit)) / (1 - 2 * flip)


def exo_pair(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """EXO (arXiv 2402.00856 eq. 16): KL(p || q), p = sigmoid(+-beta margin), q = (1 - eps, eps)."""
    eps, logit = 1e-3 if params.smoothing is None else params.smoothing, params.beta * pairs.margin_P
    wins, loses = logsigmoid(logit), logsigmoid(-logit)
    return wins.exp() * (wins - math.log1p(-eps)) + loses.exp() * (loses - math.log(eps))


def nca_pair(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """NCA (arXiv 2402.05369 eq. 11, K = 2): raises the chosen answer's own likelihood too."""
    chosen, rejected = params.beta * pairs.chosen_ratio_P, params.beta * pairs.rejected_ratio_P
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def bco_pair(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """BCO (arXiv 2404.04656 eq. 8): a classifier of good and bad answers, its rewards shifted by delta, their running
    mean."""
    chosen, rejected = params.beta * pairs.chosen_ratio_P, params.beta * pairs.rejected_ratio_P
    return -logsigmoid(chosen - params.delta) - logsigmoid(params.delta - rejected)


def sppo_hard(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """SPPO (arXiv 2405.00675 eq. 4.7) with the comparison as certain: ratios of +-1 / (2 beta)."""
    goal = 0.5 / params.beta
    return (pairs.chosen_ratio_P - goal).square() + (pairs.rejected_ratio_P + goal).square()


def apo_zero(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """APO-zero (arXiv 2408.06266 eq. 7): chosen up, rejected down; for answers better than the model's own."""
    chosen, rejected = params.beta * pairs.chosen_ratio_P, params.beta * pairs.rejected_ratio_P
    return torch.sigmoid(-chosen) + torch.sigmoid(rejected)


def apo_down(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """APO-down (arXiv 2408.06266 eq. 8): both down, rejected more; for answers worse than the model's own."""
    return torch.sigmoid(params.beta * pairs.chosen_ratio_P) + torch.sigmoid(-params.beta * pairs.margin_P)


def discopop(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """DiscoPOP (arXiv 2406.08414 eq. 5): logistic and exponential loss, blended by sigmoid(logit / tau)."""
    logit = params.beta * pairs.margin_P
    blend = torch.sigmoid(logit / params.tau)
    return -logsigmoid(logit) * (1 - blend) + (-logit).exp() * blend


def simpo(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """SimPO (arXiv 2405.14734 eq. 6): -log sigmoid(beta (mean log pi(y_w) - mean log pi(y_l)) - gamma)."""
    means = pairs.mean()
    return _logistic(params.beta * (means.chosen_P - means.rejected_P) - params.gamma, params.smoothing)


def cpo(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """CPO (arXiv 2401.08417 eq. 3): DPO with a uniform reference; its other half is the SFT loss."""
    return _logistic(params.beta * (pairs.chosen_P - pairs.rejected_P), params.smoothing)


def orpo(pairs: Pairs, params: PreferenceLossParams) -> Tensor:
    """ORPO (arXiv 2403.07691 eq. 7), beta being its lambda: -beta log sigmoid(log odds ratio) of mean
    log-probabilities; its other half is the SFT loss."""
    means = pairs.mean()
    odds = means.chosen_P - means.rejected_P - log1mexp(means.chosen_P) + log1mexp(means.rejected_P)
    return -params.beta * logsigmoid(odds)


def log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, accurate at both ends (Maechler 2012); x is taken as -1e-7 at most, so that a token of
    probability 1 gives no infinity."""
    values = values.clamp(max=-1e-7)
    small = values > -math.log(2)
    near = torch.log(-torch.expm1(torch.where(small, values, torch.full_like(values, -1.0))))
    far = torch.log1p(-torch.exp(torch.where(small, torch.full_like(values, -1.0), values)))
    return torch.where(small, near, far)


def kto(ratio_S: Tensor, desirable_S: Tensor, params: PreferenceLossParams) -> Tensor:
    """KTO (arXiv 2402.01306 eq. 8), for each answer: w (1 - sigmoid(+-beta (ratio - KL)))."""
    gain = torch.where(desirable_S, 1.0, -1.0) * params.beta * (ratio_S - params.kl)
    weight = torch.where(desirable_S, params.desirable, params.undesirable)
    return weight * torch.sigmoid(-gain)


def aot(margin_P: Tensor, partner_P: Tensor, params: PreferenceLossParams) -> Tensor:
    """AOT (arXiv 2406.05882 eq. 9): as DPO, of quantiles: the policy's differences log pi(y_w) - log pi(y_l) are
    compared with the reference's of the same rank in the batch (`matched`)."""
    return _logistic(params.beta * (margin_P - partner_P), params.smoothing)


def aot_unpaired(
    pairs: Pairs, of_chosen_P: Tensor, of_rejected_P: Tensor, params: PreferenceLossParams
) -> Tensor:
    """AOT-unpaired (arXiv 2406.05882 eq. 6): chosen ratios against rejected ratios of the same rank in the batch.

    The partners come without gradient from elsewhere in the batch, so each comparison is written from both its sides:
    half of each value, and the whole gradient.
    """
    both = _logistic(params.beta * (pairs.chosen_ratio_P - of_chosen_P), params.smoothing)
    both = both + _logistic(params.beta * (of_rejected_P - pairs.rejected_ratio_P), params.smoothing)
    return both - both.detach() / 2


def matched(values_P: Tensor, others_P: Tensor) -> Tensor:
    """For each value the other of the same rank: the optimal transport between two sets of numbers."""
    ranks = torch.argsort(torch.argsort(values_P, stable=True), stable=True)
    return torch.sort(others_P).values[ranks]


PAIRWISE: dict[str, Callable[[Pairs, PreferenceLossParams], Tensor]] = {
    function.__name__: function
    for function in (
        *(sigmoid, sigmoid_norm, hinge, ipo, robust, exo_pair, nca_pair, bco_pair, sppo_hard),
        *(apo_zero, apo_down, discopop, simpo, cpo, orpo),
    )
}
"""Losses of one pair alone. AOT compares ranks in the batch, and KTO takes answers one by one."""
