"""A sign of life: what this process is doing, and a count that grows while it gets on.

A collective that waits for a lost or stopped rank does not beat, so that whoever watches can tell a long step from a
hang.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Heartbeat:
    """`count` grows with every micro-batch, decoded token and file; `doing` says which verb it is for."""

    count: int = 0
    doing: str = "nothing"


HEARTBEAT = Heartbeat()
"""This process's own."""


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what is being done in here."""
    HEARTBEAT.doing = what
    try:
        yield
    finally:
        HEARTBEAT.doing = "nothing"


def beat() -> None:
    """Say that the work gets on."""
    HEARTBEAT.count += 1
