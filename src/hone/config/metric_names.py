"""Names of metrics: those of NeMo RL, and the columns of metrics.csv that they mean."""

from __future__ import annotations

from collections.abc import Container, Iterable


def flat_metric(name: str) -> str:
    """The column of metrics.csv that upstream's `val:NAME` or `train:NAME` means."""
    split, _, metric = name.rpartition(":")
    if not split or metric.startswith(f"{split}_"):
        return metric
    return f"{split}_{metric}" if split == "val" or metric == "loss" else metric


_INSTEAD = {"val_accuracy": "val_reward", "accuracy": "reward"}


def column_of(name: str, rows: Iterable[Container[str]]) -> str:
    """The one column that a metric is read from in all `rows` of a run.

    An accuracy is the mean reward, as upstream's is, as soon as one row has a reward and no accuracy: then the reward
    function does not judge by right and wrong alone, and the rows' accuracies cannot be compared with the others.
    """
    column = flat_metric(name)
    instead = _INSTEAD.get(column)
    return instead if instead and any(instead in row and column not in row for row in rows) else column
