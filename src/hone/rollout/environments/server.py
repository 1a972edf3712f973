"""Environment side: a process that imports a user's environment once, and forks a process for each rollout that runs.

A fork costs a millisecond and shares the host's memory, so hundreds of rollouts can each have a process that may be
killed alone. Requests are pickles, replies JSON, both behind an 8-byte length, as in reward workers; a request to fork
brings the new process its two files: its channel, and the pipe whose end tells it that the run is gone.

Imports the standard library alone; tools' schemas are made in a fork of their own, since that imports transformers.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from hone.rollout.environments.adapters import EnvironmentFactory, environment_factory
from hone.rollout.environments.base import Unusable
from hone.rollout.environments.session import Defect, Session
from hone.rollout.workers.child_process import end_with_parent, limit
from hone.rollout.workers.framing import LENGTH, REPLY_BYTES, exactly, receive, reply
from hone.rollout.workers.reaper import supervise
from hone.user_code import Missing, find

_MAX_TEXT = 500  # characters of an exception's message
_MAX_TRACEBACK = 8000
_TOO_LONG = {
    "raised": f"answered with more than {REPLY_BYTES:,} bytes",
    "type": "OverflowError",
    "traceback": "",
}


def main(channel_fd: int) -> None:
    """Serve requests on the socket until the parent closes it: {"op": "load", …}, then {"op": "fork"} any number of
    times."""
    supervise()
    end_with_parent()
    faulthandler.enable()
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave no zombies
    factory: EnvironmentFactory | None = None
    limits: dict[str, Any] = {}
    while True:
        header, fds, _, _ = socket.recv_fds(channel, LENGTH.size, 2)
        message = exactly(channel, LENGTH.unpack(header)[0]) if len(header) == LENGTH.size else None
        if message is None:
            os._exit(0)
        request = pickle.loads(message)
        if request["op"] == "load":
            factory, reply = _load(request)
            limits = request
            _send(channel, reply)
            continue
        assert factory is not None
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            channel.close()
            _child(fds, factory, limits)
        for fd in fds:
            os.close(fd)
        _send(channel, {"ok": pid})


def _child(fds: list[int], factory: EnvironmentFactory, limits: Mapping[str, Any]) -> None:
    """A rollout's process: answers until its channel is closed; one rollout after another, each with a new instance."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(fds[1], 0)
        os.close(fds[1])
        supervise()
        end_with_parent()
        limit(limits["memory_limit_mb"])
        channel = socket.socket(fileno=fds[0])
        session: Session | None = None
        while (message := receive(channel)) is not None:
            request = pickle.loads(message)
            if request["op"] == "open":
                session = None
            try:
                if session is None:
                    session = Session(factory(), limits["limit"])
                found = getattr(session, request["op"])(*request["arguments"])
                _send(channel, {"ok": found})
            except BaseException as error:  # SystemExit too is an answer
                _send(channel, _raised(error))
    finally:
        os._exit(0)


def _load(request: Mapping[str, Any]) -> tuple[EnvironmentFactory | None, dict[str, Any]]:
    """The factory, and what it is: {"ok": {"schemas", "name", "stateless"}}, or what is wrong."""
    try:
        tools = [_found("tools", target) for target in request["tools"]]
        between = [(name, request[name]) for name in ("action", "observation") if request[name]]
        openenv = (_found(*between[0]), _found(*between[1])) if len(between) == 2 else None
        found = None if request["path"] is None else _found("path", request["path"])
        factory = environment_factory(found, request["kwargs"], tools, openenv)
        if openenv is not None:
            return factory, {"ok": {"schemas": [], "name": "OpenEnv", "stateless": False, "steps": True}}
        first = factory()
        schemas = getattr(first, "schemas", None)
        schemas = _in_a_fork(first.tools()) if schemas is None else schemas
        told = {"schemas": schemas, "name": first.name, "stateless": first.stateless}
        return factory, {"ok": told | {"steps": first.step is not None}}
    except Missing as error:
        return None, {"missing": str(error)}
    except Unusable as error:
        return None, {"defect": str(error)}
    except BaseException as error:
        return None, _raised(error)


def _found(setting: str, target: str) -> Any:
    """What a setting names. Raises Missing with the setting's name, or whatever importing the module raises."""
    try:
        return find(target)
    except Missing as error:
        raise Missing(f"{setting}={target}: {error}") from error


def _in_a_fork(tools: list[Any]) -> list[dict[str, Any]]:
    """The tools' JSON schemas, from their signatures and docstrings. Raises Unusable."""
    if not tools:
        return []
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            told = json.dumps(_schemas(tools))
        except BaseException as error:
            told = json.dumps(str(error))
        with os.fdopen(into, "w") as file:
            file.write(told)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as file:
        found = json.loads(file.read() or '"the process that read the tools died"')
    if isinstance(found, str):
        raise Unusable(f"has a tool that the model cannot be told of: {found}")
    return found


def _schemas(tools: list[Any]) -> list[dict[str, Any]]:
    from transformers.utils import get_json_schema

    return [get_json_schema(tool) for tool in tools]


def _raised(error: BaseException) -> dict[str, Any]:
    if isinstance(error, Defect):
        return {"defect": str(error)}
    said = "".join(traceback.format_exception_only(type(error), error)).strip()[:_MAX_TEXT]
    own = [f for f in traceback.extract_tb(error.__traceback__) if "/hone/rollout/" not in f.filename]
    where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    whole = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
    return {"raised": said + where, "type": type(error).__name__, "traceback": whole}


def _send(channel: socket.socket, answer: dict[str, Any]) -> None:
    reply(channel, answer, _TOO_LONG)
