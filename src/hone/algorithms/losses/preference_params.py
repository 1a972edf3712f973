"""What preference losses read: the log-probabilities of pairs of answers, and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    """What losses read besides log-probabilities."""

    beta: float = 0.1
    smoothing: float | None = None
    """Chance that a comparison is the wrong way round."""
    gamma: float = 0.5
    tau: float = 0.05
    desirable: float = 1.0
    undesirable: float = 1.0
    delta: float = 0.0
    """BCO's reward shift."""
    kl: float = 0.0
    """KTO's reference point z0 / beta: the batch's estimate of KL(pi || ref), not below 0."""
