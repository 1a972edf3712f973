"""Supervised fine-tuning: the mean negative log-likelihood of the target tokens.

    loss = - sum over targets of log p(token | all before it) / number of targets in the global batch

Simplified away: no label smoothing, no auxiliary router loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hone.types import Batch, Learner, LossOutput, Outputs, Sample, Totals


def sft_loss(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    """Token cross-entropy over the global batch's targets."""
    loss: Tensor = -outputs.logprobs_N.sum() / max(totals.tokens, 1.0)
    return LossOutput(loss)


async def step(learner: Learner, samples: Sequence[Sample]) -> dict[str, float]:
    """One optimizer step on one global batch."""
    metrics = await learner.forward_backward(samples, sft_loss)
    return metrics | await learner.optim_step()
