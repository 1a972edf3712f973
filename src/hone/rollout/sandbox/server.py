"""The server process of a sandbox: runs one program at a time. It is trusted: it holds source code and executes none.

Requests and replies are JSON frames. A spawner, forked before the first request, forks the program and the judge of its
tests; each reads its source code from a descriptor. The server ends when its channel closes, even while a program runs,
and all processes end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from typing import Any

from hone.rollout.sandbox import kernel, spawner
from hone.rollout.sandbox.cgroup import ControlGroup
from hone.rollout.sandbox.jail import Jail
from hone.rollout.sandbox.memory_usage import MemoryMeter
from hone.rollout.sandbox.process_monitor import ProcessMonitor
from hone.rollout.workers.framing import frame, receive, send, send_json
from hone.rollout.workers.reaper import descendants

_PRELOADED = (
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq", "io",
    "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "typing",
)  # fmt: skip
_TAIL = 2000
_JUDGE_BYTES, _SPARE_BYTES = 32 << 20, 64 << 20
"""Memory of the judge, and slack in the limit of the control group."""
_SPARE_PROCESSES = 8


def main(channel_fd: int, disk_mb: int, memory_mb: int, max_processes: int, namespaces: bool) -> None:
    """Serve on the socket `channel_fd` until the other end closes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for name in _PRELOADED:
        __import__(name)
    channel = socket.socket(fileno=channel_fd)
    memory_bytes = ((memory_mb + disk_mb) << 20) + _JUDGE_BYTES + _SPARE_BYTES
    group = ControlGroup(memory_bytes, max_processes + _SPARE_PROCESSES)
    pid, below = _spawn(channel, Jail(disk_mb, namespaces), group)
    if sys.platform == "linux":  # it holds the tests: other processes of its user may not read its memory
        kernel.prctl(kernel.DUMPABLE, 0)
    hello = receive(below)
    if hello is None:
        send_json(channel, {"problem": "its first process ended"})
        os._exit(1)
    send(channel, hello)
    runner = ProgramRunner(channel, below, MemoryMeter((descendants(pid) or [pid])[0]), group)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while (request := receive(channel)) is not None and (reply := runner.serve(json.loads(request))):
            send_json(channel, reply)
    below.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    group.remove()
    os._exit(0)


def _spawn(channel: socket.socket, jail: Jail, group: ControlGroup) -> tuple[int, socket.socket]:
    """Fork the spawner; its pid, and the channel to it."""
    below, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            channel.close()
            below.close()
            counted = its.recv(1) == b"\1"  # it is in its control group now
            spawner.main(its, jail, counted)
        finally:  # reached only by a bug
            os._exit(1)
    its.close()
    group.add(pid)
    below.send(bytes([group.counts_memory]))
    return pid, below


class ProgramRunner:
    """Runs programs, one at a time."""

    def __init__(
        self, channel: socket.socket, below: socket.socket, meter: MemoryMeter, group: ControlGroup
    ) -> None:
        self._channel, self._below, self._meter, self._group = channel, below, meter, group

    def serve(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Run a program and its tests; None if the client has ended."""
        begin = time.monotonic()
        limits = request["limits"]
        texts = {"stdin": request["stdin"].encode(errors="replace")}
        texts["source"] = json.dumps([request["setup"], request["source"]]).encode()
        if request["tests"]:
            tests = {"support": request["support"], "tests": request["tests"]}
            texts["tests"] = json.dumps(tests).encode()
        monitor = ProcessMonitor(limits["output_kb"] << 10, judged="tests" in texts)
        self._launch(texts, monitor, {"op": "launch", "limits": limits, "seconds": request["seconds"]})
        memory = (limits["memory_mb"] << 20) + (_JUDGE_BYTES if "tests" in texts else 0)
        bounds = memory, limits["max_processes"] + _SPARE_PROCESSES
        try:
            stopped = monitor.until(begin + request["seconds"], self._channel, self._meter, bounds)
        finally:
            send_json(self._below, {"op": "end"})
        if receive(self._below) is None:
            raise ConnectionResetError("the spawner ended")
        seen = monitor.drain()
        if stopped == "abandoned":
            return None
        if self._group.out_of_memory():
            stopped = "memory"
        return {
            "stopped": stopped,
            "status": int(seen["status"] or b"-1"),
            "report": _report(seen["report"]),
            "verdicts": _verdicts(seen["verdict"]) if "verdict" in seen else [],
            "stdout": seen["out"].decode(errors="replace"),
            "stderr": seen["err"][-_TAIL:].decode(errors="replace"),
            "seconds": time.monotonic() - begin,
        }

    def _launch(self, texts: dict[str, bytes], monitor: ProcessMonitor, request: dict[str, Any]) -> None:
        given = {name: _file_of(text) for name, text in texts.items()} | monitor.theirs
        if "tests" in texts:
            ours, theirs = socket.socketpair()
            given |= {"calls": ours.detach(), "link": theirs.detach()}
        message = frame(json.dumps(request | {"descriptors": list(given)}).encode())
        socket.send_fds(self._below, [message], list(given.values()))
        for descriptor in given.values():
            os.close(descriptor)


def _file_of(data: bytes) -> int:
    """A descriptor of a file with this content."""
    in_memory = hasattr(os, "memfd_create")
    with open(os.memfd_create("input"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        file.seek(0)
        return os.dup(file.fileno())


def _report(line: bytearray) -> list[Any] | None:
    """The program's report of its end. It is untrusted: only a failure is taken from it."""
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(bytes(line))
        if isinstance(parsed, list) and [type(each) for each in parsed] == [bool, str, str]:
            return parsed
    return None


def _verdicts(lines: bytearray) -> list[list[Any]]:
    """The judge's verdict on each test. If the judge was killed, the last line may be incomplete."""
    verdicts = []
    for line in bytes(lines).split(b"\n"):
        with contextlib.suppress(ValueError):
            verdicts.append(json.loads(line))
    return verdicts
