"""The reference of a policy with adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from hone.types import Sample

if TYPE_CHECKING:
    from hone.engine.local.learner import LocalLearner


class BaseModelScorer:
    """The model that a learner's adapters were put on, as a scorer: the reference of LoRA, at no memory."""

    def __init__(self, learner: LocalLearner) -> None:
        self.learner = learner

    async def forward(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probabilities of each sample's targets under the base model."""
        with self.learner.model.disable_adapter():  # type: ignore[operator]
            return await self.learner.forward(samples)
