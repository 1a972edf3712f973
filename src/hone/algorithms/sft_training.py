"""Supervised fine-tuning in the supervised loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hone.algorithms import sft
from hone.algorithms.supervised import SupervisedAlgorithm
from hone.data import SupervisedData, build_supervised
from hone.types import Sample, TrainedModel


class SFT(SupervisedAlgorithm):
    """Examples, and the likelihood of their targets."""

    data: SupervisedData

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, build_supervised(config, tokenizer))

    async def step(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        return await sft.step(learner, samples)

    async def measure(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """Mean negative log-likelihood of the held-out targets, over tokens."""
        logprobs = await learner.forward(samples)
        count = sum(values.numel() for values in logprobs)
        total = sum(float(values.double().sum()) for values in logprobs)
        return {"loss": -total / max(count, 1)}

    def left_out(self) -> str:
        left_out = self.data.counts["excluded_rows"]
        if not left_out:
            return ""
        return (
            f"{left_out} of {self.data.counts['rows']} rows are left out: their prompt alone fills "
            f"policy.max_total_sequence_length={self.config.policy.max_total_sequence_length}"
        )
