"""How long a generator is at work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hone.types import Completion, Generator, Prompt, Sampling


class BusyGenerator:
    """A generator that measures the time in which at least one call is running."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._calls, self._busy = 0, 0.0
        self._since = self._read = time.perf_counter()

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As the generator's."""
        self._count(1)
        try:
            return await self.generator.generate(prompts, sampling, count=count)
        finally:
            self._count(-1)

    def idle_share(self) -> float:
        """The share of the time since the last call of this function in which nothing was sampled."""
        self._count(0)
        total, self._read = self._since - self._read, self._since
        share = 1 - self._busy / total if total else 0.0
        self._busy = 0.0
        return share

    def _count(self, change: int) -> None:
        now = time.perf_counter()
        if self._calls:
            self._busy += now - self._since
        self._calls, self._since = self._calls + change, now
