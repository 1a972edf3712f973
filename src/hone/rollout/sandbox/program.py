"""The process of one program: generated code runs in `run` only. The process holds no test and no other program.

It reports its end as one line of JSON, `[ended normally, exception, message]`. With tests, it then serves the judge's
process until that ends.
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
from hone.rollout.sandbox.process import LINK, REPORT, enter_sandbox, text
from hone.rollout.sandbox.remote_link import OPERATIONS, Link, Lost

_MAX_DETAIL = 300
_MAX_NAMES = 2000
SHARED_MODULES = (
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
"""Modules that tests may use even if only the program imports them: they are the same in both processes."""


def run(jail: Jail, request: Mapping[str, Any], streams: list[int]) -> NoReturn:
    """Become the program. streams: input, output, errors, report, source, and the link where there are tests."""
    enter_sandbox(jail, request["limits"], request["seconds"], streams, visible=True)
    write, leave, flush = os.write, os._exit, sys.stdout.flush
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    judged = len(streams) > LINK
    report = _attempt(names, judged)
    try:
        write(REPORT, json.dumps(report).encode())
        if judged and report[0]:
            _serve(names)
        flush()
    except (OSError, ValueError, AttributeError, Lost):  # the program closed a descriptor or the link
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
        # This process runs only the program: any exception is its result.
        return [False, type(error).__name__[:100], exception_text(error)]
    return [True, "", ""]


def _set_up(setup: str, names: dict[str, Any]) -> None:
    """Run the setup, whose names the program may use. Setup that needs the program fails here; the judge repeats it."""
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), names)
    except BaseException:
        return


def _serve(names: dict[str, Any]) -> None:
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
    import asyncio  # takes 60 ms; few programs need it

    async def wait() -> Any:
        return await coroutine

    return asyncio.run(wait())


def exception_text(error: BaseException) -> str:
    """The message of an exception; the class of a program's exception may raise in its `__str__`."""
    try:
        return str(error)[:_MAX_DETAIL]
    except BaseException as raised:
        return f"(cannot be printed: {type(raised).__name__})"
