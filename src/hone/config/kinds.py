"""The commands' own sections."""

from __future__ import annotations

SECTIONS = {"distill": "distillation"}
"""Where the section that says how long a run is has another name than its command."""


def section_of(algorithm: str) -> str:
    """The section of a command that says how long it is, when it validates and what it draws with."""
    return SECTIONS.get(algorithm, algorithm)
