"""Generators outside of this process as one: prompts are spread over them, and one that is lost is started again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from hone.engine.base import GeneratorServer
from hone.engine.requests import completions_per_batch, requests_of
from hone.engine.weight_probe import WeightProbe
from hone.errors import ClusterError, WorkerLostError
from hone.types import Completion, Prompt, Sampling


class GeneratorGroup:
    """A Generator and WeightReceiver made of servers. The next `batch_size` completions go to the next free one.

    Batches do not depend on the servers, their number or restarts, and are those that one built-in generator would make
    of the same prompts: so are the completions and, in fp32, the bits of their log-probabilities. Servers that make
    batches of their own have a `batch_size` of None: each is asked for its share of the completions at once.

    With a `probe` it is checked after every `receive`, and after every restart, that servers sample from the learner's
    weights.
    """

    def __init__(
        self,
        servers: Sequence[GeneratorServer],
        *,
        batch_size: int | None,
        max_restarts: int,
        probe: WeightProbe | None = None,
    ) -> None:
        self.servers, self.batch_size, self.max_restarts = servers, batch_size, max_restarts
        self.probe = probe
        self.version = 0
        self.restarts = 0
        """Since all servers received a version."""

    def start(self) -> None:
        """Start all servers at once. Raises ClusterError for one that cannot be had."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(lambda server: server.start(), self.servers))

    def close(self) -> None:
        """Stop all servers."""
        for server in self.servers:
            server.close()

    async def receive(self, version: int) -> None:
        """Have every server load the weights that were published as `version`. Raises WeightSyncError for a server
        that then does not sample from them."""
        await asyncio.gather(*(self._receive(server, version) for server in self.servers))
        if self.probe is not None:
            sampled = await asyncio.gather(*(self._probed(self.probe, one, version) for one in self.servers))
            await self.probe.check(version, sampled)
        self.version, self.restarts = version, 0

    async def _probed(self, probe: WeightProbe, server: GeneratorServer, version: int) -> list[Completion]:
        while True:
            try:
                return await probe.sample(server)
            except WorkerLostError as error:
                await self._restart(server, version, error)

    async def _receive(self, server: GeneratorServer, version: int) -> None:
        try:
            await server.receive(version)
        except WorkerLostError as error:
            await self._restart(server, version, error)

    async def _restart(self, server: GeneratorServer, version: int, error: ClusterError) -> None:
        """Start a server that was lost, and have it receive the present weights.

        Raises WorkerLostError after more than `max_restarts` restarts, of all servers, since they received a version.
        """
        while True:
            self.restarts += 1
            if self.restarts > self.max_restarts:
                raise WorkerLostError(str(error)) from error
            print(f"{error}\nstarting {server.name} again", file=sys.stderr, flush=True)
            try:
                server.close()
                await asyncio.to_thread(server.start)
                await server.receive(version)
                if self.probe is not None:
                    await self.probe.check_again(version, server)
                return
            except ClusterError as again:
                error = again

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As `Generator.generate`; completions of a server that is lost are sampled again, with the same seeds."""
        requests = requests_of(prompts, count)
        share = -(-len(prompts) // len(self.servers)) * count
        size = max(1, share if self.batch_size is None else completions_per_batch(self.batch_size, count))
        starts: asyncio.Queue[int | None] = asyncio.Queue()
        done: dict[int, list[list[Completion]]] = {}

        async def serve(server: GeneratorServer) -> None:
            while (start := await starts.get()) is not None:
                try:
                    done[start] = await server.generate(requests[start : start + size], sampling)
                except WorkerLostError as error:
                    starts.put_nowait(start)
                    await self._restart(server, self.version, error)
                finally:
                    starts.task_done()

        for start in range(0, len(requests), size):
            starts.put_nowait(start)
        finished = asyncio.ensure_future(starts.join())
        serving = [asyncio.ensure_future(serve(server)) for server in self.servers]
        try:
            await asyncio.wait([finished, *serving], return_when=asyncio.FIRST_COMPLETED)
            for _ in serving:
                starts.put_nowait(None)
            await asyncio.gather(*serving)
        finally:
            for task in (finished, *serving):
                task.cancel()
        flat = [one for each in chain.from_iterable(done[start] for start in sorted(done)) for one in each]
        return [flat[p * count : (p + 1) * count] for p in range(len(prompts))]
