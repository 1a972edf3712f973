"""Reward models in the supervised loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hone.algorithms import rm
from hone.algorithms.supervised import SupervisedAlgorithm
from hone.data import PreferenceData, build_preferences
from hone.data.preference_formats import PAIRS, SCORES
from hone.errors import DataError
from hone.types import Sample, TrainedModel


class RM(SupervisedAlgorithm):
    """Pairs of answers, or answers with a number each, and the score of each."""

    data: PreferenceData

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
        self.objective = rm.RewardModelObjective(
            pad=tokenizer.pad_token_id,
            kind=kind,
            center=config.rm.center_rewards_coefficient,
            margins=config.rm.use_margins,
        )

    async def step(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        return await rm.step(learner, samples, self.objective)

    async def measure(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """The loss of the held-out rows and how well they are ranked."""
        return await rm.measure(learner, samples, self.objective)

    def describe(self, metrics: dict[str, float], samples: Sequence[Sample]) -> dict[str, float]:
        return super().describe(metrics, samples) | {"units": float(len({sample.unit for sample in samples}))}

    def left_out(self) -> str:
        return self.data.excluded_notice()
