"""When generator, rewards and learner worked in the last steps of an online run."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hone.files import write_atomically

GENERATOR, REWARDS, LEARNER = "generator", "rewards", "learner"
KEPT = 4
"""Steps that are kept."""
Span = tuple[str, str, float, float]
"""Actor, part of the work, and its start and end in seconds."""


class Timeline:
    """Records who works when. Several pieces of work of an actor at once are one span."""

    def __init__(self, file: Path | None = None) -> None:
        """`file`: where the last steps are written when one ends."""
        self.file = file
        self._running: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._parts: dict[str, str] = {}
        self._spans: list[Span] = []
        self._steps: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._start: float | None = None
        self._busy: defaultdict[str, float] = defaultdict(float)
        self._read: dict[str, float] = {}

    @contextlib.contextmanager
    def busy(self, actor: str, part: str) -> Iterator[None]:
        """The actor works during the block."""
        self._running[actor] += 1
        if self._running[actor] == 1:
            self._since[actor], self._parts[actor] = time.perf_counter(), part
        try:
            yield
        finally:
            self._running[actor] -= 1
            if not self._running[actor]:
                self._cut(actor, time.perf_counter())

    def add(self, actor: str, part: str, start: float, end: float) -> None:
        """A piece of work, by the clock `time.perf_counter`."""
        self._spans.append((actor, part, start, end))
        self._busy[actor] += end - start

    def idle_share(self, actor: str) -> float:
        """The share of the time since the last call in which the actor did not work; 0 at the first call."""
        now = time.perf_counter()
        if self._running[actor]:
            self._cut(actor, now)
        before, self._read[actor] = self._read.get(actor), now
        worked = self._busy.pop(actor, 0.0)
        return 0.0 if before is None else max(0.0, 1 - worked / max(now - before, 1e-9))

    def begin_step(self) -> None:
        """A step begins; what was recorded before it is not shown."""
        if self._start is None:
            self._start, self._spans = time.perf_counter(), []

    def end_step(self, step: int) -> None:
        """Write the last steps."""
        now = time.perf_counter()
        for actor in [actor for actor, count in self._running.items() if count]:
            self._cut(actor, now)
        start = self._start if self._start is not None else now
        spans = [
            [actor, part, round(max(a, start) - start, 4), round(b - start, 4)]
            for actor, part, a, b in self._spans
            if b > start
        ]
        self._steps.append({"step": step, "seconds": round(now - start, 4), "spans": spans})
        self._start, self._spans = now, []
        if self.file is not None:
            write_atomically(self.file, json.dumps({"steps": list(self._steps)}))

    def _cut(self, actor: str, now: float) -> None:
        self.add(actor, self._parts[actor], self._since[actor], now)
        self._since[actor] = now
