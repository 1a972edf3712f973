"""Numbers that a reward function reports beside its rewards. The pool averages them."""

from __future__ import annotations

_pending: dict[str, list[float]] = {}


def log_metric(name: str, value: float) -> None:
    """Report a number from inside a reward function; `RewardPool.metrics()` returns the mean under `name`."""
    _pending.setdefault(str(name), []).append(float(value))


def drain() -> dict[str, list[float]]:
    """Everything reported since the last drain."""
    drained = dict(_pending)
    _pending.clear()
    return drained
