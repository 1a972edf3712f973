"""Reward models: one number for a text, learned from which of two is better, or from numbers that were given.

Bradley and Terry (1952) as in Ouyang et al. 2022 (arXiv 2203.02155 section 3.5), with the margin of Touvron et al. 2023
(arXiv 2307.09288 section 3.2.2) and the centring of Eisenstein et al. 2023 (arXiv 2312.09244 section 2):

    loss = mean over pairs of  - log sigmoid(chosen - rejected - margin)  +  coefficient * (chosen + rejected)^2
    regression:  loss = mean over rows of (score - target)^2

A text's score is the value of the state at its end: one closing token, its only target, stands behind it and is never
part of it. Pairs are units of two samples, the chosen one first.

Simplified away: one label per text; no ensembles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from hone.types import Batch, Learner, LossFn, LossOutput, Outputs, Sample, Scorer, Totals

Kind = Literal["bradley_terry", "regression"]
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


def append_score_token(sample: Sample, *, pad: int, columns: dict[str, float] | None = None) -> Sample:
    """The sample with a closing token as its only target, so that what is read there is the score of the whole.

    Padding tokens at its end are left out: `transformers` takes the last token that is no padding for the end, and
    where a tokenizer pads with its end-of-sequence token that is the one before it.
    """
    kept = (sample.tokens_T != pad).nonzero()
    length = int(kept[-1]) + 1 if len(kept) else 1
    mask = torch.zeros(length + 1, dtype=torch.bool)
    mask[-1] = True
    tokens = torch.cat([sample.tokens_T[:length], sample.tokens_T.new_tensor([pad])])
    return replace(
        sample,
        tokens_T=tokens,
        loss_mask_T=mask,
        token_columns={},
        sequence_columns=columns or {},
        prefix=sample.prefix if sample.prefix <= length else 0,
    )


@dataclass(frozen=True)
class RewardModelObjective:
    """What a run says about its loss. `margins`: whether the rows' margins count."""

    pad: int
    kind: Kind = "bradley_terry"
    center: float | None = None
    margins: bool = True

    @property
    def loss(self) -> LossFn:
        """The loss, ready to travel."""
        return (
            regression_loss if self.kind == "regression" else partial(bradley_terry_loss, center=self.center)
        )

    def prepared(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples closed, with the columns that the loss reads."""
        if self.kind == "regression":
            given = [{"row": 1.0, "target": sample.sequence_columns["score"]} for sample in samples]
        else:
            margins = [sample.sequence_columns.get("margin", 0.0) * self.margins for sample in samples]
            given = [{"pair": 1.0, "margin": margin} for margin in margins]
        return [
            append_score_token(one, pad=self.pad, columns=columns)
            for one, columns in zip(samples, given, strict=True)
        ]


async def step(
    learner: Learner, samples: Sequence[Sample], objective: RewardModelObjective
) -> dict[str, float]:
    """One optimizer step on one global batch of pairs (or, for regression, of rows with a `score` column)."""
    metrics = await learner.forward_backward(objective.prepared(samples), objective.loss)
    return metrics | await learner.optim_step()


async def measure(
    learner: Scorer, samples: Sequence[Sample], objective: RewardModelObjective
) -> dict[str, float]:
    """The loss on held-out pairs (or rows), and how well they are ranked."""
    prepared = objective.prepared(samples)
    score_S = torch.cat(await learner.forward(prepared))
    names = prepared[0].sequence_columns
    columns = {name: torch.tensor([one.sequence_columns[name] for one in prepared]) for name in names}
    count = len(prepared)
    ids, tokens_N = [one.id for one in prepared], torch.stack([one.tokens_T[-1] for one in prepared])
    batch = Batch(ids, tokens_N, torch.arange(count), torch.ones_like(tokens_N), sequence_columns=columns)
    sums = {name: float(values.sum()) for name, values in columns.items()}
    result = objective.loss(Outputs(score_S, values_N=score_S), batch, Totals(count, count, sums))
    found = {"loss": float(result.loss), **{name: float(value) for name, value in result.metrics.items()}}
    if objective.kind == "bradley_terry":
        found["calibration_error"] = ranking_of(score_S[0::2], score_S[1::2]).calibration_error
    return found


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
