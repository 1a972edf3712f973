"""Waiting for the ranks' answers, and telling a long piece of work from a hang, a death from its echo."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hone.engine.ray.nodes import ray

if ray is not None:
    from ray.exceptions import RayError

if TYPE_CHECKING:
    from hone.engine.ray.worker_group import WorkerGroup

LOOK_S = 5.0
"""Seconds between looks at the ranks' pulses, and what a rank has to answer."""


class Watchdog:
    """Tells a long piece of work from a hang, by the ranks' pulses."""

    def __init__(self, workers: WorkerGroup, method: str, seconds: float) -> None:
        self.workers, self.doing, self.seconds = workers, method, seconds
        self.counts: dict[int, int | None] = {}
        self.moved = time.monotonic()

    async def hung(self, waiting: Sequence[int]) -> str | None:
        """Why this is a hang, once no rank that is waited for has got on for long enough."""
        before, self.counts = self.counts, dict.fromkeys(waiting)
        for rank in waiting:
            if (pulse := await self._control(rank, "pulse")) is not None:
                self.counts[rank], self.doing = pulse
        if any(count is not None and count != before.get(rank) for rank, count in self.counts.items()):
            self.moved = time.monotonic()
        if time.monotonic() - self.moved < self.seconds:
            return None
        # Who does not answer, else who is furthest behind: the others wait for it.
        rank = min(waiting, key=lambda rank: -1 if (count := self.counts[rank]) is None else count)
        stack = await self._control(rank, "stacks")
        where = f"; it is here:\n{stack}" if stack else "; it does not answer"
        return f"{self.workers.name(rank)} made no progress for {self.seconds:.0f} s in {self.doing}{where}"

    async def _control(self, rank: int, method: str) -> Any:
        actor = self.workers.actors[rank]
        ref = getattr(actor, method).options(concurrency_group="control").remote()
        try:
            return await asyncio.wait_for(answer_of(ref), LOOK_S)
        except (TimeoutError, asyncio.TimeoutError, RayError):
            return None


async def answer_of(ref: Any) -> Any:
    """What a call comes back with."""
    return await asyncio.wrap_future(ref.future())


def death_reason(error: BaseException) -> str:
    """The part of Ray's account of a death that says something."""
    text = " ".join(str(error).split())
    for mark in ("Worker exit detail:", "The actor is dead because"):
        if mark in text:
            text = text.split(mark, 1)[1].strip()
    return text.split(" Some common causes")[0].rstrip(".") + " (killed, or out of memory?)"


def is_communication_error(error: BaseException) -> bool:
    """Whether this is PyTorch's communication giving up, which has no exception of its own."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(
        word in text
        for word in ("gloo", "nccl", "connection", "distbackend", "distnetwork", "timed out", "store")
    )


_SIDE: list[asyncio.AbstractEventLoop] = []


def background_loop() -> asyncio.AbstractEventLoop:
    """An event loop on a thread of its own, for waiting on Ray from code that is and that is not async."""
    if not _SIDE:
        _SIDE.append(asyncio.new_event_loop())
        threading.Thread(target=_SIDE[0].run_forever, daemon=True, name="ray-answers").start()
    return _SIDE[0]
