"""Importing by name, at the moment of use: what is heavy is not loaded before it is needed."""

from __future__ import annotations

import importlib
from typing import Any


def lazy(target: str) -> Any:
    """What `package.module:name` names; the module itself for `package.module`."""
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found
