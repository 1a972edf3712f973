"""Collectives of the ranks of a mesh during training; without a mesh they do nothing.

Every rank is given the whole global batch, makes the same plan and computes its share. So denominators are global
without communication, and only sums of results are exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from hone.model.mesh import Mesh


class RankGroup:
    """The data axis of a mesh. Without a mesh, this process is the only rank."""

    def __init__(self, mesh: Mesh | None = None) -> None:
        self.mesh = mesh
        self.rank = mesh.rank("data") if mesh is not None else 0
        self.size = mesh.size("data") if mesh is not None else 1

    @property
    def is_first(self) -> bool:
        """Whether this is the first of all ranks, which writes files that are needed once."""
        return self.mesh is None or dist.get_rank() == 0

    def all_reduce_sum(self, own: Tensor) -> Tensor:
        """The sum over the data axis, the same on every rank."""
        if self.mesh is not None and self.size > 1:
            dist.all_reduce(own, group=self.mesh.group("data"))
        return own

    def all_reduce_max(self, own: Tensor) -> Tensor:
        """The element-wise maximum over the data axis, the same on every rank."""
        if self.mesh is not None and self.size > 1:
            dist.all_reduce(own, op=dist.ReduceOp.MAX, group=self.mesh.group("data"))
        return own

    def all_gather_objects(self, wanted: Sequence[Any]) -> list[Any]:
        """All-gather Python objects; the result is ordered by rank."""
        if self.mesh is None:
            return list(wanted)
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, list(wanted))
        return [one for part in every for one in part]


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor of a DTensor, on every rank (a collective: all ranks must call it); another tensor unchanged."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor; another tensor unchanged."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()
