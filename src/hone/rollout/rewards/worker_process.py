"""The parent's end of one reward worker: start it, call it with a time limit, kill it with all it started."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from hone.errors import RewardError
from hone.rollout.rewards.import_time import Clock
from hone.rollout.rewards.resolve import RewardSpec
from hone.rollout.sandbox import SandboxLimits
from hone.rollout.workers.framing import BadFrame, Inbox, framed
from hone.user_code import search_path

_BOOT = (
    "import json, sys; fd, signs, memory, sys.path[:] = json.loads(sys.argv[1]); "
    "from hone.rollout.rewards.worker import main; main(fd, signs, memory)"
)
_TICK_S = 0.25  # how often a wait looks whether the worker died or the pool was closed
_LOG_TAIL = 4000  # bytes of a worker's output kept for messages
_KILL_WAIT_S = 5.0


class CallFailed(Exception):
    """A call that brought no answer. `kind` says what happened, `detail` what the worker printed last."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail


class TimedOut(CallFailed):
    """No answer within the limit; the worker was killed."""


class Died(CallFailed):
    """The worker ended during the call."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a worker: seconds for a call, seconds to import a function, megabytes of address space."""

    timeout_s: float
    load_timeout_s: float
    memory_mb: int | None = None
    sandbox: SandboxLimits = SandboxLimits()  # noqa: RUF009  (frozen)


