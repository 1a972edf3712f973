"""Worker side: find the function that a RewardSpec names, and learn what it takes."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hone.importing import Missing, module_from_file

PASSED = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
"""Arguments that are not columns of the data; a config entry's `kwargs` may not set them."""


class Unusable(Exception):
    """The target exists but is not a reward function; the message says why."""


def load(target: str) -> Callable[..., Any]:
    """The callable at a built-in's name, `pkg.module.function` or `/abs/file.py:function`.

    Raises Unusable, or whatever importing the module raises.
    """
    file, colon, name = target.rpartition(":")
    if colon:
        try:
            module = module_from_file(Path(file))
        except Missing as error:
            raise Unusable(str(error)) from error
    elif "." in target:
        module_name, _, name = target.rpartition(".")
        module = importlib.import_module(module_name)
    else:
        module = importlib.import_module("hone.rollout.rewards.functions").BUILTIN
    found = module.get(name) if isinstance(module, dict) else getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, list(vars(module)) if colon or "." in target else [], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise Unusable(f"does not exist: there is no '{name}' in {file or target.rpartition('.')[0]}{hint}")
    if isinstance(found, type) or not callable(found):
        raise Unusable(f"is a {'class' if isinstance(found, type) else type(found).__name__}, not a function")
    return found


def describe(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What the function takes, as {"accepts", "columns", "any_of"}.

    accepts: the arguments it can be given, None for all (it has **kwargs). columns: those it cannot do
    without.
    any_of: it needs at least one of these columns. Raises Unusable when Hone could not call it.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in parameters):
        raise Unusable("has positional-only parameters; arguments are passed by keyword")
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in named}
    if not anything and not names & {"completions", "completion_ids"}:
        raise Unusable("takes no `completions`: its signature must be f(prompts, completions, **columns)")
    unknown = sorted(set(kwargs) - names)
    if unknown and not anything:
        raise Unusable(
            f"has no argument {', '.join(unknown)} (given in kwargs); it takes {', '.join(sorted(names))}"
        )
    required = {p.name for p in named if p.default is p.empty} - set(PASSED) - set(kwargs)
    any_of = getattr(function, "any_of_columns", ())
    if any_of and kwargs.get("column"):
        any_of = (kwargs["column"],)
    return {
        "accepts": None if anything else sorted(names),
        "columns": sorted(required),
        "any_of": list(any_of),
    }
