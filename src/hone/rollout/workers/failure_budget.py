"""The number of samples of a batch that may fail before the run stops."""

from __future__ import annotations

import math
from collections import Counter

from hone.errors import RewardError


class FailureBudget:
    """Counts failed samples by cause. A single failure does not stop a run, unless `fraction` is 0 or the batch has
    only one sample."""

    def __init__(self, fraction: float, size: int) -> None:
        """fraction: `rewards.max_failure_fraction`. size: samples in the batch."""
        self._fraction, self._size = fraction, size
        self._categories: Counter[str] = Counter()
        self._first = ""
        self.causes: dict[int, list[str]] = {}
        """The causes of each failed sample, by its index."""

    def add(self, index: int, cause: str, category: str | None = None, detail: str = "") -> None:
        """Record a failure. `category`: what it is counted as, None for the cause itself; `detail`: a traceback, or
        the last output."""
        self.causes.setdefault(index, []).append(cause)
        self._categories[category or cause] += 1
        self._first = self._first or f"{cause}\n{detail}".rstrip()

    def check(self, failed: str, time_limit: str, fix: str = "Correct the code that failed") -> None:
        """Raise RewardError if too many samples failed. `failed` is the predicate of the message ("could not be
        scored"); `time_limit` names the setting that limits a call; `fix` is what the message advises."""
        allowed = math.floor(self._fraction * self._size)
        if self._fraction > 0 and self._size > 1:
            allowed = max(1, allowed)
        if len(self.causes) <= allowed:
            return
        counts = "; ".join(f"{count} x {name}" for name, count in self._categories.most_common(5))
        late = f"{time_limit} or " if any(name.startswith("timeout") for name in self._categories) else ""
        raise RewardError(
            f"at least {len(self.causes)} of {self._size} {failed}, more than "
            f"rewards.max_failure_fraction={self._fraction:g} allows: {counts}. "
            f"{fix}, or raise {late}that limit. The first failure: {self._first}"
        )
