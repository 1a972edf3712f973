"""The main function of a reward worker: a process that loads reward functions and calls them on request.

Requests are pickles from the parent. Replies are JSON, so that no value of a reward function can run code in the
parent. Imports the standard library only.

The process ends with the run, even inside a function that never returns (subprocesses.end_with_parent). All processes
that its functions started end with it, in any session (reaper.fork_under_reaper).
"""

from __future__ import annotations

import faulthandler
import inspect
import os
import pickle
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hone.rollout.rewards import metrics, worker_settings
from hone.rollout.rewards.function_signature import describe, instantiate
from hone.rollout.workers.framing import receive, send_reply
from hone.rollout.workers.import_time import announce_imports
from hone.rollout.workers.reaper import fork_under_reaper
from hone.rollout.workers.worker_protocol import (
    MAX_MESSAGE,
    REPLY_TOO_LONG,
    Unusable,
    exception_report,
    set_limits,
)
from hone.subprocesses import end_with_parent
from hone.user_code import MissingCodeError, find

Functions = dict[str, tuple[Callable[..., Any], dict[str, Any]]]
"""The loaded functions with their kwargs, by the names of their specs."""


class _Defect(Exception):
    """The function returned something other than a list of rewards."""


def main(channel_fd: int, import_events_fd: int, memory_limit_mb: int | None) -> None:
    """Serve requests on the socket `channel_fd` until the parent closes it; announce imports on `import_events_fd`."""
    fork_under_reaper()
    end_with_parent(whole_group=True)
    set_limits(memory_limit_mb)
    faulthandler.enable()
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    os.set_inheritable(import_events_fd, False)
    announce_imports(import_events_fd)
    functions: Functions = {}
    while (message := receive(channel)) is not None:
        send_reply(channel, _handle(message, functions), REPLY_TOO_LONG)
    os._exit(0)


def _handle(message: bytes, functions: Functions) -> dict[str, Any]:
    """The reply to one request. Every exception of the function becomes a reply, SystemExit included."""
    file = None
    metrics.forget()
    try:
        request = pickle.loads(message)
        if request["op"] == "load":
            file = request["target"].rpartition(":")[0]
            return {"ok": _load(request, functions)}
        function, kwargs = functions[request["name"]]
        file = _file_of(function)
        rewards = _rewards(function, {**request["arguments"], **kwargs}, request)
        return {"ok": rewards, "metrics": metrics.drain(), "extra": _extra(request["count"])}
    except (Unusable, _Defect) as error:
        return {"defect": str(error)}
    except BaseException as error:
        # Users' code may raise KeyboardInterrupt and SystemExit, too. No exception may end the worker: the pool counts
        # it as a failure of the completion, and raises RewardError for too many.
        report = exception_report(error, file)
        report["raised"] += _advice(error)
        return report | {"restart": isinstance(error, MemoryError)}


def _load(request: dict[str, Any], functions: Functions) -> dict[str, Any]:
    """Import a function, call its `prepare`, and describe its arguments (see function_signature.describe)."""
    worker_settings.update(request["settings"])
    function, kwargs = instantiate(_imported(request["target"]), request["kwargs"])
    described = describe(function, kwargs) | {"pid": os.getpid()}
    if (prepare := getattr(function, "prepare", None)) is not None:
        note = prepare(**kwargs)
        described["note"] = note if isinstance(note, str) else None
    functions[request["name"]] = function, kwargs
    return described


def _imported(target: str) -> Callable[..., Any]:
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


def _extra(count: int) -> dict[str, list[Any]]:
    try:
        return metrics.drain_columns(count)
    except ValueError as error:
        raise _Defect(f"is wrong: {error}") from error


def _file_of(function: Callable[..., Any]) -> str | None:
    """The file of the function, or of the class of a callable object."""
    plain = inspect.unwrap(function)
    called = plain if hasattr(plain, "__code__") else vars(type(plain)).get("__call__")
    return getattr(getattr(called, "__code__", None), "co_filename", None)


def _rewards(
    function: Callable[..., Any], arguments: dict[str, Any], request: dict[str, Any]
) -> list[float | dict[str, str] | None]:
    """Call the function and convert its result to one number or None for each completion."""
    accepts, count = request["accepts"], request["count"]
    arguments |= {
        "trainer_state": SimpleNamespace(**request["state"]),
        "log_metric": metrics.log_metric,
        "log_extra": metrics.log_extra,
    }
    if accepts is not None:
        arguments = {name: value for name, value in arguments.items() if name in accepts}
    returned = function(**arguments)
    if inspect.isawaitable(returned):
        returned = _run(returned)
    if isinstance(returned, str | bytes | dict | set | frozenset) or not hasattr(returned, "__len__"):
        raise _Defect(f"returned a {type(returned).__name__}; expected a list of {count} rewards")
    if (size := len(returned)) != count:
        raise _Defect(f"returned {size} rewards; expected {count}, one for each completion")
    return [_number(reward) for reward in returned]


def _number(reward: Any) -> float | dict[str, str] | None:
    """A number or None; for an exception, the cause of the failure."""
    if reward is None:
        return None
    name = type(reward).__name__
    if isinstance(reward, BaseException):
        return {"failed": str(reward)[:MAX_MESSAGE] or name, "type": name}
    if isinstance(reward, str | bytes) or not hasattr(reward, "__float__"):
        raise _Defect(f"returned {reward!r:.100} ({name}) as a reward; expected a number or None")
    return float(reward)


def _run(awaitable: Any) -> Any:
    import asyncio  # 40 ms; only async functions need it

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


def _advice(error: BaseException) -> str:
    """Advice for a function that expects text although completions are messages, or the reverse."""
    message = str(error)
    if isinstance(error, TypeError) and message.startswith("string indices must be integers"):
        return "; the prompts are plain text here, so each completion is a string: c, not c[0]['content']"
    wrong = ("expected string or bytes-like object, got 'list'", "'list' object has no attribute '")
    if isinstance(error, TypeError | AttributeError) and message.startswith(wrong):
        return "; the prompts are conversations here, so a completion's text is c[0]['content']"
    return ""
