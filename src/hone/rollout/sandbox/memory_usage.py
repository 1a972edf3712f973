"""How much memory a program holds, all of its processes together: limits of the kernel's bind each of them alone."""

from __future__ import annotations

import contextlib
import os
import time

from hone.rollout.workers.reaper import descendant_stats

_PAGE = os.sysconf("SC_PAGE_SIZE")
_THREADS, _RESIDENT = 17, 21
"""Fields of /proc/PID/stat, counted from the state."""
_SHARE = 0.05  # of the time may go into looking


class Meter:
    """Looks at the descendants of a process, `root`, through /proc. Without /proc there is nothing to see."""

    def __init__(self, root: int) -> None:
        self._root = root
        self.pause_s = 0.05
        """How long to wait before the next look."""

    def exceeded(self, limit_bytes: int, limit_processes: int) -> str | None:
        """`memory` where they hold more than this (pages that several share count once); `processes` where there are
        more, threads among them: the kernel's limit does not bind whoever was root outside of a namespace."""
        begin = time.monotonic()
        stats = descendant_stats(self._root)
        held = sum(int(fields[_RESIDENT]) for fields in stats.values()) * _PAGE
        over = held > limit_bytes and sum(map(_own, stats)) > limit_bytes
        threads = sum(int(fields[_THREADS]) for fields in stats.values())
        self.pause_s = max(0.05, (time.monotonic() - begin) / _SHARE)
        return "memory" if over else "processes" if threads > limit_processes else None


def _own(pid: int) -> int:
    """A process's proportional share of the memory that it holds, in bytes; 0 where that cannot be seen."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
    return 0
