"""Kinds of runs and their own sections."""

from __future__ import annotations

SECTIONS = {"distill": "distillation"}
"""Where the section that says how long a run is has another name than its command."""


def section_of(kind: str) -> str:
    """The section of a kind of run that says how long it is, when it validates and what it draws with."""
    return SECTIONS.get(kind, kind)
