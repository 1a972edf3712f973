"""Reads the output of a program and its judge, and detects exceeded limits, until both have ended."""

from __future__ import annotations

import os
import select
import socket
import time

from hone.rollout.sandbox.memory_usage import MemoryMeter

_VERDICT_BYTES, _REPORT_BYTES, _STATUS_BYTES = 1 << 20, 1 << 12, 100
_LINGER_S = 0.25
"""How long a program may take to end after it was judged. Its status no longer matters then."""


class ProcessMonitor:
    """The pipes of one program."""

    def __init__(self, most: int, judged: bool) -> None:
        self._most = {"out": most, "err": most, "report": _REPORT_BYTES, "status": _STATUS_BYTES}
        if judged:
            self._most["verdict"] = _VERDICT_BYTES
        pipes = {name: os.pipe() for name in self._most}
        self.theirs = {name: ends[1] for name, ends in pipes.items()}
        """The writing ends, by name. The caller passes them on and closes them."""
        self._ends = {name: ends[0] for name, ends in pipes.items()}
        self._seen = {name: bytearray() for name in pipes}
        for end in self._ends.values():
            os.set_blocking(end, False)

    def until(
        self, deadline: float, channel: socket.socket, meter: MemoryMeter, most: tuple[int, int]
    ) -> str | None:
        """Read until the program has ended and was judged: None; or the reason why it must be ended. most: bytes of
        memory, and processes."""
        poll = select.poll()
        names = {end: name for name, end in self._ends.items()}
        for end in names:
            poll.register(end, select.POLLIN)
        poll.register(channel, select.POLLIN | select.POLLHUP)
        waiting = {"status", "verdict"} & set(self._most)
        look, last = time.monotonic() + meter.pause_s, deadline
        while (left := min(deadline, last) - (now := time.monotonic())) > 0:
            if now >= look:
                if (exceeded := meter.exceeded(*most)) is not None:
                    return exceeded
                look = time.monotonic() + meter.pause_s
            for end, _ in poll.poll(min(left, meter.pause_s) * 1000 + 1):
                if end == channel.fileno():
                    return "abandoned"
                name = names[end]
                if not self._read(name):
                    poll.unregister(end)
                    waiting -= {name}
                if len(self._seen[name]) > self._most[name]:
                    return "output"
            if not waiting:
                return None
            if waiting == {"status"} and "verdict" in self._most:
                last = min(last, now + _LINGER_S)
        return "timeout" if deadline <= last else None

    def drained(self) -> dict[str, bytearray]:
        """All output, with what is left in the pipes, up to the bounds. Call it once all writers have ended."""
        for name, end in self._ends.items():
            while len(self._seen[name]) <= self._most[name] and self._read(name):
                pass
            os.close(end)
        return self._seen

    def _read(self, name: str) -> bool:
        """False at the end of the pipe (or where it is empty, which poll excludes while the program runs)."""
        try:
            part = os.read(self._ends[name], 1 << 16)
        except BlockingIOError:
            return False
        self._seen[name] += part
        return bool(part)
