"""Metrics by which checkpoints can be ranked, for each kind of run."""

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


PREFERENCES = (
    "preference_loss",
    "sft_loss",
    "reward_accuracy",
    "reward_margin",
    "rewards_chosen",
    "rewards_rejected",
)
SCORED = ("reward_accuracy", "reward_margin", "score_chosen", "score_rejected", "score", "absolute_error")
_ONLINE = {
    "val": ("accuracy", "reward", "completion_length", "truncated", "failed"),
    "train": (
        "loss",
        "reward",
        "accuracy",
        "grad_norm",
        "kl",
        "approx_entropy",
        "completion_length",
        "truncated",
    ),
}
METRICS: dict[str, dict[str, tuple[str, ...]]] = {
    "sft": {"val": ("val_loss", "val_seconds"), "train": ("loss", "train_loss", "grad_norm")},
    "dpo": {
        "val": tuple(f"val_{name}" for name in ("loss", *PREFERENCES)),
        "train": ("loss", "train_loss", "grad_norm", *PREFERENCES),
    },
    "rm": {
        "val": tuple(f"val_{name}" for name in ("loss", "calibration_error", *SCORED)),
        "train": ("loss", "train_loss", "grad_norm", *SCORED),
    },
    "grpo": _ONLINE,
    "distill": {
        **_ONLINE,
        "train": ("loss", "grad_norm", "forward_kl", "reverse_kl", "completion_length", "truncated"),
    },
    "ppo": {**_ONLINE, "train": (*_ONLINE["train"], "value_loss", "explained_variance")},
}
"""Metrics by which checkpoints can be ranked. `reward_NAME` of each reward function comes on top."""
