"""Passes of an optimizer over the samples of a batch of rollouts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from hone.types import Learner, LossFn, Sample

Slots = Sequence[Sample | None]
"""One for each rollout, in order; None for one that is not trained on."""


async def train(
    learner: Learner,
    slots: Slots,
    loss: LossFn,
    *,
    size: int,
    passes: int,
    before: Callable[[list[Sample]], Awaitable[dict[str, float]]] | None = None,
) -> list[dict[str, float]]:
    """Go over the rollouts `passes` times, in their order, with an update for every `size`; the metrics of each.

    `before` is given each update's global batch first, to add what the loss compares with the whole of it.
    """
    history: list[dict[str, float]] = []
    for _ in range(passes):
        for start in range(0, len(slots), size):
            batch = [sample for sample in slots[start : start + size] if sample is not None]
            if not batch:  # every rollout failed or was filtered: nothing to learn, and the metrics say so
                continue
            metrics = await before(batch) if before is not None else {}
            metrics |= await learner.forward_backward(batch, loss)
            history.append(metrics | await learner.optim_step())
    return history


def means(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over the updates of each metric; the largest of what is a maximum."""
    names = history[0] if history else ()
    return {
        name: max(m[name] for m in history)
        if name.endswith("_max")
        else sum(m[name] for m in history) / len(history)
        for name in names
    }
