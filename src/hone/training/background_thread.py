"""A coroutine in a thread of its own, which can be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Coroutine
from typing import Any


class BackgroundThread:
    """Awaits a coroutine in a thread, with an event loop of its own."""

    def __init__(self, work: Coroutine[Any, Any, dict[str, float]]) -> None:
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ident: int | None = None
        self._stopped = False
        run = asyncio.get_running_loop().run_in_executor
        self.future = run(None, lambda: asyncio.run(self._in_loop()))

    async def result(self) -> dict[str, float]:
        """Its result. If this is cancelled, the thread goes on."""
        await asyncio.wait([self.future])
        return self.future.result()

    def stop(self) -> None:
        """End it where Python's next instruction would run, as Ctrl-C ends the main thread."""
        self._stopped = True
        if self._ident is None or self._loop is None:
            return
        stop = ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), stop)
        with contextlib.suppress(RuntimeError):  # it has just ended
            self._loop.call_soon_threadsafe(lambda: None)  # it may be waiting for a worker

    async def _in_loop(self) -> dict[str, float]:
        self._loop, self._ident = asyncio.get_running_loop(), threading.get_ident()
        try:
            if self._stopped:
                raise KeyboardInterrupt
            return await self._work
        finally:
            self._ident = None
            self._work.close()
