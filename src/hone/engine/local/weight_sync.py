"""A learner's weights on their way to a generator: all of them, or those alone that training changes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from hone.engine.distributed.collectives import Ranks, full_tensor, local_tensor
from hone.engine.local.learner_state import checksum, named_weights


class WeightStream:
    """Name and tensor of every weight, tied ones once; going through them, every rank of a mesh must take part.

    With adapters most weights never change. A generator that has got them once is sent the adapters alone, as long as
    neither side's base weights have changed: both are summed up each time, each where it lies, and only whether they
    are as they were is said between the ranks.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        """Those that training changes."""
        self.has_base = any(not parameter.requires_grad for parameter in model.parameters())

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named_weights(self.model):
            yield name, full_tensor(tensor)

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Those that training changes."""
        for name, tensor in named_weights(self.model):
            if name in self.names:
                yield name, full_tensor(tensor)

    def base(self) -> int:
        """A sum over the bits of this rank's parts of the others."""
        return checksum(
            (name, local_tensor(t)) for name, t in named_weights(self.model) if name not in self.names
        )

    def agree(self, same: bool) -> bool:
        """Whether all ranks say so."""
        return all(self.ranks.all_gather_objects([same]))
