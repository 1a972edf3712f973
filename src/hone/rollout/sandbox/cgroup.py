"""A control group for a sandbox, if this process may create one: the kernel then counts all memory and processes.

The spawner is moved into it once, before it forks (moving a program takes as long as running it). Version 1: below this
process's groups. Version 2: next to its group or in it, where the memory controller is delegated.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NAME = "hone-sandbox-"
_OOM = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class ControlGroup:
    """The groups of one sandbox: none, one (version 2), or one for each controller (version 1)."""

    def __init__(self, memory_bytes: int, processes: int) -> None:
        self._folders: list[Path] = []
        self._events: Path | None = None
        self._killed = 0
        with contextlib.suppress(OSError, ValueError):
            if not self._unified(memory_bytes, processes):
                self._legacy(memory_bytes, processes)

    @property
    def counts_memory(self) -> bool:
        """Whether the kernel limits the memory of all processes together."""
        return self._events is not None

    def add(self, pid: int) -> None:
        """Move a process, and its future children, into the group; if that fails, remove the group."""
        try:
            for folder in self._folders:
                (folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            self.remove()

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process for memory since the last call."""
        if self._events is None:
            return False
        found = _OOM.search(self._events.read_text())
        before, self._killed = self._killed, int(found[1]) if found else 0
        return self._killed > before

    def remove(self) -> None:
        """Remove the group, once its processes have ended."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._folders, self._events = [], None

    def _unified(self, memory_bytes: int, processes: int) -> bool:
        for parent in _delegated():
            controllers = (parent / "cgroup.subtree_control").read_text().split()
            if "memory" in controllers and os.access(parent, os.W_OK):
                folder = self._make(parent)
                (folder / "memory.max").write_text(str(memory_bytes))
                with contextlib.suppress(OSError):  # no swap
                    (folder / "memory.swap.max").write_text("0")
                if "pids" in controllers:
                    (folder / "pids.max").write_text(str(processes))
                self._events = folder / "memory.events"
                return True
        return False

    def _legacy(self, memory_bytes: int, processes: int) -> None:
        limits = {"memory": ("memory.limit_in_bytes", memory_bytes), "pids": ("pids.max", processes)}
        for controller, (file, limit) in limits.items():
            parent = _legacy_group(controller)
            if parent is not None and os.access(parent, os.W_OK):
                folder = self._make(parent)
                (folder / file).write_text(str(limit))
                if controller == "memory":
                    self._events = folder / "memory.oom_control"

    def _make(self, parent: Path) -> Path:
        _forget_dead(parent)
        folder = parent / f"{_NAME}{os.getpid()}"
        folder.mkdir()
        self._folders.append(folder)
        return folder


def _own_groups() -> dict[str, str]:
    """The paths of this process's groups, by controller (version 1); under "" for version 2."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return {name: path for _, names, path in lines for name in names.split(",")}


def _delegated() -> Iterator[Path]:
    for mount in (_ROOT, _ROOT / "unified"):
        own = _own_groups().get("")
        if own is not None and (mount / "cgroup.controllers").exists():
            group = mount / own.lstrip("/")
            yield from (each for each in (group, group.parent) if (each / "cgroup.subtree_control").exists())


def _legacy_group(controller: str) -> Path | None:
    own, root = _own_groups().get(controller), _ROOT / controller
    paths = () if own is None else (root / own.lstrip("/"), root)  # a container sees its own group as /
    return next((path for path in paths if (path / "cgroup.procs").exists()), None)


def _forget_dead(parent: Path) -> None:
    """Remove the groups of sandboxes that were killed."""
    for folder in parent.glob(f"{_NAME}*"):
        with contextlib.suppress(OSError, ValueError):
            if not os.path.exists(f"/proc/{int(folder.name.removeprefix(_NAME))}"):
                folder.rmdir()
