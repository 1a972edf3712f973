"""Batches the requests of concurrent multi-turn rollouts.

    async with GenerationBatcher(generator, sampling, max_wait_s=1.0) as batcher:
        async with batcher.participate():                 # one running rollout
            completion = await batcher.generate(prompt)   # `prompt.id` names the rollout's turn

A batch starts when the generator is free and every running rollout waits for it. A rollout whose environment takes
longer than `max_wait_s` joins a later batch (None: all are waited for). Sampling depends only on a prompt's id and
number, so tokens do not depend on the batch. Log-probabilities are bit-identical if the same rows share a batch, which
holds while no environment is slower than `max_wait_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from hone.types import Completion, Generator, Prompt, Sampling


@dataclass
class GenerationBatcher:
    """Collects requests of rollouts into batches."""

    generator: Generator
    sampling: Sampling
    max_wait_s: float | None = 1.0
    _waiting: list[tuple[Prompt, asyncio.Future[Completion]]] = field(default_factory=list)
    _active: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> GenerationBatcher:
        self._task = asyncio.ensure_future(self._serve())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @contextlib.asynccontextmanager
    async def participate(self) -> AsyncIterator[None]:
        """Within this context, batches wait for the rollout's request or its end."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            self._changed.set()

    async def generate(self, prompt: Prompt) -> Completion:
        """One completion of the prompt, the one of index `first_completion`. Raises what the generator raises."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, future))
        self._changed.set()
        return await future

    async def _serve(self) -> None:
        while True:
            await self._gather()
            batch = sorted(self._waiting, key=lambda item: (item[0].id, item[0].first_completion))
            self._waiting = []
            try:
                done = await self.generator.generate([prompt for prompt, _ in batch], self.sampling)
            except BaseException as error:  # each waiting `generate` raises it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                continue
            for (_, future), completions in zip(batch, done, strict=True):
                if not future.done():
                    future.set_result(completions[0])

    async def _gather(self) -> None:
        """Wait for a first request, then for a request of every running rollout, at most `max_wait_s`."""

        async def changes_until(done: Callable[[], bool]) -> None:
            while not done():
                self._changed.clear()
                await self._changed.wait()

        await changes_until(lambda: bool(self._waiting))
        with contextlib.suppress(asyncio.TimeoutError):
            all_asked = changes_until(lambda: len(self._waiting) >= self._active)
            await asyncio.wait_for(all_asked, self.max_wait_s)


class Unbatched(GenerationBatcher):
    """The same for a generator that collects the requests of concurrent calls itself: each is a call of its own."""

    async def __aenter__(self) -> Unbatched:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def generate(self, prompt: Prompt) -> Completion:
        """One completion of the prompt. Raises what the generator raises."""
        [[completion]] = await self.generator.generate([prompt], self.sampling)
        return completion
