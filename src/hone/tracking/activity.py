"""Lines that say what a quiet run is doing: reading data, loading a model, a slow step."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from hone.units import format_duration

QUIET_S = 10.0
"""Seconds without output after which a run prints what it is doing, and between two such lines."""


class Activity:
    """Prints `loading the model: 20s so far` every `every` seconds while an activity lasts, from a thread of its own.
    Shorter activities print nothing."""

    def __init__(self, *, stream: TextIO | None = None, every: float = QUIET_S) -> None:
        self._stream, self._every = stream, every
        self._text: str | None = None
        self._since = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, text: str) -> None:
        """Begin the activity that `text` names, in place of the last one."""
        with self._changed:
            self._text, self._since = text, time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True, name="activity")
                self._thread.start()
            self._changed.notify()

    def end(self) -> None:
        """The activity is over: the run prints something itself again, or ends."""
        with self._changed:
            self._text = None
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            thread, self._thread, self._text = self._thread, None, None
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _watch(self) -> None:
        me = threading.current_thread()
        with self._changed:
            while self._thread is me:
                begun = self._since
                if self._text is None:
                    self._changed.wait()
                elif not self._changed.wait(self._every) and self._since == begun and self._text is not None:
                    lasted = format_duration(time.monotonic() - begun)
                    print(f"{self._text}: {lasted} so far", file=self._stream or sys.stdout, flush=True)


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Print `text` and its duration every QUIET_S seconds until the block is left."""
    activity = Activity()
    activity.begin(text)
    try:
        yield
    finally:
        activity.close()
