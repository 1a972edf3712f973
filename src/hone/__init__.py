"""Hone: post-training for language models. See README.md; ARCHITECTURE.md says where each thing lives.

`hone.grpo(...)` and its siblings are the commands, from Python (docs/api.md). They load when they are first asked for:
importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hone.version import __version__

if TYPE_CHECKING:
    from hone.api import Result, convert, distill, dpo, evaluate, grpo, load_run, ppo, rm, sft
    from hone.errors import HoneError

__all__ = [
    "HoneError",
    "Result",
    "__version__",
    "convert",
    "distill",
    "dpo",
    "evaluate",
    "grpo",
    "load_run",
    "ppo",
    "rm",
    "sft",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hone' has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module("hone.errors" if name == "HoneError" else "hone.api"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
