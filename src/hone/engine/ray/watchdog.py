"""Detect ranks that hang, and find the cause of a failure that spreads to other ranks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hone.engine.ray.nodes import ray

if ray is not None:
    from ray.exceptions import RayError

LOOK_S = 5.0
"""Seconds between two requests for heartbeats, and the timeout of each request."""


class Watchdog:
    """Tells a long call from a hang by the ranks' heartbeats."""

    def __init__(
        self, actors: Sequence[Any], name: Callable[[int], str], method: str, seconds: float
    ) -> None:
        self.actors, self.name, self.doing, self.seconds = actors, name, method, seconds
        self.counts: dict[int, int | None] = {}
        self.last_progress = time.monotonic()

    async def hang(self, waiting: Sequence[int]) -> str | None:
        """The error message once none of the `waiting` ranks has made progress for `seconds`; None before that."""
        previous, self.counts = self.counts, dict.fromkeys(waiting)
        for rank in waiting:
            if (heartbeat := await self._control(rank, "heartbeat")) is not None:
                self.counts[rank], self.doing = heartbeat
        if any(count is not None and count != previous.get(rank) for rank, count in self.counts.items()):
            self.last_progress = time.monotonic()
        if time.monotonic() - self.last_progress < self.seconds:
            return None
        # The rank that does not answer, or the one with the least progress: the others wait for it.
        rank = min(waiting, key=lambda rank: -1 if (count := self.counts[rank]) is None else count)
        stack = await self._control(rank, "stacks")
        where = f"; it is here:\n{stack}" if stack else "; it does not answer"
        return f"{self.name(rank)} made no progress for {self.seconds:.0f} s in {self.doing}{where}"

    async def _control(self, rank: int, method: str) -> Any:
        ref = getattr(self.actors[rank], method).options(concurrency_group="control").remote()
        try:
            return await asyncio.wait_for(answer_of(ref), LOOK_S)
        except (TimeoutError, asyncio.TimeoutError, RayError):
            return None


async def answer_of(ref: Any) -> Any:
    """The result of a remote call."""
    return await asyncio.wrap_future(ref.future())


def death_reason(error: BaseException) -> str:
    """The informative part of Ray's message about a dead actor."""
    text = " ".join(str(error).split())
    for mark in ("Worker exit detail:", "The actor is dead because"):
        if mark in text:
            text = text.split(mark, 1)[1].strip()
    return text.split(" Some common causes")[0].rstrip(".") + " (killed, or out of memory?)"


def is_communication_error(error: BaseException) -> bool:
    """Whether PyTorch's communication failed; PyTorch has no exception type for this."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(
        word in text
        for word in ("gloo", "nccl", "connection", "distbackend", "distnetwork", "timed out", "store")
    )


_SIDE: list[asyncio.AbstractEventLoop] = []


def background_loop() -> asyncio.AbstractEventLoop:
    """An event loop on its own thread, to wait for Ray from both async and other code."""
    if not _SIDE:
        _SIDE.append(asyncio.new_event_loop())
        threading.Thread(target=_SIDE[0].run_forever, daemon=True, name="ray-answers").start()
    return _SIDE[0]
