"""The process that forks programs and their judges. It receives limits and descriptors, never source code. So the
memory that a program inherits holds neither its own tests nor those of earlier programs.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any, NoReturn

from hone.rollout.sandbox import judge, program
from hone.rollout.sandbox.jail import Jail
from hone.rollout.workers.framing import receive_with_descriptors, send_json

PROGRAM = ("stdin", "out", "err", "report", "source")
"""The descriptors of a program, in this order; with tests, followed by its end of the link."""
JUDGE = ("nothing", "nothing", "nothing", "verdict", "tests", "link")
_MAX_DESCRIPTORS = 16
_BROKEN = 120


def main(channel: socket.socket, jail: Jail, counted: bool) -> NoReturn:
    """Serve until the channel closes: `{"op": "launch", …}` with descriptors by name, then `{"op": "end"}`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jail.enter(counted)
    state = jail.isolation
    send_json(channel, {"namespaces": state.namespaces, "isolation": str(state), "problem": state.problem})
    gc.collect()
    gc.freeze()  # keeps these objects shared with forked processes
    started: list[int] = []
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while (received := _request(channel)) is not None:
            request, descriptors = received
            if request["op"] == "launch":
                started = _launch(jail, channel, request, descriptors)
                continue
            _end(jail, started)
            jail.reset_directory()
            started = []
            send_json(channel, {"ok": True})
    _end(jail, started)
    jail.remove_directory()
    os._exit(0)


def _end(jail: Jail, started: list[int]) -> None:
    for first in started:
        jail.kill(first)
    jail.kill_leftovers()


Request = Mapping[str, Any]


def _launch(jail: Jail, channel: socket.socket, request: Request, descriptors: dict[str, int]) -> list[int]:
    """Fork the program's init process, and the judge of its tests."""
    try:
        started = [_fork_in_namespace(jail, channel, lambda: _init(jail, request, descriptors))]
        if "tests" in descriptors:
            with open(os.devnull, "r+b") as nothing:
                streams = [descriptors.get(name, nothing.fileno()) for name in JUDGE]
                started.append(_fork_in_namespace(jail, channel, lambda: judge.run(jail, request, streams)))
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return started


def _fork_in_namespace(jail: Jail, channel: socket.socket, body: Any) -> int:
    """Fork the first process of a new process namespace, which calls `body`."""
    jail.new_process_namespace()
    first = os.fork()
    if first:
        return first
    try:
        channel.close()
        jail.new_ipc_namespace()
        body()
    finally:  # reached only by a bug
        os._exit(_BROKEN)


def _init(jail: Jail, request: Mapping[str, Any], descriptors: Mapping[str, int]) -> None:
    """The init process: fork the program, reap orphans, and report the program's exit status."""
    jail.prefer_oom_kill()
    status_to = descriptors["status"]
    streams = [descriptors[name] for name in PROGRAM]
    if "calls" in descriptors:
        streams.append(descriptors["calls"])
    child = os.fork()
    if child == 0:
        try:
            program.run(jail, request, streams)
        finally:  # reached only by a bug before the program began
            os._exit(_BROKEN)
    for descriptor in descriptors.values():
        if descriptor != status_to:
            os.close(descriptor)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            os.write(status_to, str(status).encode())
            os._exit(0)


def _request(channel: socket.socket) -> tuple[dict[str, Any], dict[str, int]] | None:
    received = receive_with_descriptors(channel, _MAX_DESCRIPTORS)
    if received is None:
        return None
    message, descriptors = received
    request = json.loads(message)
    return request, dict(zip(request.get("descriptors", ()), descriptors, strict=True))
