"""A GeneratorGroup for callers that do not wait for each other, and that may receive weights while they sample."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.engine.base import GeneratorServer
from hone.engine.generator_group import GeneratorGroup
from hone.engine.requests import requests_of
from hone.engine.weight_probe import WeightProbe
from hone.errors import ClusterError, WeightSyncError, WorkerLostError
from hone.types import Completion, Prompt, Sampling

NEXT_VERSION_S = 600.0
"""A server that is started again while the learner publishes waits so long for the new version."""


@dataclass(eq=False)
class _Request:
    prompt: Prompt
    sampling: Sampling
    done: asyncio.Future[Completion]


@dataclass(eq=False)
class _Slot:
    """A server, and what it is doing."""

    server: GeneratorServer
    running: dict[asyncio.Task[None], list[_Request]] = field(default_factory=dict)
    starts: int = 0
    restart: asyncio.Task[None] | None = None
    """Starts the server again, whoever waits for it."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while weights are received and while the server is started again."""

    @property
    def lost(self) -> bool:
        return self.restart is not None

    @property
    def free(self) -> bool:
        return not self.lost and (self.server.batches_itself or not self.running)


class ConcurrentGroup(GeneratorGroup):
    """Requests of all callers are in one queue. A free server takes the oldest `batch_size` of them, and one that makes
    batches itself takes every request at once.

    `receive` does not wait for completions: those that are running go on with the new weights, if the server can do so,
    else the server receives them after its present batch. Completions of a server that is lost are sampled again, from
    their beginning, by the present weights. Which requests share a batch, and which weights sample which token, depends
    on time.
    """

    def __init__(self, servers: Sequence[GeneratorServer], **settings: Any) -> None:
        """`settings`: see GeneratorGroup."""
        super().__init__(servers, **settings)
        self._slots = [_Slot(server) for server in servers]
        self._waiting: deque[_Request] = deque()
        self._received = asyncio.Event()
        self._failure: Exception | None = None
        """Why no server is started again."""
        self._closed = False

    def close(self) -> None:
        """Stop all servers."""
        self._closed = True
        super().close()

    async def receive(self, version: int) -> None:
        """Have every server load the weights that were published as `version`."""
        self.version, self.restarts = version, 0
        self._received.set()
        self._received = asyncio.Event()
        await asyncio.gather(*(self._receive_in(slot, version) for slot in self._slots))
        if self.probe is not None:
            sampled = await asyncio.gather(*(self._probe_in(self.probe, slot) for slot in self._slots))
            await self.probe.check(version, sampled)

    async def _probe_in(self, probe: WeightProbe, slot: _Slot) -> list[Completion]:
        while True:
            starts = slot.starts
            try:
                return await probe.sample(slot.server)
            except WorkerLostError as error:
                await self._recover(slot, starts, error)
                if self._closed:
                    raise

    async def _receive_in(self, slot: _Slot, version: int) -> None:
        """A server that is being started again gets the present version by that."""
        async with slot.lock:
            starts = slot.starts
            try:
                if not slot.lost:
                    return await slot.server.receive(version)
            except WorkerLostError as error:
                self._begin_restart(slot, error)
        await self._recovered(slot, starts)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As `Generator.generate`. If it is cancelled, so are the requests."""
        loop = asyncio.get_running_loop()
        requests = [_Request(one, sampling, loop.create_future()) for one in requests_of(prompts, count)]
        self._check_alive()
        self._waiting.extend(requests)
        loop.call_soon(self._dispatch)  # others may ask in this turn of the loop, too
        try:
            done = await asyncio.gather(*(request.done for request in requests))
        except BaseException:
            for request in requests:
                request.done.cancel()
            await self._abort(requests)
            raise
        return [done[p * count : (p + 1) * count] for p in range(len(prompts))]

    def _dispatch(self) -> None:
        """Hand waiting requests to free servers."""
        while self._waiting and not self._closed and self._failure is None:
            free = [slot for slot in self._slots if slot.free]
            if not free:
                return
            slot = min(free, key=lambda one: len(one.running))
            share = -(-len(self._waiting) // len(self._slots))
            size = 1 if slot.server.batches_itself else self.batch_size or share
            if batch := self._next_batch(size):
                task = asyncio.ensure_future(self._run(slot, batch))
                slot.running[task] = batch

    def _next_batch(self, size: int) -> list[_Request]:
        """The oldest requests that are still wanted, all with the same sampling parameters."""
        batch: list[_Request] = []
        while self._waiting and len(batch) < size:
            if self._waiting[0].done.done():
                self._waiting.popleft()
            elif batch and self._waiting[0].sampling != batch[0].sampling:
                break
            else:
                batch.append(self._waiting.popleft())
        return batch

    async def _run(self, slot: _Slot, batch: list[_Request]) -> None:
        starts = slot.starts
        try:
            done = await slot.server.generate([request.prompt for request in batch], batch[0].sampling)
        except WorkerLostError as error:
            self._waiting.extendleft(reversed(batch))
            with contextlib.suppress(WorkerLostError):  # the requests have it
                await self._recover(slot, starts, error)
        except Exception as error:
            _fail(batch, error)
        else:
            for request, (completion,) in zip(batch, done, strict=True):
                if not request.done.done():
                    request.done.set_result(completion)
        finally:
            slot.running.pop(asyncio.current_task(), None)  # type: ignore[arg-type]
            self._dispatch()

    async def _recover(self, slot: _Slot, starts: int, error: ClusterError) -> None:
        """Start a lost server again, once for all its requests."""
        if slot.starts == starts and not slot.lost and self._failure is None and not self._closed:
            self._begin_restart(slot, error)
        await self._recovered(slot, starts)

    async def _recovered(self, slot: _Slot, starts: int) -> None:
        """Wait for a restart, if there is one. Raises WorkerLostError if it failed."""
        if slot.starts == starts and slot.restart is not None:
            await asyncio.shield(slot.restart)
        self._check_alive()

    def _begin_restart(self, slot: _Slot, error: ClusterError) -> None:
        slot.restart = asyncio.ensure_future(self._restart_in(slot, error))

    async def _restart_in(self, slot: _Slot, error: ClusterError) -> None:
        """If it fails, so do all requests, also later ones."""
        try:
            async with slot.lock:
                await self._start_again(slot, error)
            if self._closed:
                slot.server.close()
        except Exception as failure:
            self._failure = failure
            outstanding = [one for other in self._slots for batch in other.running.values() for one in batch]
            _fail([*self._waiting, *outstanding], failure)
        finally:
            slot.restart = None
            self._dispatch()

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise WorkerLostError(str(self._failure)) from self._failure

    async def _start_again(self, slot: _Slot, error: ClusterError) -> None:
        """Restart the server with the present weights; while the learner publishes others, with those."""
        while True:
            version, received = self.version, self._received
            try:
                await self._restart(slot.server, version, error)
                break
            except WeightSyncError:
                if version == self.version:
                    await self._next_version(slot, received)
        slot.starts += 1

    async def _next_version(self, slot: _Slot, received: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(received.wait(), NEXT_VERSION_S)
        except asyncio.TimeoutError as error:
            raise WorkerLostError(
                f"{slot.server.name} was started again, but the learner published no weights for {NEXT_VERSION_S:.0f} s"
            ) from error

    async def _abort(self, requests: Sequence[_Request]) -> None:
        """Have servers stop what nobody waits for."""
        unwanted = {id(request) for request in requests}
        for slot in self._slots:
            for task, batch in [*slot.running.items()]:
                keys = [(r.prompt.id, r.prompt.first_completion) for r in batch if id(r) in unwanted]
                if not keys or slot.lost:
                    continue
                if slot.server.batches_itself:
                    task.cancel()
                else:
                    with contextlib.suppress(WorkerLostError):  # the call that is running raises it, too
                        await slot.server.abort(keys)


def _fail(requests: Sequence[_Request], error: BaseException) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error)
