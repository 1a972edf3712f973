"""Which rank does what: the mesh that a configuration asks for, before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class ParallelDims:
    """Ranks (one process and device each) as a mesh: world = replicate x shard x context x tensor.

    `shard` ranks each hold a part of every weight (FSDP2), `replicate` such groups hold the same (HSDP; DDP is
    shard = 1), `context` ranks share each sequence, `tensor` ranks share each layer. Neighbouring ranks are tensor
    ranks first, since they talk most. Data parallel are replicate x shard; the weights are sharded over
    shard x context x tensor.
    """

    nodes: int = 1
    per_node: int = 1
    replicate: int = 1
    shard: int = 1
    context: int = 1
    tensor: int = 1

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.nodes * self.per_node

    @property
    def data(self) -> int:
        """Ranks, or groups of them, that each get samples of their own."""
        return self.replicate * self.shard

    @property
    def axes(self) -> dict[str, int]:
        """Size of each axis by name, the outermost first."""
        return {
            "replicate": self.replicate,
            "shard": self.shard,
            "context": self.context,
            "tensor": self.tensor,
        }

    def __post_init__(self) -> None:
        if prod(self.axes.values()) != self.world:
            raise ValueError(f"{self.axes} does not multiply out to {self.world} ranks")

    def __str__(self) -> str:
        sizes = " x ".join(f"{name} {size}" for name, size in self.axes.items() if size > 1)
        return f"{self.world} ranks = {sizes}" if sizes else "one rank"
