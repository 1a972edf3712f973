"""How long each part of a step of the online loop takes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hone.rollout.timeline import LEARNER, Timeline
from hone.tracking import Progress

NEXT = {
    "generation": "scoring",
    "reward": "training",
    "training": "syncing weights to the generator",
    "waiting": "syncing weights to the generator",
    "weight_sync": "validating",
}
"""Each part of a step, and what the progress line says after it."""
OF_LEARNER = ("training", "weight_sync", "validation")
"""Parts in which the learner works, or its weights are used and must not change."""


class StepTimer:
    """Measures the seconds of each part of a step, and updates the progress line."""

    def __init__(self, progress: Progress, timeline: Timeline, following: Mapping[str, str]) -> None:
        """`following`: after which parts the progress line says something else than NEXT does."""
        self._progress, self._timeline, self._following = progress, timeline, {**NEXT, **following}
        progress.doing("sampling")
        timeline.begin_step()
        self._start = self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """A part of the step has ended, and the next one begins."""
        now = time.perf_counter()
        self._seconds[f"seconds_{name}"] = self._seconds.get(f"seconds_{name}", 0.0) + now - self._last
        if name in OF_LEARNER:
            self._timeline.add(LEARNER, name, self._last, now)
        self._last = now
        if name in self._following:
            self._progress.doing(self._following[name])

    def seconds(self) -> dict[str, float]:
        """By part, and of the step until now."""
        return self._seconds | {"seconds": time.perf_counter() - self._start}
