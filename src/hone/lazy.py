"""Import by name on first use, so that heavy modules are loaded only when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def lazy(target: str) -> Any:
    """The object that `package.module:name` names; for `package.module` the module itself."""
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found
