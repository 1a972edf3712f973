"""The device mesh: the axes over which weights and samples are sharded, and this rank's coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@dataclass(frozen=True)
class Mesh:
    """Two device meshes of the same ranks.

    `weights` has the axes replicate, shard, tensor: FSDP shards every weight over shard (which includes the context
    ranks), tensor parallelism over tensor. `work` has the axes data, context, tensor: samples are distributed over
    data, the tokens of a sequence over context."""

    weights: DeviceMesh
    work: DeviceMesh
    files: dist.ProcessGroup
    """All ranks, for writing checkpoints while training uses the other groups."""

    def size(self, axis: str) -> int:
        """Ranks along `data`, `context` or `tensor`."""
        return self.work[axis].size()

    def rank(self, axis: str) -> int:
        """This rank's number along an axis."""
        return self.work[axis].get_local_rank()

    def group(self, axis: str) -> dist.ProcessGroup:
        """The ranks that differ from this one along this axis only."""
        return self.work.get_group(axis)


def communication() -> str:
    """The process group's backends: NCCL for GPUs, gloo for host memory."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def mesh_of_one(device_type: str) -> Mesh:
    """A mesh with this process alone: FSDP without other ranks, for what else it does (CPU offload)."""
    if not dist.is_initialized():
        dist.init_process_group(communication(), store=dist.HashStore(), rank=0, world_size=1)
    return make_mesh(dict.fromkeys(("replicate", "shard", "context", "tensor"), 1), device_type)


def make_mesh(axes: Mapping[str, int], device_type: str) -> Mesh:
    """A mesh of all ranks of the process group, for sizes by axis: replicate, shard, context, tensor."""
    replicate, shard, context, tensor = (axes[name] for name in ("replicate", "shard", "context", "tensor"))
    return Mesh(
        weights=init_device_mesh(
            device_type, (replicate, shard * context, tensor), mesh_dim_names=("replicate", "shard", "tensor")
        ),
        work=init_device_mesh(
            device_type, (replicate * shard, context, tensor), mesh_dim_names=("data", "context", "tensor")
        ),
        files=dist.new_group(backend="gloo"),
    )
