"""The devices that a run is for: those of this machine, or GPUs by name."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from hone.errors import ConfigError
from hone.units import GIB

GPUS: dict[str, float] = {
    "T4": 14.6,
    "V100-16G": 15.8,
    "V100-32G": 31.7,
    "A10G": 22.1,
    "L4": 22.0,
    "L40S": 44.4,
    "RTX4090": 23.5,
    "RTX5090": 31.4,
    "A100-40G": 39.4,
    "A100-80G": 79.2,
    "H100-80G": 79.2,
    "H100-NVL": 93.0,
    "H200": 139.8,
    "B200": 178.0,
}
"""GiB that PyTorch sees on each GPU, a little less than its nominal size."""

USABLE = 0.92
"""Fraction of a GPU's memory that is planned with; the rest is for CUDA, communication and fragmentation."""


@dataclass(frozen=True)
class Hardware:
    """`nodes` x `per_node` equal devices. `memory` of a device and `host` memory of a node in bytes; None: unknown.
    `elastic`: memory that can be swapped (a CPU's), where too much is slow and not impossible."""

    device: str = "CPU"
    nodes: int = 1
    per_node: int = 1
    memory: int | None = None
    host: int | None = None
    elastic: bool = False

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.nodes * self.per_node

    @property
    def usable(self) -> int | None:
        """Bytes of a device that can be planned with."""
        return None if self.memory is None else int(USABLE * self.memory)

    def __str__(self) -> str:
        number = f"{self.nodes} x {self.per_node} " if self.nodes > 1 else f"{self.per_node} x "
        return (number if self.count > 1 else "") + self.device


def hardware_here(*, nodes: int = 1, per_node: int = 1, gpu: bool) -> Hardware:
    """`per_node` devices on each of `nodes` machines like this one: its GPU, or shares of its CPU."""
    import torch

    host = host_memory()
    if gpu and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return Hardware(found.name, nodes, per_node, found.total_memory, host)
    share = None if host is None else host // per_node
    return Hardware("CPU", nodes, per_node, share, host, elastic=True)


def hardware_named(name: str, *, nodes: int, per_node: int) -> Hardware:
    """GPUs by a name of `GPUS` or by their GiB. Raises ConfigError for any other name."""
    names = {known.lower(): known for known in GPUS}
    known = names.get(name.lower())
    try:
        size = GPUS[known] if known else float(name)
    except ValueError:
        size = 0.0
    if size <= 0:
        longer = [full for full in names if full.startswith(name.lower())]
        near = longer or difflib.get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean {' or '.join(names[full] for full in near)}? " if near else ""
        raise ConfigError(
            f"--gpu {name}: {hint}Give the GiB of one GPU, such as --gpu 48, or one of {', '.join(GPUS)}"
        )
    return Hardware(known or f"{size:g} GiB GPU", nodes, per_node, int(size * GIB))


def host_memory() -> int | None:
    """Bytes of this machine's memory, or of this process's container; None if unknown."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole
