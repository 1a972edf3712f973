"""The name of a reward function in metrics, files and weights."""

from __future__ import annotations


def last_name(target: str) -> str:
    """The function's own name: `f` for `pkg.module.f` and for `file.py:f`."""
    return target.replace(":", ".").rpartition(".")[2]


def reward_name(name: str | None, path: str | None) -> str:
    """The name of an entry of rewards.functions: `name` if the entry has a `path` too, else the function's own
    name."""
    return name if name and path else last_name(path or name or "")
