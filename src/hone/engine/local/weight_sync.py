"""The learner's weights, and their transport to a generator in the same process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor, nn

from hone.engine.distributed.collectives import RankGroup, full_tensor, local_tensor
from hone.errors import WeightSyncError
from hone.model.weights import checksum, named_weights


class LearnerWeights:
    """Name and full tensor of every weight, tied ones once. Iterating is a collective: all ranks of a mesh must do it.

    With adapters most weights never change. Once a generator holds the base, only the adapters are sent, as long as
    the base has changed on neither side: each rank compares the checksum of its part, and all ranks must agree.
    """

    def __init__(self, model: nn.Module, ranks: RankGroup) -> None:
        self.model, self.ranks = model, ranks
        self.trained_names = {name for name, p in model.named_parameters() if p.requires_grad}
        self.has_base = any(not parameter.requires_grad for parameter in model.parameters())

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named_weights(self.model):
            yield name, full_tensor(tensor)

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Name and full tensor of every weight that training changes. Iterating is a collective."""
        for name, tensor in named_weights(self.model):
            if name in self.trained_names:
                yield name, full_tensor(tensor)

    def base_checksum(self) -> int:
        """The checksum of this rank's parts of the weights that training does not change."""
        base = ((n, local_tensor(t)) for n, t in named_weights(self.model) if n not in self.trained_names)
        return checksum(base)

    def all_ranks(self, same: bool) -> bool:
        """Whether `same` is true on all ranks."""
        return all(self.ranks.all_gather_objects([same]))


class HasWeights(Protocol):
    """A learner in this process."""

    def weights(self) -> LearnerWeights: ...


class LoadsWeights(Protocol):
    """A generator in this process."""

    def load_weights(
        self, version: int, weights: Iterable[tuple[str, Tensor]], *, partial: bool = False
    ) -> None: ...

    def base_checksum(self, trained: set[str]) -> int: ...


class InProcessTransport:
    """A WeightTransport from a learner to a generator in the same process (on a mesh, on the same rank).

    `publish` stores no copy: the learner must not be updated before `receive`.
    """

    def __init__(self, learner: HasWeights, generator: LoadsWeights) -> None:
        self.learner, self.generator = learner, generator
        self.published: int | None = None
        self._bases: tuple[int, int] | None = None
        """Checksums of both sides' base weights when they were last equal."""

    async def publish(self, version: int) -> None:
        """Declare that the learner's current weights are `version`."""
        self.published = version

    async def receive(self, version: int) -> None:
        """Load the learner's weights into the generator. Raises WeightSyncError if another version is published, or if
        the generator then holds other weights."""
        if self.published != version:
            raise WeightSyncError(version, self.published, "the learner has published another version")
        weights = self.learner.weights()
        if not weights.has_base:
            self.generator.load_weights(version, weights)
            return
        known = weights.all_ranks(self._bases == self._base_checksums(weights))
        self.generator.load_weights(version, weights.trained() if known else weights, partial=known)
        self._bases = self._base_checksums(weights)

    def _base_checksums(self, weights: LearnerWeights) -> tuple[int, int]:
        return weights.base_checksum(), self.generator.base_checksum(weights.trained_names)
