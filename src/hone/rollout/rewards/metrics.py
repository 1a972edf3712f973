"""What a reward function reports beside its rewards: numbers, which the pool averages, and columns of the rollouts."""

from __future__ import annotations

from typing import Any

_MAX_TEXT = 2000  # characters of a value that is no plain number or truth
_columns: dict[str, list[Any]] = {}
_pending: dict[str, list[float]] = {}


def log_metric(name: str, value: float) -> None:
    """Report a number from inside a reward function; `RewardPool.metrics()` returns the mean under `name`."""
    _pending.setdefault(str(name), []).append(float(value))


def drain() -> dict[str, list[float]]:
    """Everything reported since the last drain."""
    drained = dict(_pending)
    _pending.clear()
    return drained


def log_extra(column: str, values: list[Any]) -> None:
    """Report one value for each completion of the call; it is written with the rollout, under `column`."""
    _columns.setdefault(str(column), []).extend(_plain(value) for value in values)


def drain_columns(count: int) -> dict[str, list[Any]]:
    """Every column since the last drain that has a value for each of `count` completions."""
    drained = {name: values for name, values in _columns.items() if len(values) == count}
    _columns.clear()
    return drained


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or abs(value) < 1 << 63 else "a large number"
    return (value if isinstance(value, str) else repr(value))[:_MAX_TEXT]
