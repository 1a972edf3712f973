"""Hone: post-training for language models. See README.md; ARCHITECTURE.md describes the packages.

`hone.grpo(...)` and the others are the commands as Python functions (docs/api.md), one for each algorithm of
`hone.registry`. They are imported on first use, so that `import hone` is fast.
"""

from __future__ import annotations

from typing import Any

from hone.version import __version__ as __version__


def __getattr__(name: str) -> Any:
    if name == "__all__":
        from hone.registry import specs

        own = ("HoneError", "Result", "__version__", "convert", "evaluate", "load_run")
        return sorted([*own, *(spec.function for spec in specs().values())])
    if name.startswith("_") or name not in __getattr__("__all__"):
        raise AttributeError(f"module 'hone' has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module("hone.errors" if name == "HoneError" else "hone.api"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
