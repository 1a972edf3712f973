"""What a reward function is called in metrics, files and weights: said here alone, for all who need it."""

from __future__ import annotations


def last_name(place: str) -> str:
    """The function that a place names: `f` of `pkg.module.f` and of `file.py:f`."""
    return place.replace(":", ".").rpartition(".")[2]


def reward_name(name: str | None, path: str | None) -> str:
    """The `name` of an entry of rewards.functions that has a `path` too; else the last part of the place where the
    function is defined, which is what the one of the two that is given says."""
    return name if name and path else last_name(path or name or "")
