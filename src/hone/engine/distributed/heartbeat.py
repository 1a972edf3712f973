"""The heartbeat of a process: its current operation, and a count that grows with progress.

The count stands still while a collective waits for a lost rank, so that a watchdog can tell a long step from a hang.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Heartbeat:
    """`count` grows with every micro-batch, decoded token and file; `doing` is the current operation."""

    count: int = 0
    doing: str = "nothing"


HEARTBEAT = Heartbeat()
"""The heartbeat of this process."""


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Set the current operation during the block."""
    HEARTBEAT.doing = what
    try:
        yield
    finally:
        HEARTBEAT.doing = "nothing"


def beat() -> None:
    """Record progress."""
    HEARTBEAT.count += 1
