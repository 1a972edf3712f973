"""Worker side: import the function that a RewardSpec names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hone.rollout.rewards.function_signature import Unusable
from hone.user_code import MissingCodeError, find


def load(target: str) -> Callable[..., Any]:
    """The callable at a built-in's name, `pkg.module.function` or `/abs/file.py:function`.

    Raises Unusable, or whatever importing the module raises.
    """
    if ":" not in target and "." not in target:
        # Imported here: a worker for users' functions starts without the built-in ones.
        from hone.rollout.rewards.functions.builtin import BUILTIN

        return BUILTIN[target]
    try:
        found = find(target)
    except MissingCodeError as error:
        raise Unusable(f"does not exist: {error}") from error
    if not callable(found):
        raise Unusable(f"is a {type(found).__name__}, not a function")
    return found
