"""What a loop works with: the run's models, its generator, and the way of the weights from one to the other."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from hone.types import Generator, Scorer, Teacher, TrainedModel


class WeightPublisher(Protocol):
    """The learner's side of a WeightTransport."""

    async def publish(self, version: int) -> None:
        """Make the learner's present weights available as `version`."""


class WeightReceiver(Protocol):
    """The generator's side of a WeightTransport."""

    async def receive(self, version: int) -> None:
        """Load the weights that were published as `version`, and verify them."""


class WeightTransport(WeightPublisher, WeightReceiver, Protocol):
    """Brings the learner's weights to a generator, by version. After every update of the weights:

        await transport.publish(version)    # on the learner's side, all of its ranks
        await transport.receive(version)    # on the generator's side: it samples from these weights from now on

    `receive` raises WeightSyncError, which names both versions, where the wanted one is not there, is incomplete, or
    is not what the generator then holds. A generator never samples from weights of an unknown version.
    """


class Transport:
    """A publisher and a receiver that were made apart."""

    def __init__(self, publisher: WeightPublisher, receiver: WeightReceiver) -> None:
        self.publish, self.receive = publisher.publish, receiver.receive


class GeneratorServer(Generator, WeightReceiver, Protocol):
    """A generator outside of this process: a child process, a Ray actor, a server that has a URL.

        server.start()                     # launch it, or connect to it
        await server.receive(version)      # it loads the weights that were published as `version`
        await server.generate(prompts, sampling)
        server.close()

    Every call ends: with a result, with the HoneError that the generator raised, or with WorkerLostError, which names
    the server, when it died, cannot be reached or makes no progress for `cluster.worker_timeout_s`. Then `close` and
    `start` are called again, and `receive` with the present version before it is asked for completions.
    """

    name: str
    """As messages name it: `generator 0`."""

    def start(self) -> None:
        """Return when it can be asked. Raises ClusterError, WorkerLostError included, if it cannot be had."""

    def close(self) -> None:
        """Stop it if `start` launched it. It may be gone already, or never have started."""


@dataclass
class Engine:
    """The models and the generator of a run; those that the algorithm does not need are None.

    A context manager: on exit, the processes that it started are stopped.
    """

    tokenizer: PreTrainedTokenizerBase
    learner: TrainedModel
    reference: Scorer | None = None
    generator: Generator | None = None
    value: TrainedModel | None = None
    """A second trained model with a scalar head: the values of states."""
    teacher: Teacher | None = None
    """A frozen model whose distribution the policy learns."""
    transport: WeightTransport | None = None
    """From the learner to the generator."""
    ranks: int = 1
    """Devices that the learner is sharded over."""
    notices: list[str] = field(default_factory=list)
    """What was chosen or detected, for the run's log."""
    resources: ExitStack = field(default_factory=ExitStack)
    """Processes and folders that `close` ends, the last one first."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def trained_models(self) -> dict[str, TrainedModel]:
        """The trained models, by the name that each has in a checkpoint."""
        return {"policy": self.learner} | ({"value": self.value} if self.value is not None else {})

    async def sync_weights(self, version: int) -> None:
        """Give the generator the learner's weights. Raises WeightSyncError (see WeightTransport)."""
        assert self.transport is not None
        await self.transport.publish(version)
        await self.transport.receive(version)

    def close(self) -> None:
        """Stop what was started for the run."""
        self.resources.close()

    def can_grow(self) -> bool:
        """Whether nodes that the run asked for, and went on without, have come."""
        return False

    async def usage(self) -> dict[str, float]:
        """Load and memory of the ranks, for the metrics; those of this process are measured elsewhere."""
        return {}
