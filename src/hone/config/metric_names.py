"""Names of metrics: those of NeMo RL, and the columns of metrics.csv that they mean."""

from __future__ import annotations

from collections.abc import Container


def flat_metric(name: str) -> str:
    """The column of metrics.csv that upstream's `val:NAME` or `train:NAME` means."""
    split, _, metric = name.rpartition(":")
    if not split or metric.startswith(f"{split}_"):
        return metric
    return f"{split}_{metric}" if split == "val" or metric == "loss" else metric


_INSTEAD = {"val_accuracy": "val_reward", "accuracy": "reward"}


def column_of(name: str, present: Container[str]) -> str:
    """The column that a metric is read from, where there are those that are `present`: an accuracy that no reward
    function gives (none says right or wrong) is the mean reward, which is what upstream calls so."""
    column = flat_metric(name)
    return column if column in present else _INSTEAD.get(column, column)
