"""Worker side: import the function that a RewardSpec names."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hone.rollout.rewards.function_signature import Unusable
from hone.user_code import MissingCodeError, module_from_file


def load(target: str) -> Callable[..., Any]:
    """The callable at a built-in's name, `pkg.module.function` or `/abs/file.py:function`.

    Raises Unusable, or whatever importing the module raises.
    """
    file, colon, name = target.rpartition(":")
    if colon:
        try:
            module = module_from_file(Path(file))
        except MissingCodeError as error:
            raise Unusable(str(error)) from error
    elif "." in target:
        module_name, _, name = target.rpartition(".")
        module = importlib.import_module(module_name)
    else:
        from hone.rollout.rewards.functions.builtin import (
            BUILTIN,  # a worker of users' functions starts without them
        )

        module = BUILTIN
    found = module.get(name) if isinstance(module, dict) else getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, list(vars(module)) if colon or "." in target else [], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise Unusable(f"does not exist: there is no '{name}' in {file or target.rpartition('.')[0]}{hint}")
    if not callable(found):
        raise Unusable(f"is a {type(found).__name__}, not a function")
    return found
