"""The process of one program: everything that the model wrote runs below `run`. It holds no test and no other program.

How it ended is reported as one line of JSON, `[whether it came to its end, the exception, what that said]`. Where
there are tests, it then answers the questions of the process that judges it, until that goes.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from hone.rollout.sandbox.jail import Jail
from hone.rollout.sandbox.process import LINK, REPORT, become, text
from hone.rollout.sandbox.remote_link import OPERATIONS, Link, Lost

_MAX_DETAIL = 300
_MAX_NAMES = 2000
SHARED_MODULES = (
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
"""Whose names mean the same to a program and to its tests, which may use what only the program has imported."""


def run(jail: Jail, request: Mapping[str, Any], streams: list[int]) -> NoReturn:
    """Become the program. streams: input, output, errors, report, source, and the link where there are tests."""
    become(jail, request["limits"], request["seconds"], streams, visible=True)
    write, leave, flush = os.write, os._exit, sys.stdout.flush
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    judged = len(streams) > LINK
    told = _attempt(names, judged)
    try:
        write(REPORT, json.dumps(told).encode())
        if judged and told[0]:
            _answer(names)
        flush()
    except (OSError, ValueError, AttributeError, Lost):  # the program closed what was needed
        leave(1)
    leave(0)


def _attempt(names: dict[str, Any], judged: bool) -> list[Any]:
    try:
        setup, source = json.loads(text())
        _set_up(setup, names)
        exec(compile(source, "<program>", "exec", dont_inherit=True), names)
    except SystemExit as error:
        return [error.code in (None, 0) and not judged, "SystemExit", ""]
    except BaseException as error:
        # Nothing may pass: the process belongs to the program now, and what it raised is the result.
        return [False, type(error).__name__[:100], said(error)]
    return [True, "", ""]


def _set_up(setup: str, names: dict[str, Any]) -> None:
    """What a program may use. What of it uses the program in turn cannot be run yet, and is the tests' to run."""
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), names)
    except BaseException:
        return


def _answer(names: dict[str, Any]) -> None:
    def look(name: str) -> tuple[str, Any]:
        value = names[name]
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        module = getattr(value, "__module__", None)
        if module in SHARED_MODULES and getattr(sys.modules.get(module), name, None) is value:
            return "from", module
        return "value", value

    own: dict[str, Callable[..., Any]] = {
        "names": lambda: [name for name in names if not name.startswith("__")][:_MAX_NAMES],
        "look": look,
        "await": _awaited,
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
    }
    Link(socket.socket(fileno=LINK), {**OPERATIONS, **own}).serve()


def _awaited(coroutine: Any) -> Any:
    import asyncio  # 60 ms that few programs pay

    async def wait() -> Any:
        return await coroutine

    return asyncio.run(wait())


def said(error: BaseException) -> str:
    """What an exception says, as far as that can be found out."""
    try:
        return str(error)[:_MAX_DETAIL]
    except BaseException as raised:  # an exception that the program made, and which cannot be printed
        return f"(cannot be printed: {type(raised).__name__})"
