"""What the ranks of a mesh say to each other while they train; in one process, nothing.

Every rank is given the whole global batch and plans it alike; each computes its share. So denominators are global
without a word, and only sums of results are exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from hone.model.mesh import Mesh


class RankGroup:
    """The data axis of a mesh. Without a mesh this process is all there is."""

    def __init__(self, mesh: Mesh | None = None) -> None:
        self.mesh = mesh
        self.rank = mesh.rank("data") if mesh is not None else 0
        self.size = mesh.size("data") if mesh is not None else 1

    @property
    def is_first(self) -> bool:
        """Whether this is the first of all ranks, who writes what is needed once."""
        return self.mesh is None or dist.get_rank() == 0

    def all_reduce_sum(self, own: Tensor) -> Tensor:
        """The sum over the data axis, the same on every rank."""
        if self.mesh is not None and self.size > 1:
            dist.all_reduce(own, group=self.mesh.group("data"))
        return own

    def all_reduce_max(self, own: Tensor) -> Tensor:
        """The largest over the data axis, element by element, the same on every rank."""
        if self.mesh is not None and self.size > 1:
            dist.all_reduce(own, op=dist.ReduceOp.MAX, group=self.mesh.group("data"))
        return own

    def all_gather_objects(self, wanted: Sequence[Any]) -> list[Any]:
        """Everything that any rank of the mesh has, in the order of ranks."""
        if self.mesh is None:
            return list(wanted)
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, list(wanted))
        return [one for part in every for one in part]


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over ranks, on every rank (who must all ask)."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def local_tensor(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor that may be spread over ranks."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()
