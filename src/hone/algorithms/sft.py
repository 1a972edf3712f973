"""Supervised fine-tuning: the mean negative log-likelihood of the target tokens.

    loss = - sum over targets of log p(token | all before it) / number of targets in the global batch

Simplified away: label smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hone.algorithms.supervised import SupervisedAlgorithm
from hone.data import SupervisedData, build_supervised
from hone.types import Batch, Learner, LossOutput, Outputs, Sample, Totals, TrainedModel


def sft_loss(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    """Token cross-entropy over the global batch's targets."""
    loss: Tensor = -outputs.logprobs_N.sum() / max(totals.tokens, 1.0)
    return LossOutput(loss)


async def step(learner: Learner, samples: Sequence[Sample]) -> dict[str, float]:
    """One optimizer step on one global batch."""
    metrics = await learner.forward_backward(samples, sft_loss)
    return metrics | await learner.optim_step()


class SFT(SupervisedAlgorithm):
    """Examples, and the likelihood of their targets."""

    data: SupervisedData

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, build_supervised(config, tokenizer))

    async def step(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        return await step(learner, samples)

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
