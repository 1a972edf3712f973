"""The process that forks one program at a time and sees each to its end. Trusted; it runs nothing that a model wrote.

A request and its reply are JSON behind an 8-byte length. The server ends when its channel does, also in the middle of
a program, and takes the program with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import tempfile
import time
from typing import Any

from hone.rollout.framing import receive, send
from hone.rollout.sandbox import program
from hone.rollout.sandbox.jail import Jail
from hone.rollout.sandbox.memory import Meter

_PRELOADED = (
    *(
        "bisect",
        "collections",
        "copy",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "io",
    ),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing"),
)
_TAIL = 2000
_VERDICT_BYTES = 1 << 20


def main(channel_fd: int, disk_mb: int, namespaces: bool) -> None:
    """Serve on the socket `channel_fd` until the other end closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _PRELOADED:
        __import__(name)
    jail = Jail(disk_mb, namespaces)
    channel = socket.socket(fileno=channel_fd)
    try:
        jail.enter()
    except OSError as error:
        _send(channel, {"problem": f"{error}"})
        os._exit(1)
    state = jail.isolation
    hello = {"namespaces": state.namespaces, "network_off": state.network_off, "says": str(state)}
    _send(channel, hello)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while (request := _receive(channel)) is not None:
            _send(channel, _serve(jail, channel, request))
    jail.leave()
    os._exit(0)


def _serve(jail: Jail, channel: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    begin = time.monotonic()
    stdin = _file_of(request["stdin"].encode(errors="replace"))
    pipes = {name: os.pipe() for name in ("out", "err", "verdict", "status")}
    first = _launch(jail, channel, request, stdin, {name: ends[1] for name, ends in pipes.items()})
    for descriptor in (stdin, *(ends[1] for ends in pipes.values())):
        os.close(descriptor)
    watch = _Watch({name: ends[0] for name, ends in pipes.items()}, request["limits"]["output_kb"] << 10)
    try:
        stopped = watch.until(
            begin + request["seconds"], channel, jail.meter, request["limits"]["memory_mb"] << 20
        )
    finally:
        jail.kill(first)
    watch.drain()
    jail.clean()
    if stopped == "abandoned":
        jail.leave()
        os._exit(0)
    return {
        "stopped": stopped,
        "status": int(watch.seen["status"] or b"-1"),
        "told": _told(watch.seen["verdict"], request["nonce"]),
        "stdout": watch.seen["out"].decode(errors="replace"),
        "stderr": watch.seen["err"][-_TAIL:].decode(errors="replace"),
        "seconds": time.monotonic() - begin,
    }


def _file_of(data: bytes) -> int:
    """A descriptor from which this can be read: a file, so that nobody need be there to write."""
    with (
        tempfile.TemporaryFile()
        if not hasattr(os, "memfd_create")
        else open(os.memfd_create("input"), "w+b") as file
    ):
        file.write(data)
        file.flush()
        file.seek(0)
        return os.dup(file.fileno())


def _launch(
    jail: Jail, channel: socket.socket, request: dict[str, Any], stdin: int, ends: dict[str, int]
) -> int:
    """Fork the program's keeper, which forks the program, reaps what it leaves and says how it ended."""
    jail.fresh()
    first = os.fork()
    if first:
        return first
    channel.close()
    child = os.fork()
    if child == 0:
        os.close(ends["status"])
        try:
            program.run(jail, request, (stdin, ends["out"], ends["err"], ends["verdict"]))
        finally:  # an error of ours, before the program began
            os._exit(120)
    for descriptor in (stdin, ends["out"], ends["err"], ends["verdict"]):
        os.close(descriptor)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            os.write(ends["status"], str(status).encode())
            os._exit(0)


class _Watch:
    """What comes out of a program, up to a bound."""

    def __init__(self, ends: dict[str, int], most: int) -> None:
        self._ends = ends
        self._most = {"out": most, "err": most, "verdict": _VERDICT_BYTES, "status": 100}
        self.seen = {name: bytearray() for name in ends}
        for end in ends.values():
            os.set_blocking(end, False)

    def until(self, deadline: float, channel: socket.socket, meter: Meter, most: int) -> str | None:
        """Read until the program has ended; or say why it must be ended."""
        poll = select.poll()
        names = {end: name for name, end in self._ends.items()}
        for end in names:
            poll.register(end, select.POLLIN)
        poll.register(channel, select.POLLIN | select.POLLHUP)
        look = time.monotonic() + meter.pause_s
        while (left := deadline - (now := time.monotonic())) > 0:
            if now >= look:
                if meter.exceeds(most):
                    return "memory"
                look = time.monotonic() + meter.pause_s
            for end, _ in poll.poll(min(left, meter.pause_s) * 1000 + 1):
                if end == channel.fileno():
                    return "abandoned"
                name = names[end]
                if not self._read(name):
                    poll.unregister(end)
                    if name == "status":
                        return None
                if len(self.seen[name]) > self._most[name]:
                    return "output"
        return "timeout"

    def drain(self) -> None:
        """What was written before the end, still within the bound."""
        for name, end in self._ends.items():
            while len(self.seen[name]) <= self._most[name] and self._read(name):
                pass
            os.close(end)

    def _read(self, name: str) -> bool:
        """False at the end; True too where there is nothing yet, so `drain` comes after the last writer is dead."""
        try:
            part = os.read(self._ends[name], 1 << 16)
        except BlockingIOError:
            return False
        self.seen[name] += part
        return bool(part)


def _told(lines: bytearray, nonce: str) -> list[list[Any]]:
    """What the program's process said of its tests; lines that it did not write itself are left out."""
    told = []
    for line in bytes(lines).split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(line)
            if isinstance(parsed, list) and len(parsed) == 4 and parsed[0] == nonce:
                told.append(parsed[1:])
    return told


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    send(channel, json.dumps(message).encode())


def _receive(channel: socket.socket) -> dict[str, Any] | None:
    body = receive(channel)
    return None if body is None else json.loads(body)
