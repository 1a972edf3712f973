"""Losses of reward models, and how well scores rank pairs: pure functions of scores.

Shapes: `_S` texts, `_P` pairs (two adjacent texts, the chosen one first), `_N` targets, of which a text has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from hone.types import Batch, LossOutput, Outputs, Totals

BINS = 10
"""Equal bins of the confidence from 1/2 to 1, for the calibration error."""


def bradley_terry_loss(
    outputs: Outputs, batch: Batch, totals: Totals, *, center: float | None = None
) -> LossOutput:
    """The pairs' loss, and their accuracy and margin. Sequence columns: `pair` (1), `margin`."""
    score_S, weight_P = _scores(outputs, batch), batch.sequence_columns["pair"][0::2]
    chosen_P, rejected_P = score_S[0::2], score_S[1::2]
    count = max(totals.sums["pair"] / 2, 1.0)

    def mean(values_P: Tensor) -> Tensor:
        return (weight_P * values_P).sum() / count

    gap_P = chosen_P - rejected_P
    loss = mean(-logsigmoid(gap_P - batch.sequence_columns["margin"][0::2]))
    if center is not None:
        loss = loss + center * mean((chosen_P + rejected_P).square())
    with torch.no_grad():
        metrics = {
            "reward_accuracy": mean((gap_P > 0).to(gap_P.dtype)),
            "reward_margin": mean(gap_P),
            "score_chosen": mean(chosen_P),
            "score_rejected": mean(rejected_P),
        }
    return LossOutput(loss, metrics)


def regression_loss(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    """Squared distance from the given number. Sequence columns: `row` (1), `target`."""
    score_S, weight_S = _scores(outputs, batch), batch.sequence_columns["row"]
    count = max(totals.sums["row"], 1.0)
    error_S = weight_S * (score_S - batch.sequence_columns["target"])
    with torch.no_grad():
        metrics = {"absolute_error": error_S.abs().sum() / count, "score": (weight_S * score_S).sum() / count}
    return LossOutput(error_S.square().sum() / count, metrics)


def _scores(outputs: Outputs, batch: Batch) -> Tensor:
    """The score of each sequence: the value at its one target."""
    assert outputs.values_N is not None, "a reward model has a scalar head"
    return batch.sum_by_sequence(outputs.values_N)


@dataclass(frozen=True)
class Ranking:
    """How well pairs are ranked. A pair's confidence is sigmoid(|chosen - rejected|), the probability that the model
    gives to the answer that it prefers. `bins`: of each non-empty bin of [1/2, 1] its mean confidence, accuracy, and
    number of pairs."""

    accuracy: float
    margin: float
    calibration_error: float
    """Mean over the pairs of |confidence - accuracy| of their bin (Guo et al. 2017, arXiv 1706.04599 section 3)."""
    pairs: int
    bins: tuple[tuple[float, float, int], ...]


def ranking_of(chosen_P: Tensor, rejected_P: Tensor, bins: int = BINS) -> Ranking:
    """Compare the scores of pairs. A tie is not right."""
    gap_P = (chosen_P - rejected_P).double()
    right_P = (gap_P > 0).double()
    confidence_P = torch.sigmoid(gap_P.abs())
    bin_P = ((confidence_P - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    found = []
    for number in bin_P.unique().tolist():
        here = bin_P == number
        found.append((float(confidence_P[here].mean()), float(right_P[here].mean()), int(here.sum())))
    pairs = len(gap_P)
    error = sum(count * abs(confidence - right) for confidence, right, count in found) / max(pairs, 1)
    return Ranking(float(right_P.mean()), float(gap_P.mean()), error, pairs, tuple(found))
