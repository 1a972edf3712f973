"""Losses of reward models, and how well scores rank pairs: pure functions of scores.

Shapes: `_S` texts, `_P` pairs; a pair is two texts in a row, the chosen one first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from hone.types import Batch, LossOutput, Outputs, Totals

BINS = 10
"""Equal parts of the confidence from 1/2 to 1, in which it is compared with how often it was right."""


def bradley_terry_loss(
    outputs: Outputs, batch: Batch, totals: Totals, *, center: float | None = None
) -> LossOutput:
    """The pairs' loss, and their accuracy and margin. Sequence columns: `pair` (1), `margin`."""
    chosen_P, rejected_P, weight_P = _pairs(_scores(outputs, batch), batch.sequence_columns["pair"])
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


def _pairs(score_S: Tensor, weight_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return score_S[0::2], score_S[1::2], weight_S[0::2]


@dataclass(frozen=True)
class Ranking:
    """How well pairs are ranked. A pair's confidence is the probability sigmoid(|chosen - rejected|) that the model
    gives to the side that it prefers; `bins` has for each part of [1/2, 1] that is not empty its mean confidence, the
    part that was right, and the number of pairs."""

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
