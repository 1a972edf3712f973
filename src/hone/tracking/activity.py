"""What a run is doing while it has nothing else to say: reading data, loading a model, a slow step."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from hone.units import format_duration

QUIET_S = 10.0
"""Seconds without a word after which a run says what it is at, and again after as many seconds more."""


class Activity:
    """Prints `loading the model: 20s so far` every `every` seconds, from a thread of its own, while one activity lasts.
    What lasts less is never mentioned."""

    def __init__(self, *, stream: TextIO | None = None, every: float = QUIET_S) -> None:
        self._stream, self._every = stream, every
        self._text: str | None = None
        self._since = 0.0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, text: str) -> None:
        """From now on the run does what `text` says."""
        with self._changed:
            self._text, self._since = text, time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True, name="activity")
                self._thread.start()
            self._changed.notify()

    def end(self) -> None:
        """The run says something by itself again, or is over."""
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
                    lasted = time.monotonic() - begun
                    print(f"{self._text}: {format_duration(lasted)} so far", file=self._out(), flush=True)

    def _out(self) -> TextIO:
        return self._stream if self._stream is not None else sys.stdout


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Say `text` and how long it has taken, every QUIET_S seconds until the block is left."""
    activity = Activity()
    activity.begin(text)
    try:
        yield
    finally:
        activity.close()
