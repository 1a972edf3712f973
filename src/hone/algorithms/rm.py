"""Reward models: a score for a text, learned from comparisons of two answers or from given scores.

Bradley and Terry (1952) as in Ouyang et al. 2022 (arXiv 2203.02155 section 3.5), with the margin of Touvron et al. 2023
(arXiv 2307.09288 section 3.2.2) and the centring of Eisenstein et al. 2023 (arXiv 2312.09244 section 2):

    loss = mean over pairs of  - log sigmoid(chosen - rejected - margin)  +  coefficient * (chosen + rejected)^2
    regression:  loss = mean over rows of (score - target)^2

A text's score is the value of the state at its end: one closing token, its only target, stands behind it and is never
part of it. Pairs are units of two samples, the chosen one first.

Simplified away: ensembles; more than one label for a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from hone.algorithms.losses.reward_model_losses import bradley_terry_loss, ranking_of, regression_loss
from hone.algorithms.supervised import PairAlgorithm, evaluate_loss
from hone.data import build_preferences
from hone.data.preference_formats import PAIRS, SCORES
from hone.errors import DataError
from hone.types import Learner, LogprobModel, LossFn, Sample, TrainedModel

Kind = Literal["bradley_terry", "regression"]


def append_score_token(sample: Sample, *, pad: int, columns: dict[str, float] | None = None) -> Sample:
    """The sample with a closing token as its only target, where the score of the whole text is read.

    Padding tokens at its end are dropped: `transformers` takes the last token that is not padding as the end, and
    where a tokenizer pads with its end-of-sequence token that is the one before it."""
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
    """The run's loss and its settings. `margins`: whether the rows' margins count."""

    pad: int
    kind: Kind = "bradley_terry"
    center: float | None = None
    margins: bool = True

    @property
    def loss(self) -> LossFn:
        """The loss, picklable."""
        pairs = partial(bradley_terry_loss, center=self.center)
        return regression_loss if self.kind == "regression" else pairs

    def prepared(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with their score tokens and the columns that the loss reads."""
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
    learner: LogprobModel, samples: Sequence[Sample], objective: RewardModelObjective
) -> dict[str, float]:
    """The loss on held-out pairs (or rows), and how well they are ranked."""
    prepared = objective.prepared(samples)
    scores = await learner.forward(prepared)
    found = evaluate_loss(objective.loss, prepared, scores)
    if objective.kind == "bradley_terry":
        score_S = torch.cat(scores)
        found["calibration_error"] = ranking_of(score_S[0::2], score_S[1::2]).calibration_error
    return found


class RM(PairAlgorithm):
    """Pairs of answers, or answers with a score each."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, build_preferences(config, tokenizer))
        kind = config.rm.reward_model_type
        wanted, other = (SCORES, "bradley_terry") if kind == "regression" else (PAIRS, "regression")
        if self.data.kind != wanted:
            fits = self.data.kind in (PAIRS, SCORES)
            raise DataError(
                f"rm.reward_model_type={kind} learns from {wanted}, but the rows are {self.data.kind}"
                + (f": set rm.reward_model_type={other}" if fits else "")
            )
        self.objective = RewardModelObjective(
            pad=tokenizer.pad_token_id,
            kind=kind,
            center=config.rm.center_rewards_coefficient,
            margins=config.rm.use_margins,
        )

    async def step(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        return await step(learner, samples, self.objective)

    async def measure(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """The loss of the held-out rows and how well they are ranked."""
        return await measure(learner, samples, self.objective)
