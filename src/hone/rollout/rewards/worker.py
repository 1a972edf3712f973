"""The body of a reward worker: one process that loads reward functions and calls them when told to.

Started by process.py. Requests are pickles from the parent; replies are JSON, so that nothing a reward
function returns can run code in the parent; both have an 8-byte length before them. Imports the standard
library only.

The process is the leader of its own session: Ctrl-C in the terminal does not reach it. It ends when the run is gone,
even from inside a function that never returns: the kernel then signals the group (see `child.end_with_parent`). What
its functions started ends with it, whatever session that is in (see `supervise`).
"""

from __future__ import annotations

import faulthandler
import inspect
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any

from hone.rollout.rewards import metrics, worker_settings
from hone.rollout.rewards.function_loading import Unusable, describe, instantiate, load
from hone.rollout.rewards.import_time import announce_imports
from hone.rollout.workers.child_process import end_with_parent, limit
from hone.rollout.workers.framing import REPLY_BYTES, receive, reply
from hone.rollout.workers.reaper import supervise

_MAX_TEXT = 500  # characters of an exception's message
_MAX_TRACEBACK = 8000
_TOO_LONG = {
    "raised": f"what it returned and reported is longer than {REPLY_BYTES:,} bytes",
    "type": "OverflowError",
    "traceback": "",
}


class _Defect(Exception):
    """The function returned something that is no list of rewards, whatever the sample."""


def main(channel_fd: int, signs_fd: int, memory_limit_mb: int | None) -> None:
    """Serve requests on the socket `channel_fd` until the parent closes it; tell on `signs_fd` of what is imported."""
    supervise()
    end_with_parent()
    limit(memory_limit_mb)
    faulthandler.enable()
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    os.set_inheritable(signs_fd, False)
    announce_imports(signs_fd)
    functions: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {}
    while (message := receive(channel)) is not None:
        reply(channel, _handle(message, functions), _TOO_LONG)
    os._exit(0)


def _handle(
    message: bytes, functions: dict[str, tuple[Callable[..., Any], dict[str, Any]]]
) -> dict[str, Any]:
    """Answer one request. Whatever the function raises is an answer too, SystemExit included."""
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
        # Users' code raises what it likes, KeyboardInterrupt and SystemExit among it. None of it may end the worker:
        # the pool is told, counts it against the completion, and raises RewardError past the bound.
        return _raised(error, file)


def _load(
    request: dict[str, Any], functions: dict[str, tuple[Callable[..., Any], dict[str, Any]]]
) -> dict[str, Any]:
    """Import a function, have it prepare itself, and say what it takes (see load.describe)."""
    worker_settings.tell(request["settings"])
    function, kwargs = instantiate(load(request["target"]), request["kwargs"])
    described = describe(function, kwargs) | {"pid": os.getpid()}
    if (prepare := getattr(function, "prepare", None)) is not None:
        note = prepare(**kwargs)
        described["note"] = note if isinstance(note, str) else None
    functions[request["name"]] = function, kwargs
    return described


def _extra(count: int) -> dict[str, list[Any]]:
    try:
        return metrics.drain_columns(count)
    except ValueError as error:
        raise _Defect(f"is wrong: {error}") from error


def _file_of(function: Callable[..., Any]) -> str | None:
    """Where it is written: of an object, its class."""
    plain = inspect.unwrap(function)
    written = plain if hasattr(plain, "__code__") else vars(type(plain)).get("__call__")
    return getattr(getattr(written, "__code__", None), "co_filename", None)


def _rewards(
    function: Callable[..., Any], arguments: dict[str, Any], request: dict[str, Any]
) -> list[float | dict[str, str] | None]:
    """Call the function and read what it returned as one number or None for each completion."""
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
    if isinstance(returned, str | bytes | dict | set | frozenset):
        raise _Defect(f"returned a {type(returned).__name__}; expected a list of {count} rewards")
    try:
        size = len(returned)
    except TypeError as error:
        raise _Defect(f"returned a {type(returned).__name__}; expected a list of {count} rewards") from error
    if size != count:
        raise _Defect(f"returned {size} rewards; expected {count}, one for each completion")
    return [_number(reward) for reward in returned]


def _number(reward: Any) -> float | dict[str, str] | None:
    """A number or None; or, of an exception in its place, why this completion has none."""
    if reward is None:
        return None
    if isinstance(reward, BaseException):
        return {"failed": str(reward)[:_MAX_TEXT] or type(reward).__name__, "kind": type(reward).__name__}
    if isinstance(reward, str | bytes) or not hasattr(reward, "__float__"):
        raise _Defect(
            f"returned {reward!r:.100} ({type(reward).__name__}) as a reward; expected a number or None"
        )
    return float(reward)


def _run(awaitable: Any) -> Any:
    import asyncio  # 40 ms that only async functions pay

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


def _raised(error: BaseException, file: str | None) -> dict[str, Any]:
    """The exception as text, with the deepest line in the function's own file: where the user can mend it."""
    frames = _own_frames(error.__traceback__)
    stack = list(traceback.extract_tb(frames))
    mendable = [frame for frame in stack if frame.filename == file] or stack
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in mendable[-1:])
    text = "".join(traceback.format_exception(type(error), error, frames))
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    return {
        "raised": message[:_MAX_TEXT] + where + _advice(error),
        "type": type(error).__name__,
        "traceback": text[-_MAX_TRACEBACK:],
        "restart": isinstance(error, MemoryError),
    }


def _advice(error: BaseException) -> str:
    """What to write instead where a function took TRL's one form of completions for the other."""
    said = str(error)
    if isinstance(error, TypeError) and said.startswith("string indices must be integers"):
        return "; the prompts are plain text here, so each completion is a text: c, not c[0]['content']"
    wrong = ("expected string or bytes-like object, got 'list'", "'list' object has no attribute '")
    if isinstance(error, TypeError | AttributeError) and said.startswith(wrong):
        return "; the prompts are conversations here, so a completion's text is c[0]['content']"
    return ""


def _own_frames(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without this file's frames at its top."""
    first = frames
    while first is not None and first.tb_frame.f_code.co_filename == __file__:
        first = first.tb_next
    return first or frames
