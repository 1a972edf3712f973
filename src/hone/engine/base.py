"""The interface of a training loop to its models: Engine, GeneratorServer and WeightTransport."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from hone.types import Generator, LogprobModel, Teacher, TrainedModel


class WeightPublisher(Protocol):
    """The learner's side of a WeightTransport."""

    async def publish(self, version: int) -> None:
        """Make the learner's present weights available as `version`."""


class WeightReceiver(Protocol):
    """The generator's side of a WeightTransport."""

    async def receive(self, version: int) -> None:
        """Load and verify the weights that were published as `version`."""


class WeightTransport(WeightPublisher, WeightReceiver, Protocol):
    """Transfers the learner's weights to a generator, by version. After every update of the weights:

        await transport.publish(version)    # on the learner's side, by all of its ranks
        await transport.receive(version)    # on the generator's side, which then samples from these weights

    `receive` raises WeightSyncError, which names both versions, if the wanted version is missing or incomplete, or if
    the generator then holds other weights. A generator never samples from weights of an unknown version.
    """


class Transport:
    """A WeightTransport that combines a publisher and a receiver."""

    def __init__(self, publisher: WeightPublisher, receiver: WeightReceiver) -> None:
        self.publish, self.receive = publisher.publish, receiver.receive


class Sleeper(Protocol):
    """A generator that can give up its memory."""

    async def sleep(self) -> None:
        """Give it up until the next `receive`."""


class GeneratorServer(Generator, WeightReceiver, Protocol):
    """A generator outside this process: a child process, a Ray actor, a server with a URL.

        server.start()                     # launch it, or connect to it
        await server.receive(version)      # it loads the weights that were published as `version`
        await server.generate(prompts, sampling)
        server.close()

    Every call returns a result, or raises the HoneError of the generator or WorkerLostError. The latter names the
    server: it died, cannot be reached, or made no progress for `cluster.worker_timeout_s`. After a WorkerLostError,
    `close`, `start`, and `receive` with the current version are called before the next `generate`.
    """

    name: str
    """The name in messages: `generator 0`."""
    batches_itself: bool
    """Whether `generate` is called while other calls run, and batches them with its own; else one call is made after
    the other."""

    def start(self) -> None:
        """Return when the server is ready. Raises ClusterError (or its subclass WorkerLostError) if it cannot start."""

    async def abort(self, keys: Sequence[tuple[str, int]]) -> None:
        """End completions (prompt id, number) of the running call soon, if it can; what they return is not used. With
        `batches_itself` their calls are cancelled instead."""

    def close(self) -> None:
        """Stop the server if `start` launched it. It may have died already, or never have started."""


@dataclass
class Engine:
    """The models and the generator of a run; those that the algorithm does not need are None.

    It is a context manager: on exit, the processes that it started are stopped.
    """

    tokenizer: PreTrainedTokenizerBase
    learner: TrainedModel
    reference: LogprobModel | None = None
    generator: Generator | None = None
    value: TrainedModel | None = None
    """A second trained model with a scalar head, which estimates the values of states."""
    teacher: Teacher | None = None
    """A frozen model whose distribution the policy learns."""
    transport: WeightTransport | None = None
    """From the learner to the generator."""
    sleepers: Sequence[Sleeper] = ()
    """Generators that give up memory while the learner trains."""
    ranks: int = 1
    """The number of devices that the learner is sharded over."""
    notices: list[str] = field(default_factory=list)
    """Notices for the run's log about what was chosen or detected."""
    resources: ExitStack = field(default_factory=ExitStack)
    """Processes and folders that `close` releases, in reverse order."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def trained_models(self) -> dict[str, TrainedModel]:
        """The trained models, by their names in a checkpoint."""
        return {"policy": self.learner} | ({"value": self.value} if self.value is not None else {})

    async def begin_update(self) -> None:
        """Before the learner trains on what was sampled: generators that share its devices give up memory until they
        receive weights."""
        await asyncio.gather(*(generator.sleep() for generator in self.sleepers))

    async def sync_weights(self, version: int) -> None:
        """Give the generator the learner's weights. Raises WeightSyncError (see WeightTransport)."""
        assert self.transport is not None
        await self.transport.publish(version)
        await self.transport.receive(version)

    def close(self) -> None:
        """Stop all processes that were started for the run."""
        self.resources.close()

    def can_grow(self) -> bool:
        """Whether requested nodes that were missing have joined the cluster."""
        return False

    async def usage(self) -> dict[str, float]:
        """Load and memory of the ranks, for the metrics. Those of this process are measured elsewhere."""
        return {}
