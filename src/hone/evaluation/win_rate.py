"""Win rates from preferences between two models' answers to the same problems.

A preference is 1 where B's answer is preferred, 0 where A's is, 0.5 for a tie. The length-controlled win rate is what
the win rate would be if both answers had the same length: the prediction at length difference 0 of a logistic
regression on it (Dubois et al. 2024, Length-Controlled AlpacaEval, arXiv 2404.04475, equation 2, without the term for
a problem's difficulty, which needs many models).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hone.evaluation.statistics import Estimate, PairedTest, estimate, paired_test

RIDGE = 1e-3
"""Strength of the regression's penalty on its coefficients, which keeps them finite where one model always wins."""


@dataclass(frozen=True)
class WinRate:
    """How often B is preferred to A."""

    rate: Estimate
    length_controlled: float
    test: PairedTest
    ties: int
    inconsistent: int
    """Pairs of which the judge preferred the same position in both orders; they count as ties."""
    failed: int
    """Pairs without a verdict; they are left out."""
    mean_lengths: tuple[float, float]
    """Characters of A's and of B's answers."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "win_rate": self.rate.mean,
            "interval": [self.rate.low, self.rate.high],
            "length_controlled_win_rate": self.length_controlled,
            "p_value": self.test.p_value,
            "method": self.test.method,
            "pairs": self.rate.problems,
            "ties": self.ties,
            "inconsistent": self.inconsistent,
            "failed": self.failed,
            "mean_lengths": list(self.mean_lengths),
        }


def win_rate(
    preferences: Sequence[float | None], lengths: Sequence[tuple[int, int]], inconsistent: int = 0
) -> WinRate:
    """The win rate of B. `preferences`: of each pair, None where there is no verdict; `lengths`: characters of A's and
    B's answers. Raises ValueError if no pair has a verdict."""
    judged = [(value, pair) for value, pair in zip(preferences, lengths, strict=True) if value is not None]
    if not judged:
        raise ValueError("no pair has a verdict")
    values, pairs = [value for value, _ in judged], [pair for _, pair in judged]
    difference_P = np.array([b - a for a, b in pairs], dtype=float)
    a_mean, b_mean = (float(np.mean([pair[side] for pair in pairs])) for side in (0, 1))
    return WinRate(
        estimate([[value] for value in values]),
        length_controlled(np.array(values), difference_P),
        paired_test([1 - value for value in values], values),
        sum(value == 0.5 for value in values),
        inconsistent,
        len(preferences) - len(judged),
        (a_mean, b_mean),
    )


def length_controlled(preference_P: np.ndarray, difference_P: np.ndarray) -> float:
    """The win rate at equal lengths: sigmoid(θ) of preference ~ sigmoid(θ + φ tanh(difference / std)), by Newton's
    method with a small ridge penalty on φ and, smaller still, on θ."""
    spread = float(difference_P.std())
    term_P = np.tanh(difference_P / spread) if spread > 0 else np.zeros_like(difference_P)
    x_P2 = np.stack([np.ones_like(term_P), term_P], axis=1)
    penalty = np.diag([RIDGE / 10, RIDGE]) * len(term_P)
    weights = np.zeros(2)
    for _ in range(100):
        predicted_P = 1 / (1 + np.exp(-(x_P2 @ weights)))
        gradient = x_P2.T @ (predicted_P - preference_P) + penalty @ weights
        hessian = (x_P2 * (predicted_P * (1 - predicted_P))[:, None]).T @ x_P2 + penalty
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if float(np.abs(step).max()) < 1e-10:
            break
    return float(1 / (1 + np.exp(-weights[0])))
