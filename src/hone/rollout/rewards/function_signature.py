"""The arguments of a reward function, from its signature and its attributes.

A function may have these attributes, as the built-in ones do:

    any_of_columns          it needs at least one of these columns
    prepare(**kwargs)       is called when the function is loaded; a string that it returns is shown to the user
    seconds_each(**kwargs)  seconds for each completion of a call, added to the time limit of the call
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hone.rollout.workers.worker_protocol import Unusable

PASSED = (
    "prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra", "environments", "prefills",
)  # fmt: skip
"""Arguments that Hone passes. They are not columns of the data, and `kwargs` cannot set them."""
Function = Callable[..., Any]


def instantiate(found: Function, kwargs: Mapping[str, Any]) -> tuple[Function, dict[str, Any]]:
    """The reward function and its kwargs. A class, or a function that returns a reward function (such as TRL's
    `get_soft_overlong_punishment`), is called with `kwargs` first. Raises Unusable, or what the call raises."""
    if isinstance(found, type):
        if not any("__call__" in vars(base) for base in found.__mro__):
            raise Unusable(
                "is a class, not a function, and its instances cannot be called: give it "
                "`__call__(self, completions, **columns)`"
            )
    elif _takes_completions(found) or not _is_factory(found, kwargs):
        return found, dict(kwargs)
    try:
        inspect.signature(found).bind(**kwargs)
    except TypeError as error:
        raise Unusable(f"is called with kwargs to create the reward function, but {error}") from error
    function = found(**kwargs)
    if isinstance(function, type) or not callable(function):
        raise Unusable(f"returned a {type(function).__name__} for its kwargs, not a reward function")
    return function, {}


def _takes_completions(function: Function) -> bool:
    parameters = inspect.signature(function).parameters
    has_kwargs = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return has_kwargs or bool({"completions", "completion_ids"} & set(parameters))


def _is_factory(function: Function, kwargs: Mapping[str, Any]) -> bool:
    """Whether `kwargs` give all arguments that it requires: a function that requires others expects data."""
    parameters = inspect.signature(function).parameters.values()
    return bool(kwargs) and {p.name for p in parameters if p.default is p.empty} <= set(kwargs)


def describe(function: Function, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a function: `accepts`, their names (None: any, it has **kwargs); `columns`, the data columns
    that it needs; `any_of`, columns of which it needs one; `reads_tokens`; `asynchronous`; `seconds_each`. Raises
    Unusable if Hone cannot call it."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in parameters):
        raise Unusable("has positional-only parameters; arguments are passed by keyword")
    has_kwargs = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names, required = {p.name for p in named}, {p.name for p in named if p.default is p.empty}
    if not has_kwargs and not names & {"completions", "completion_ids"}:
        raise Unusable("takes no `completions`: its signature must be f(prompts, completions, **columns)")
    unknown = ", ".join(sorted(set(kwargs) - names))
    if unknown and not has_kwargs:
        raise Unusable(f"has no argument {unknown} (given in kwargs); it takes {', '.join(sorted(names))}")
    if "environments" in required:
        raise Unusable(
            "needs `environments`, which run in another process: let the environment compute that part of the "
            "reward (docs/environments.md)"
        )
    any_of = getattr(function, "any_of_columns", ())
    if hasattr(function, "any_of_columns") and kwargs.get("column"):
        any_of = (kwargs["column"],)
    return {
        "accepts": None if has_kwargs else sorted(names),
        "columns": sorted(required - set(PASSED) - set(kwargs)),
        "any_of": list(any_of),
        "reads_tokens": "completion_ids" in required,
        "asynchronous": is_async(function),
        "seconds_each": float(function.seconds_each(**kwargs)) if hasattr(function, "seconds_each") else 0.0,
    }


def is_async(function: Function) -> bool:
    """Whether a call returns an awaitable; also for an object with `async def __call__`."""
    plain = inspect.unwrap(getattr(function, "func", function))  # functools.partial
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(getattr(plain, "__call__", None))  # noqa: B004
