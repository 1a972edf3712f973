"""Numbers and columns that reward functions report besides their rewards."""

from __future__ import annotations

from typing import Any

RESERVED = frozenset((
    "step", "epoch", "reward", "accuracy", "samples", "truncated", "excluded", "failed", "completion_length",
    "equal_groups", "seconds", "tokens_per_s", "learning_rate", "loss", "train_loss", "val_loss", "policy_loss_total",
    "turns", "tool_calls", "tool_failures", "cut_observations", "out_of_turns", "env_seconds",
))  # fmt: skip
"""Columns of the run. A function's metric cannot have these names."""
RESERVED_PREFIXES = ("reward_", "val_", "failed_", "seconds_", "weight_", "workers_", "gpu_")
_MAX_TEXT = 2000  # characters of a value that is not a number or a boolean
_columns: dict[str, list[Any]] = {}
_pending: dict[str, list[float]] = {}


def log_metric(name: str, value: float) -> None:
    """Report a number from a reward function; `RewardPool.metrics()` returns the mean under `name`."""
    _pending.setdefault(str(name), []).append(float(value))


def column_of(name: str, function: str) -> str | None:
    """The metrics column for a name that a function reports; None for a reserved name. `accuracy`, which TRL's
    functions report, becomes `accuracy_FUNCTION`."""
    if name == "accuracy":
        return f"accuracy_{function}"
    return None if name in RESERVED or name.startswith(RESERVED_PREFIXES) else name


def drain() -> dict[str, list[float]]:
    """Everything reported since the last drain."""
    drained = dict(_pending)
    _pending.clear()
    return drained


def log_extra(column: str, values: list[Any]) -> None:
    """Report one value for each completion of the call; it is saved with the rollout, under `column`."""
    _columns.setdefault(str(column), []).extend(_plain(value) for value in values)


def drain_columns(count: int) -> dict[str, list[Any]]:
    """Every column since the last drain. Raises ValueError for one without exactly `count` values."""
    drained = dict(_columns)
    _columns.clear()
    for name, values in drained.items():
        if len(values) != count:
            raise ValueError(f"log_extra('{name}', …) got {len(values)} values for {count} completions")
    return drained


def forget() -> None:
    """Discard the reports of a call that failed."""
    _columns.clear()
    _pending.clear()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 1 << 63 else "a large number"
    return (value if isinstance(value, str) else repr(value))[:_MAX_TEXT]
