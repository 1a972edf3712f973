"""Environment side: a process that imports a user's environment once, and forks a process for each running rollout.

A fork takes a millisecond and shares the server's memory, so each of hundreds of rollouts can have its own killable
process. Requests are pickles and replies are JSON, as in reward workers. A request to fork carries two descriptors for
the new process: its channel, and the pipe that closes when the run ends.

Imports the standard library only. The tools' schemas are computed in a fork, because that imports transformers.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from hone.rollout.environments.adapters import EnvironmentFactory, environment_factory
from hone.rollout.environments.session import Defect, Session
from hone.rollout.workers.framing import receive, receive_with_descriptors, send_json, send_reply
from hone.rollout.workers.reaper import fork_under_reaper
from hone.rollout.workers.worker_protocol import REPLY_TOO_LONG, Unusable, exception_report, set_limits
from hone.subprocesses import end_with_parent
from hone.user_code import MissingCodeError, find


def main(channel_fd: int) -> None:
    """Serve requests on the socket until the parent closes it: {"op": "load", …}, then {"op": "fork"} any number of
    times."""
    fork_under_reaper()
    end_with_parent(whole_group=True)
    faulthandler.enable()
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave no zombies
    factory: EnvironmentFactory | None = None
    limits: dict[str, Any] = {}
    while True:
        received = receive_with_descriptors(channel, 2)
        if received is None:
            os._exit(0)
        message, fds = received
        request = pickle.loads(message)
        if request["op"] == "load":
            factory, reply = _load(request)
            limits = request
            send_reply(channel, reply, REPLY_TOO_LONG)
            continue
        assert factory is not None
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            channel.close()
            _child(fds, factory, limits)
        for fd in fds:
            os.close(fd)
        send_json(channel, {"ok": pid})


def _child(fds: list[int], factory: EnvironmentFactory, limits: Mapping[str, Any]) -> None:
    """A forked process: serves one rollout after another, each with a new Session, until its channel closes."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(fds[1], 0)
        os.close(fds[1])
        fork_under_reaper()
        end_with_parent(whole_group=True)
        set_limits(limits["memory_limit_mb"])
        channel = socket.socket(fileno=fds[0])
        session: Session | None = None
        while (message := receive(channel)) is not None:
            request = pickle.loads(message)
            if request["op"] == "open":
                session = None
            try:
                if session is None:
                    session = Session(factory(), limits["max_observation_chars"])
                reply = {"ok": getattr(session, request["op"])(*request["arguments"])}
            except BaseException as error:  # SystemExit becomes a reply, too
                reply = _failure(error)
            send_reply(channel, reply, REPLY_TOO_LONG)
    finally:
        os._exit(0)


def _load(request: Mapping[str, Any]) -> tuple[EnvironmentFactory | None, dict[str, Any]]:
    """The factory, and the reply: {"ok": {"schemas", "name", "stateless", "steps"}}, or the problem."""
    try:
        tools = [_find("tools", target) for target in request["tools"]]
        converters = [(name, request[name]) for name in ("action", "observation") if request[name]]
        openenv = (_find(*converters[0]), _find(*converters[1])) if len(converters) == 2 else None
        found = None if request["path"] is None else _find("path", request["path"])
        factory = environment_factory(found, request["kwargs"], tools, openenv)
        if openenv is not None:
            return factory, {"ok": {"schemas": [], "name": "OpenEnv", "stateless": False, "steps": True}}
        first = factory()
        schemas = getattr(first, "schemas", None)
        schemas = _in_a_fork(first.tools()) if schemas is None else schemas
        steps = first.step is not None
        described = {"schemas": schemas, "name": first.name, "stateless": first.stateless, "steps": steps}
        return factory, {"ok": described}
    except MissingCodeError as error:
        return None, {"missing": str(error)}
    except Unusable as error:
        return None, {"defect": str(error)}
    except BaseException as error:
        return None, _failure(error)


def _find(setting: str, target: str) -> Any:
    """The object that a setting names. Raises MissingCodeError with the setting, or whatever the import raises."""
    try:
        return find(target)
    except MissingCodeError as error:
        raise MissingCodeError(f"{setting}={target}: {error}") from error


def _in_a_fork(tools: list[Any]) -> list[dict[str, Any]]:
    """The tools' JSON schemas, from their signatures and docstrings. Raises Unusable."""
    if not tools:
        return []
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            from transformers.utils import get_json_schema

            schemas = json.dumps([get_json_schema(tool) for tool in tools])
        except BaseException as error:
            schemas = json.dumps(str(error))
        with os.fdopen(into, "w") as file:
            file.write(schemas)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as file:
        found = json.loads(file.read() or '"the process that read the tools died"')
    if isinstance(found, str):
        raise Unusable(f"has a tool without a usable signature or docstring: {found}")
    return found


def _failure(error: BaseException) -> dict[str, Any]:
    return {"defect": str(error)} if isinstance(error, Defect) else exception_report(error)
