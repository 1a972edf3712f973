"""Imports during a call count against their own time limit: the worker reports them, and the parent's timer pauses.

Imports the standard library only.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_BEGINS, _ENDS = b"(", b")"


def announce_imports(fd: int) -> None:
    """Worker side: write a byte to `fd` when the import of a new module begins, and another when it ends."""
    announced = _Announcer(fd).announced
    import_, import_module = builtins.__import__, importlib.import_module

    def importing(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if level == 0 and not fromlist and name in sys.modules:
            return import_(name, globals, locals, fromlist, level)
        with announced():
            return import_(name, globals, locals, fromlist, level)

    def importing_module(name: str, package: str | None = None) -> Any:
        with announced():
            return import_module(name, package)

    builtins.__import__ = importing
    importlib.import_module = importing_module


class _Announcer:
    """Counts nested imports; only the outermost is reported."""

    def __init__(self, fd: int) -> None:
        self._fd, self._pid = fd, os.getpid()
        self._lock = threading.Lock()
        self._depth = 0

    @contextlib.contextmanager
    def announced(self) -> Iterator[None]:
        self._move(1)
        try:
            yield
        finally:
            self._move(-1)

    def _move(self, by: int) -> None:
        with self._lock:
            previous, self._depth = self._depth, self._depth + by
            if os.getpid() != self._pid or (previous and self._depth):  # the imports of a fork do not count
                return
            with contextlib.suppress(OSError):
                os.write(self._fd, _BEGINS if by > 0 else _ENDS)


class CallTimer:
    """Parent side: the time left for a call. Time that the worker spends on imports counts against `import_s`."""

    def __init__(
        self,
        call_s: float,
        import_s: float = 0.0,
        import_events: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`import_events`: a non-blocking descriptor with the worker's bytes; None if imports are not reported."""
        self._call_s, self._import_s, self._import_events, self._now = call_s, import_s, import_events, now
        self._start, self._imported = now(), 0.0
        self._since: float | None = None
        self.read_events()  # discards those from before this call
        self._since, self._imported = None, 0.0

    def read_events(self) -> None:
        """Read which imports have begun and ended."""
        events = b""
        if self._import_events is not None:
            with contextlib.suppress(BlockingIOError):
                events = os.read(self._import_events, 1 << 16)
        for event in events:
            if event == _BEGINS[0]:
                self._since = self._now()
            elif self._since is not None:
                self._imported, self._since = self._imported + self._now() - self._since, None

    def remaining(self) -> float:
        """Seconds left."""
        if self._since is not None:
            return self._import_s - self._imported - (self._now() - self._since)
        return self._call_s - (self._now() - self._start - min(self._imported, self._import_s))

    def cause(self) -> str:
        """The cause of failure of a call that took too long."""
        if self._since is not None:
            return f"timeout after {self._import_s:g} s of imports"
        return f"timeout after {self._call_s:g} s"