class WorkerProcess:
    """One worker, started on first use and again after it was killed. Used by one thread at a time.

    `close` may be called from any thread: a call in progress then ends within `_TICK_S` with Died.
    """

    def __init__(self, limits: Limits, log: logging.Logger | None = None) -> None:
        self._limits = limits
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._signs: int | None = None
        self._described: dict[str, dict[str, Any]] = {}
        self._tail = b""
        self._closed = threading.Event()

    @property
    def pid(self) -> int | None:
        """Process (and group) id of the running worker: its own where it has told, else of who waits for it."""
        told = next(iter(self._described.values()), {})
        return None if self._process is None else told.get("pid", self._process.pid)

    def load(self, spec: RewardSpec) -> dict[str, Any]:
        """Start the worker if needed and have it import the function; what it takes (see load.describe).

        Raises RewardError when it cannot be imported or is no reward function.
        """
        if self._process is None:
            self._start()
        if spec.name not in self._described:
            request = {"op": "load", "name": spec.name, "target": spec.target, "kwargs": dict(spec.kwargs)}
            request["settings"] = {"sandbox": asdict(self._limits.sandbox)}
            try:
                reply = self._exchange(pickle.dumps(request), Clock(self._limits.load_timeout_s, 0.0, None))
            except CallFailed as failed:
                advice = " (raise rewards.load_timeout_s?)" if isinstance(failed, TimedOut) else ""
                raise RewardError(
                    f"reward {spec.label} cannot be imported: {failed.kind}{advice}\n{failed.detail}".rstrip()
                ) from None
            if "raised" in reply:
                problem = f"{reply['raised']}\n{reply['traceback']}".rstrip()
                raise RewardError(f"reward {spec.label} cannot be imported: {problem}")
            if "defect" in reply:
                raise RewardError(f"reward {spec.label} {reply['defect']}")
            self._described[spec.name] = reply["ok"]
        return self._described[spec.name]

    def call(self, spec: RewardSpec, request: bytes, count: int = 1) -> dict[str, Any]:
        """Send a request to score `count` completions and return the reply. Raises TimedOut or Died; the worker is
        gone then."""
        described = self.load(spec)
        seconds = self._limits.timeout_s + count * described["seconds_each"]
        reply = self._exchange(request, Clock(seconds, self._limits.load_timeout_s, self._signs))
        if reply.get("restart"):
            self._kill()
        return reply

    def close(self) -> None:
        """Kill the worker for good. Safe from any thread; the one that uses it cleans up."""
        self._closed.set()
        process = self._process
        if process is not None:
            stop(process)

    def reap(self) -> None:
        """Clean up after `close`, when no call is in progress."""
        self._kill()

    def _start(self) -> None:
        if self._closed.is_set():
            raise Died("the pool was closed")
        ours, theirs = socket.socketpair()
        self._signs, signs = os.pipe()
        os.set_blocking(self._signs, False)
        # `my_rewards.accuracy` works from the folder that holds my_rewards.py
        boot = json.dumps([theirs.fileno(), signs, self._limits.memory_mb, search_path()])
        with theirs, os.fdopen(signs, "wb"):
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", _BOOT, boot, "hone-reward-worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=(theirs.fileno(), signs),
                start_new_session=True,
                env=worker_environment(),
            )
        ours.setblocking(False)
        self._channel = ours
        self._described = {}
        self._tail = b""

    def _exchange(self, message: bytes, clock: Clock) -> dict[str, Any]:
        """Write the message and read the reply in the time of `clock`, draining the worker's output meanwhile."""
        process, channel = self._process, self._channel
        assert process is not None
        assert process.stdout is not None
        assert channel is not None
        unsent = memoryview(framed(message))
        inbox = Inbox()
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ | selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                clock.listen()
                left = clock.left()
                if left <= 0:
                    raise TimedOut(clock.verdict(), self._kill())
                ready = selector.select(min(left, _TICK_S))
                for key, events in ready:
                    if key.fileobj is process.stdout:
                        if not self._drain(process.stdout.fileno()):
                            selector.unregister(process.stdout)
                        continue
                    if events & selectors.EVENT_WRITE and unsent:
                        unsent = self._send(channel, unsent)
                        if not unsent:
                            selector.modify(channel, selectors.EVENT_READ)
                    if events & selectors.EVENT_READ and not self._receive(channel, inbox):
                        raise self._death()
                if (answer := self._answer(inbox)) is not None:
                    return answer
                if self._closed.is_set() or (not ready and process.poll() is not None):
                    raise self._death()

    def _send(self, channel: socket.socket, unsent: memoryview) -> memoryview:
        try:
            return unsent[channel.send(unsent) :]
        except BlockingIOError:
            return unsent
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def _receive(self, channel: socket.socket, inbox: Inbox) -> bool:
        """Keep what has arrived; False at the end of the stream. Raises Died for what is no reply."""
        try:
            part = channel.recv(1 << 20)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        try:
            inbox.add(part)
        except BadFrame as bad:
            raise Died(str(bad), self._kill()) from None
        return bool(part)

    def _answer(self, inbox: Inbox) -> dict[str, Any] | None:
        try:
            return inbox.answer()
        except BadFrame as bad:
            raise Died(str(bad), self._kill()) from None

    def _drain(self, fd: int) -> bool:
        """Read the worker's output into the log and the tail; False at its end."""
        part = os.read(fd, 1 << 16)
        self._tail = (self._tail + part)[-_LOG_TAIL:]
        if self._log is not None and part:
            self._log.info(part.decode(errors="replace").rstrip("\n"))
        return bool(part)

    def _death(self) -> Died:
        """Why the worker ended, which the exit status keeps even when it is killed while ending."""
        process = self._process
        assert process is not None
        detail = self._kill()
        code = process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return Died(f"worker died with signal {-code} ({signal.Signals(-code).name})", detail)
        return Died(f"worker exited with code {code}", detail)

    def _kill(self) -> str:
        """Kill the worker and everything it started, wait for it, and return the last of its output."""
        process, channel = self._process, self._channel
        if process is None:
            return ""
        stop(process)
        try:
            process.wait(_KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            # One that waits for a disk cannot be killed: it ends when it can.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_WAIT_S)
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while self._drain(process.stdout.fileno()):
                    pass
            process.stdout.close()
        for stream in (process.stdin, channel):
            if stream is not None:
                stream.close()
        if self._signs is not None:
            os.close(self._signs)
        self._process = self._channel = self._signs = None
        return self._tail.decode(errors="replace").strip()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Have a supervised process (see `supervise`) end with all that it started; do not wait for it."""
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            process.terminate()
    else:
        _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # Gone already: macOS says EPERM for a zombie.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def worker_environment() -> dict[str, str]:
    """One thread for each worker's numerics; and the same order of sets in each, so that runs repeat."""
    return {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false", **os.environ}
