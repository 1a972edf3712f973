"""Sandbox: runs untrusted Python programs, one at a time, and reports the outcome of each."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hone.rollout.workers.child_process import ChildProcess
from hone.rollout.workers.framing import FrameError, parse_object, receive, send_json

_START_S, _GRACE_S = 60.0, 20.0
_MAX_REPLY_BYTES = 16 << 20
"""In addition to a program's output, which may grow to six times its size as JSON."""
_RESERVED_CAUSES = ("ok", "timeout", "memory", "processes", "output", "lost")
LOST = "sandbox lost"
"""The cause if the outcome of a program is unknown."""


class IsolationError(Exception):
    """This machine cannot isolate programs as required; the message says what is missing."""


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of one program, for all its processes together; memory and open files also for each process."""

    timeout_s: float = 5.0
    memory_mb: int = 256
    max_processes: int = 16
    disk_mb: int = 32
    max_open_files: int = 64
    output_kb: int = 1024
    require_isolation: bool = True


@dataclass
class Outcome:
    """The outcome of a program."""

    cause: str
    """`ok`; `timeout`, `memory`, `processes`, `output` (too much), `signal SIGKILL`, `exit 3`; or the name of the
    exception that ended it or, with tests, of the first failed test."""
    passed: list[bool] = field(default_factory=list)
    """For each test, in order; False for tests that did not run."""
    stdout: str = ""
    stderr: str = ""
    """The end of it."""
    detail: str = ""
    """The exception's message."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the program ended normally and passed all tests."""
        return self.cause == "ok"


class Sandbox:
    """Runs one program at a time, in a server process started on first use. `close` it, or use `with`.

    Not thread-safe: use one sandbox for each thread.
    """

    def __init__(self, limits: SandboxLimits | None = None, *, namespaces: bool = True) -> None:
        """namespaces: False runs without namespaces even where they are available."""
        self.limits = limits or SandboxLimits()
        self._namespaces = namespaces
        self._child: ChildProcess | None = None
        self._isolation = ""

    @property
    def pid(self) -> int | None:
        """Process (and group) id of the server while it runs."""
        return None if self._child is None else self._child.process.pid

    def start(self) -> str:
        """Start the server and describe the isolation in force. Raises IsolationError if it is less than required."""
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
        """Run a program, after `setup` in the same namespace; then `support` and each of `tests` in another process,
        where the names of the program refer to objects in the program's process.

        A test passes if it raises nothing. Values of built-in types are copied and compared; other objects stay in the
        program's process, and their attributes, items and methods are used remotely. Raises IsolationError (see
        `start`); every behaviour of the program is an Outcome.
        """
        self.start()
        seconds = self.limits.timeout_s if timeout_s is None else min(timeout_s, self.limits.timeout_s)
        request: dict[str, Any] = {
            "source": source,
            "tests": list(tests),
            "support": support,
            "setup": setup,
            "stdin": stdin,
        }
        request |= {"seconds": seconds, "limits": asdict(self.limits)}
        problem = ""
        for _ in range(2):
            try:
                return _outcome(self._exchange(request, seconds + _GRACE_S), len(tests))
            except (OSError, FrameError) as error:  # without namespaces, a program may have killed the server
                problem = str(error)
                self.close()
                self.start()
        return Outcome(LOST, [False] * len(tests), detail=problem)

    def close(self) -> str:
        """End the server and all that it runs; the end of its output."""
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
            raise IsolationError(f"the sandbox did not start: {error}\n{output}".rstrip()) from error
        if "isolation" not in hello:
            self.close()
            raise IsolationError(f"the sandbox did not start: {hello['problem']}")
        if self.limits.require_isolation and not hello["namespaces"]:
            self.close()
            raise IsolationError(
                f"this machine cannot isolate generated programs ({hello['problem'] or hello['isolation']}): it needs "
                "Linux with user namespaces, or root with CAP_SYS_ADMIN. Use a machine that has them, or set "
                "rewards.sandbox.require_isolation=false"
            )
        self._isolation = hello["isolation"]

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

    def __exit__(self, *error: object) -> None:
        self.close()


def _outcome(reply: dict[str, Any], num_tests: int) -> Outcome:
    judged = {number: (passed, cause, detail) for number, passed, cause, detail in reply["verdicts"]}
    passed = [judged.get(number, (False,))[0] is True for number in range(num_tests)]
    cause, detail = _cause(reply, judged, num_tests, all(passed))
    return Outcome(cause, passed, reply["stdout"], reply["stderr"], detail, reply["seconds"])


def _cause(
    reply: dict[str, Any], judged: dict[int, tuple[bool, str, str]], num_tests: int, passed: bool
) -> tuple[str, str]:
    """The cause of a program's outcome, and its detail."""
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
    """An exception's name, distinct from the reserved causes."""
    return name if name.isidentifier() and name not in _RESERVED_CAUSES else f"exception {name!r}"


def _ended(status: int) -> str:
    """How the process ended, from its wait(2) status; a negative status is unknown."""
    if status < 0:
        return "lost"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(number).name}"
        return f"signal {number}"
    code = os.WEXITSTATUS(status)
    return "ok" if code == 0 else f"exit {code}"
