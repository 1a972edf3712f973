"""The commands' own sections."""

from __future__ import annotations

from hone.registry import specs


def section_of(algorithm: str) -> str:
    """The section of a command that says how long it is, when it validates and what it draws with."""
    spec = specs().get(algorithm)
    return algorithm if spec is None else spec.section
