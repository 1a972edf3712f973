"""Reads the output of a program and its judge, and detects exceeded limits, until both have ended."""

from __future__ import annotations

import os
import select
import socket
import time

from hone.rollout.sandbox.memory_usage import MemoryMeter

_VERDICT_BYTES, _REPORT_BYTES, _STATUS_BYTES = 1 << 20, 1 << 12, 100
_LINGER_S = 0.25
"""Seconds that a program may take to end after it was judged; its status no longer matters."""


class ProcessMonitor:
    """The pipes of one program."""

    def __init__(self, limit: int, judged: bool) -> None:
        """limit: bytes of standard output, and of standard error. judged: whether there is a judge."""
        self._limits = {"out": limit, "err": limit, "report": _REPORT_BYTES, "status": _STATUS_BYTES}
        if judged:
            self._limits["verdict"] = _VERDICT_BYTES
        pipes = {name: os.pipe() for name in self._limits}
        self.theirs = {name: ends[1] for name, ends in pipes.items()}
        """The writing ends, by name. The caller passes them on and closes them."""
        self._ends = {name: ends[0] for name, ends in pipes.items()}
        self._seen = {name: bytearray() for name in pipes}
        for end in self._ends.values():
            os.set_blocking(end, False)

    def until(
        self, deadline: float, channel: socket.socket, meter: MemoryMeter, limits: tuple[int, int]
    ) -> str | None:
        """Read until the program has ended and was judged; None, or the reason why it must be killed. limits: bytes of
        memory, and number of processes."""
        poll = select.poll()
        names = {end: name for name, end in self._ends.items()}
        for end in names:
            poll.register(end, select.POLLIN)
        poll.register(channel, select.POLLIN | select.POLLHUP)
        waiting = {"status", "verdict"} & set(self._limits)
        next_measurement, last = time.monotonic() + meter.pause_s, deadline
        while (left := min(deadline, last) - (now := time.monotonic())) > 0:
            if now >= next_measurement:
                if (exceeded := meter.exceeded(*limits)) is not None:
                    return exceeded
                next_measurement = time.monotonic() + meter.pause_s
            for end, _ in poll.poll(min(left, meter.pause_s) * 1000 + 1):
                if end == channel.fileno():
                    return "abandoned"
                name = names[end]
                if not self._read(name):
                    poll.unregister(end)
                    waiting -= {name}
                if len(self._seen[name]) > self._limits[name]:
                    return "output"
            if not waiting:
                return None
            if waiting == {"status"} and "verdict" in self._limits:
                last = min(last, now + _LINGER_S)
        return "timeout" if deadline <= last else None

    def drain(self) -> dict[str, bytearray]:
        """All output, including the rest in the pipes, up to the limits. Call it after all writers have ended."""
        for name, end in self._ends.items():
            while len(self._seen[name]) <= self._limits[name] and self._read(name):
                pass
            os.close(end)
        return self._seen

    def _read(self, name: str) -> bool:
        """Read from a pipe; False at its end, and if it is empty (never after a poll)."""
        try:
            part = os.read(self._ends[name], 1 << 16)
        except BlockingIOError:
            return False
        self._seen[name] += part
        return bool(part)
