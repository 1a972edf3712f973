"""How many samples of a batch may fail before the run stops."""

from __future__ import annotations

import math
from collections import Counter

from hone.errors import RewardError


class FailureBudget:
    """Counts failed samples by cause. One failure stops no run by itself, unless `fraction` is 0 or the batch has one
    sample."""

    def __init__(self, fraction: float, size: int) -> None:
        """fraction: `rewards.max_failure_fraction`. size: samples of the batch."""
        self._fraction, self._size = fraction, size
        self._kinds: Counter[str] = Counter()
        self._first = ""
        self.causes: dict[int, list[str]] = {}
        """The causes of each failed sample, by its index."""

    def add(self, index: int, cause: str, kind: str | None = None, detail: str = "") -> None:
        """Record a failure. `kind`: the cause as counted; `detail`: a traceback, or the last output."""
        self.causes.setdefault(index, []).append(cause)
        self._kinds[kind or cause] += 1
        self._first = self._first or f"{cause}\n{detail}".rstrip()

    def check(self, failed: str, time_limit: str) -> None:
        """Raise RewardError where too many samples failed. `failed` says what happened to them ("could not be
        scored"), `time_limit` names the setting that bounds a call."""
        allowed = math.floor(self._fraction * self._size)
        if self._fraction > 0 and self._size > 1:
            allowed = max(1, allowed)
        if len(self.causes) <= allowed:
            return
        counts = "; ".join(f"{count} x {kind}" for kind, count in self._kinds.most_common(5))
        late = f"{time_limit} or " if any(kind.startswith("timeout") for kind in self._kinds) else ""
        raise RewardError(
            f"at least {len(self.causes)} of {self._size} {failed}, more than "
            f"rewards.max_failure_fraction={self._fraction:g} allows: {counts}. "
            f"Correct the code that failed, or raise {late}that bound. The first: {self._first}"
        )
