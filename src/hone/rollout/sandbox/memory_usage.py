"""The memory of all processes of a program together: the kernel's limits apply to each process separately."""

from __future__ import annotations

import contextlib
import os
import time

from hone.rollout.workers.reaper import descendant_stats

_PAGE = os.sysconf("SC_PAGE_SIZE")
_THREADS, _RESIDENT = 17, 21
"""Fields of /proc/PID/stat, counted from the state."""
_SHARE = 0.05  # the fraction of time for measurements


class MemoryMeter:
    """Measures the descendants of the process `root` through /proc; without /proc it measures nothing."""

    def __init__(self, root: int) -> None:
        self._root = root
        self.pause_s = 0.05
        """Seconds until the next measurement."""

    def exceeded(self, limit_bytes: int, limit_processes: int) -> str | None:
        """`memory` if they use more (shared pages count once); `processes` if there are more, threads included (the
        kernel's limit does not apply to a process that was root outside its namespace)."""
        begin = time.monotonic()
        stats = descendant_stats(self._root)
        held = sum(int(fields[_RESIDENT]) for fields in stats.values()) * _PAGE
        over = held > limit_bytes and sum(map(_own, stats)) > limit_bytes
        threads = sum(int(fields[_THREADS]) for fields in stats.values())
        self.pause_s = max(0.05, (time.monotonic() - begin) / _SHARE)
        return "memory" if over else "processes" if threads > limit_processes else None


def _own(pid: int) -> int:
    """The proportional set size of a process in bytes; 0 where it is not readable."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith(b"Pss:"))
    return 0
