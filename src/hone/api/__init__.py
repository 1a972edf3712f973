"""Hone from Python: a function for each command, such as `hone.grpo(model=..., reward_funcs=[...], dataset=...)`.

commands.py    the functions             in_memory.py  data and functions in memory -> files of the run
arguments.py   arguments -> settings     running.py    a run in this process     result.py   what a call returns
"""

from __future__ import annotations

from typing import Any

from hone.api.commands import convert, evaluate, function_of, load_run
from hone.api.result import Result
from hone.registry import specs

__all__ = ["Result", "convert", "evaluate", "load_run"]


def __getattr__(name: str) -> Any:
    """The function of an algorithm of the registry."""
    spec = specs().get(name.replace("_", "-")) or specs().get(name)
    if spec is None:
        raise AttributeError(f"module 'hone.api' has no attribute {name!r}")
    return globals().setdefault(name, function_of(spec))
