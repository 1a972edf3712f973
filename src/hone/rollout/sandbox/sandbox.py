"""Sandbox: runs Python programs that nobody has read, one after another, and says what became of each."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from hone.rollout.workers.child_process import ChildProcess
from hone.rollout.workers.framing import FrameError, parse_object, receive, send_json

_START_S, _GRACE_S = 60.0, 20.0
_MAX_REPLY_BYTES = 16 << 20
"""Beside what a program prints, which may become six times as long as JSON."""
_OWN_WORDS = ("ok", "timeout", "memory", "processes", "output", "lost")
LOST = "sandbox lost"
"""The cause where nobody knows what became of a program."""


class Unsafe(Exception):
    """This machine cannot isolate programs as asked; the message says what is missing."""


@dataclass(frozen=True)
class SandboxLimits:
    """What one program may use, all of its processes together. Memory and open files bound each of them, too."""

    timeout_s: float = 5.0
    memory_mb: int = 256
    max_processes: int = 16
    disk_mb: int = 32
    max_open_files: int = 64
    output_kb: int = 1024
    require_isolation: bool = True


@dataclass
class Outcome:
    """What became of a program."""

    cause: str
    """`ok`; `timeout`, `memory`, `processes`, `output` (too much of it), `signal SIGKILL`, `exit 3`; the name of any
    exception, `MemoryError` among them, that ended it; where its tests were run, of the first that failed."""
    passed: list[bool] = field(default_factory=list)
    """For each test, in order; those that were never reached are False."""
    stdout: str = ""
    stderr: str = ""
    """The last of it."""
    detail: str = ""
    """What the exception said."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """The program came to its end, and passed every test that there was."""
        return self.cause == "ok"


class Sandbox:
    """One program at a time, in a server process that is started when first needed. `close` it, or use `with`.

    Not for use by several threads at once: have a sandbox for each.
    """

    def __init__(self, limits: SandboxLimits | None = None, *, namespaces: bool = True) -> None:
        """namespaces: False does without them even where they could be had."""
        self.limits = limits or SandboxLimits()
        self._namespaces = namespaces
        self._child: ChildProcess | None = None
        self._isolation = ""

    @property
    def pid(self) -> int | None:
        """Process (and group) id of the server while it runs."""
        return None if self._child is None else self._child.process.pid

    def start(self) -> str:
        """Start the server; what isolation is in force, in words. Raises Unsafe where that is less than asked."""
        if self._child is None:
            self._start()
        return self._isolation

    def run(
        self,
        source: str,
        *,
        tests: Sequence[str] = (),
        support: str = "",
        setup: str = "",
        stdin: str = "",
        timeout_s: float | None = None,
    ) -> Outcome:
        """Run a program to its end, in the names that `setup` leaves, as far as that can be run; then `support` and
        each of `tests`, in another process, where the names that the program left stand for what is in its own.

        A test passes when it raises nothing. Values of built-in types are compared as they are; other objects stay
        with the program, and are asked for their attributes, items and methods. Raises Unsafe (see `start`); whatever
        the program does is an Outcome.
        """
        self.start()
        seconds = self.limits.timeout_s if timeout_s is None else min(timeout_s, self.limits.timeout_s)
        request = {
            "source": source,
            "tests": list(tests),
            "support": support,
            "setup": setup,
            "stdin": stdin,
            "seconds": seconds,
            "limits": asdict(self.limits),
        }
        problem = ""
        for _ in range(2):
            try:
                return _outcome(self._exchange(request, seconds + _GRACE_S), len(tests))
            except (OSError, FrameError) as error:  # a program without namespaces may have killed the server
                problem = str(error)
                self.close()
                self.start()
        return Outcome(LOST, [False] * len(tests), detail=problem)

    def close(self) -> str:
        """End the server, and with it whatever it runs; the last of its output."""
        child, self._child = self._child, None
        if child is None:
            return ""
        child.channel.close()
        return child.wait(_GRACE_S)

    def _start(self) -> None:
        limits = self.limits
        self._child = ChildProcess(
            "hone.rollout.sandbox.server",
            "hone-sandbox",
            (limits.disk_mb, limits.memory_mb, limits.max_processes, self._namespaces),
            environment={"PATH": os.defpath, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        )
        try:
            hello = self._read(_START_S)
        except (OSError, FrameError) as error:
            output = self.close()
            raise Unsafe(f"the sandbox did not start: {error}\n{output}".rstrip()) from error
        if "says" in hello and self.limits.require_isolation and not hello["namespaces"]:
            self.close()
            raise Unsafe(
                "this machine cannot isolate programs that a model wrote "
                f"({hello.get('problem') or hello['says']}): it needs Linux with user namespaces, or root with "
                "CAP_SYS_ADMIN. Run where they are allowed, or set rewards.sandbox.require_isolation=false to go "
                "without"
            )
        if "says" not in hello:
            self.close()
            raise Unsafe(f"the sandbox did not start: {hello['problem']}")
        self._isolation = hello["says"]

    def _exchange(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._child is not None
        self._child.channel.settimeout(timeout_s)
        send_json(self._child.channel, request)
        return self._read(timeout_s)

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._child is not None
        self._child.channel.settimeout(timeout_s)
        reply = receive(self._child.channel, _MAX_REPLY_BYTES + 8 * (self.limits.output_kb << 10))
        if reply is None:
            raise ConnectionResetError("the server ended")
        return parse_object(reply)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _outcome(reply: dict[str, Any], num_tests: int) -> Outcome:
    judged = {number: (passed, cause, detail) for number, passed, cause, detail in reply["verdicts"]}
    passed = [judged.get(number, (False,))[0] is True for number in range(num_tests)]
    cause, detail = _cause(reply, judged, num_tests, all(passed))
    return Outcome(cause, passed, reply["stdout"], reply["stderr"], detail, reply["seconds"])


def _cause(
    reply: dict[str, Any], judged: dict[int, tuple[bool, str, str]], num_tests: int, passed: bool
) -> tuple[str, str]:
    """What became of a program, and what was said about it."""
    if reply["stopped"] is not None:
        return str(reply["stopped"]), ""
    if num_tests and passed:
        return "ok", ""
    report = reply["report"]
    if report is not None and not report[0]:
        return _word(report[1]), report[2]
    ended = _ended(reply["status"])
    if ended != "ok":
        return ended, ""
    failed = [judged[n] for n in (-2, *range(num_tests)) if n in judged and not judged[n][0]]
    if report is None or (num_tests and (not failed or failed[0][1] == "lost")):
        return "exit 0 too early", ""
    return (_word(failed[0][1]), failed[0][2]) if failed else ("ok", "")


def _word(name: str) -> str:
    """An exception's name, which may not pass for one of our own words."""
    return name if name.isidentifier() and name not in _OWN_WORDS else f"exception {name!r}"


def _ended(status: int) -> str:
    """How the program's process ended, as wait(2) tells; negative where nobody saw it end."""
    if status < 0:
        return "lost"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(number).name}"
        return f"signal {number}"
    code = os.WEXITSTATUS(status)
    return "ok" if code == 0 else f"exit {code}"
