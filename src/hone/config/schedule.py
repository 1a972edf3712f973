"""Numbers that change over training: a constant, or points {step: value}. Values are pure functions of the step, so a
resumed run gets the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

Between = Literal["linear", "step"]


def points(value: Any) -> tuple[tuple[int, float], ...]:
    """The points in order of steps; a constant is one point, at step 0.

    A step is a number of finished optimizer steps, so 0 is the beginning. Raises ValueError for anything else.
    """
    if not isinstance(value, Mapping):
        return ((0, _number(value)),)
    steps = list(value)
    for step in steps:
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(
                f"{step!r} is no step: a schedule is {{step: value}}, such as {{0: 1.0, 100: 0.2}}"
            )
    if 0 not in steps:
        raise ValueError(f"a schedule begins at step 0, but its first is {min(steps, default='missing')}")
    return tuple((step, _number(value[step])) for step in sorted(steps))


def value_at(points_: tuple[tuple[int, float], ...], step: int | None, between: Between = "linear") -> float:
    """The value once `step` steps are done: on the line between two points, or that of the last point so far. After
    the last point, and where there are no steps (None), it is the last one's."""
    if step is None or step >= points_[-1][0]:
        return points_[-1][1]
    following = next(i for i, (start, _) in enumerate(points_) if start > step)
    (start, low), (end, high) = points_[following - 1], points_[following]
    return low if between == "step" else low + (high - low) * (step - start) / (end - start)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, or {{step: number}}, got {value!r}")
    return float(value)
