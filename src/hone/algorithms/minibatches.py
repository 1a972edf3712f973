"""Passes of an optimizer over the samples of a batch of rollouts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hone.types import Learner, LossFn, Sample

SamplePerRollout = Sequence[Sample | None]
"""One sample for each rollout, in order; None for a rollout that is not trained on."""


async def train(
    learner: Learner,
    samples: SamplePerRollout,
    loss: LossFn,
    *,
    size: int,
    passes: int,
    before_update: Callable[[list[Sample]], Awaitable[dict[str, float]]] | None = None,
) -> list[dict[str, float]]:
    """Go over the rollouts `passes` times, in order, with an update for every `size`. Returns the metrics of each
    update.

    `before_update` is called with the global batch before each update, to add columns that depend on the whole batch.
    """
    history: list[dict[str, float]] = []
    for _ in range(passes):
        for start in range(0, len(samples), size):
            batch = [sample for sample in samples[start : start + size] if sample is not None]
            if not batch:  # every rollout failed or was filtered; the metrics count them
                continue
            metrics = await before_update(batch) if before_update is not None else {}
            metrics |= await learner.forward_backward(batch, loss)
            history.append(metrics | await learner.optim_step())
    return history


def means(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each metric's mean over the updates; the maximum of those whose names end in `_max`."""
    names = history[0] if history else ()
    return {
        name: max(m[name] for m in history)
        if name.endswith("_max")
        else sum(m[name] for m in history) / len(history)
        for name in names
    }
