"""Names of metrics and reward functions: NeMo RL's names, and the columns of metrics.csv that they mean."""

from __future__ import annotations

from collections.abc import Container, Iterable


def flat_metric(name: str) -> str:
    """The column of metrics.csv for NeMo RL's `val:NAME` or `train:NAME`."""
    split, _, metric = name.rpartition(":")
    if not split or metric.startswith(f"{split}_"):
        return metric
    return f"{split}_{metric}" if split == "val" or metric == "loss" else metric


_INSTEAD = {"val_accuracy": "val_reward", "accuracy": "reward"}


def column_of(name: str, rows: Iterable[Container[str]]) -> str:
    """The one column from which a metric is read in all `rows` of a run.

    For an accuracy this is the mean reward, as in NeMo RL, once a row has a reward and no accuracy: the reward function
    then does not judge right and wrong alone, so the accuracies of other rows are not comparable.
    """
    column = flat_metric(name)
    instead = _INSTEAD.get(column)
    return instead if instead and any(instead in row and column not in row for row in rows) else column


def last_name(target: str) -> str:
    """The function's own name: `f` for `pkg.module.f` and for `file.py:f`."""
    return target.replace(":", ".").rpartition(".")[2]


def reward_name(name: str | None, path: str | None) -> str:
    """The name of an entry of rewards.functions: `name` if the entry has a `path` too, else the function's own
    name."""
    return name if name and path else last_name(path or name or "")
