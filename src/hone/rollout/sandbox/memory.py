"""How much memory a program holds, all of its processes together: limits of the kernel's bind each of them alone."""

from __future__ import annotations

import contextlib
import os
import time

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARE = 0.05  # of the time may go into looking


class Meter:
    """Looks at the descendants of a process, `root`, through /proc. Without /proc there is nothing to see."""

    def __init__(self, root: int) -> None:
        self._proc: int | None = None
        self._root = root
        with contextlib.suppress(OSError):
            self._proc = os.open("/proc", os.O_RDONLY | os.O_CLOEXEC)
        self.pause_s = 0.05
        """How long to wait before the next look."""

    def exceeded(self, limit_bytes: int, limit_processes: int) -> str | None:
        """`memory` where they hold more than this (pages that several share count once); `processes` where there are
        more, threads among them: the kernel's limit does not bind whoever was root outside of a namespace."""
        begin = time.monotonic()
        found = self._descendants()
        held, threads = {pid: size for pid, (size, _) in found.items()}, sum(n for _, n in found.values())
        over = sum(held.values()) > limit_bytes and sum(map(self._own, held)) > limit_bytes
        self.pause_s = max(0.05, (time.monotonic() - begin) / _SHARE)
        return "memory" if over else "processes" if threads > limit_processes else None

    def _descendants(self) -> dict[int, tuple[int, int]]:
        """Of each descendant, resident bytes and threads."""
        seen: dict[int, tuple[int, int, int]] = {}
        for name in os.listdir(self._proc) if self._proc is not None else ():
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = self._read(f"{name}/stat").rpartition(b")")[2].split()
                    seen[int(name)] = int(fields[1]), int(fields[21]) * _PAGE, int(fields[17])
        found = {self._root}
        while new := {pid for pid, (parent, _, _) in seen.items() if parent in found} - found:
            found |= new
        return {pid: seen[pid][1:] for pid in found - {self._root} if pid in seen}

    def _own(self, pid: int) -> int:
        """The process's proportional share of what it holds."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in self._read(f"{pid}/smaps_rollup").splitlines():
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
        return 0

    def _read(self, path: str) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            return os.read(descriptor, 1 << 16)
        finally:
            os.close(descriptor)
