"""Completions by request: each is awaited on its own, and all that are outstanding are decoded together.

    async with RequestGenerator(generator) as requests:
        completion = await requests.generate_one(prompt, sampling)
        async with requests.paused():             # between two decoding steps
            await transport.receive(version)      # rows go on with the new weights

A request that is cancelled (its task is, or a `wait_for` around it ends) leaves the batch before the next step. Steps
run in a thread, so that the event loop goes on meanwhile. What a completion samples depends on its prompt's id, its
index and the seed, never on what else is asked for; its log-probabilities depend on that by rounding.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from hone.engine.local.decoding_row import DecodingRow
from hone.engine.local.generator import LocalGenerator
from hone.types import Completion, Prompt, Sampling


class RequestGenerator:
    """Serves a LocalGenerator by request, with its settings of continuous batching.

    While a request is outstanding and it is not paused, the generator's weights must not change, and the model is not
    to be used elsewhere. With `recompute`, the keys of running rows are computed again after a pause, from the new
    weights; otherwise rows keep those that they have.
    """

    def __init__(self, generator: LocalGenerator, *, recompute: bool = False) -> None:
        self.generator, self.recompute = generator, recompute
        self.batcher = generator.batcher()
        self._futures: dict[DecodingRow, asyncio.Future[Completion]] = {}
        self._turn = asyncio.Lock()
        """Held by a step, and by a pause."""
        self._wanted = asyncio.Event()
        self._prepared = contextlib.ExitStack()
        """The generator's `decoding`, from the first request to a pause or the last completion."""
        self._is_prepared = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RequestGenerator:
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(self._fail)
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Cancel what is outstanding. Raises the error of a step that failed, unless another one ends the block."""
        assert self._task is not None
        async with self._turn:  # a step that runs is waited for: a thread cannot be stopped
            self._task.cancel()
            self._release()
        (ended,) = await asyncio.gather(self._task, return_exceptions=True)
        if error is None and isinstance(ended, Exception):
            raise ended

    async def generate_one(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """The completion of index `first_completion`. Raises what `LocalGenerator.generate` raises."""
        assert self._task is not None
        if self._task.done():
            self._task.result()
        row = DecodingRow.of(prompt, prompt.first_completion, sampling, self.generator.context)
        self._futures[row] = asyncio.get_running_loop().create_future()
        request = self.batcher.add(row)
        self._wanted.set()
        try:
            return await self._futures[row]
        finally:
            self.batcher.cancel(request)
            del self._futures[row]

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Wait for the running step to end; no other begins until the exit. The weights may change meanwhile."""
        async with self._turn:
            self._release()
            yield
            if self.recompute:
                self.batcher.recompute()

    def _release(self) -> None:
        self._prepared.close()
        self._is_prepared = False

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self.batcher.busy:
                async with self._turn:
                    await self._step()
            async with self._turn:
                if not self.batcher.busy:
                    self._release()
                    self.batcher = self.generator.batcher()  # without the memory of the one before

    async def _step(self) -> None:
        if not self._is_prepared:
            self._prepared.enter_context(self.generator.decoding(self.generator.context))
            self._is_prepared = True
        for row in await asyncio.to_thread(self.batcher.step, self.generator.version or 0):
            if (future := self._futures.get(row)) is not None and not future.done():
                future.set_result(row.completion())

    def _fail(self, task: asyncio.Task[None]) -> None:
        """End all outstanding requests as the task ended."""
        error = None if task.cancelled() else task.exception()
        for future in self._futures.values():
            if future.done():
                continue
            if error is None:
                future.cancel()
            else:
                future.set_exception(error)
