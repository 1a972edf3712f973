"""The parent's end of a child process: start it, call it within a time limit, kill it and all that it started.

The child runs `main` of a module on one end of a socket pair. It leads its own session, so Ctrl-C in the terminal does
not reach it. Its standard input is a pipe that closes when this process ends (subprocesses.end_with_parent).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.rollout.workers.framing import FrameError, FrameReader, frame, parse_object
from hone.rollout.workers.import_time import CallTimer
from hone.user_code import search_path

if TYPE_CHECKING:
    import logging
    from logging.handlers import RotatingFileHandler

_BOOT = (
    "import importlib, json, sys; module, arguments, sys.path[:] = json.loads(sys.argv[1]); "
    "importlib.import_module(module).main(*arguments)"
)
_POLL_S = 0.25  # a wait checks this often whether the process is alive
_KILL_WAIT_S = 5.0
_LOG_BYTES = 5_000_000  # of output in each of the two log files
_TAIL_BYTES = 4000  # of output kept for messages
ENDED = "process died"
"""The cause that `exchange` gives for a process that closed its channel."""


class CallFailed(Exception):
    """A call without a reply. `cause` says what happened; `detail` is the last output or a traceback."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause, self.detail = cause, detail


class TimedOut(CallFailed):
    """No reply within the limit; the caller is to kill the process."""


class Died(CallFailed):
    """The process ended during the call."""


class Raised(CallFailed):
    """The user's code raised; its process keeps running."""


class ChildProcess:
    """A running child. `channel` is its socket. Its output goes to `log`; the end of it is kept for messages."""

    def __init__(
        self,
        module: str,
        title: str,
        arguments: Sequence[Any] = (),
        descriptors: Sequence[int] = (),
        log: logging.Logger | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Run `module.main(descriptor of the channel, *arguments)`. `title` is shown by `ps`."""
        self.channel, theirs = socket.socketpair()
        boot = json.dumps([module, [theirs.fileno(), *arguments], search_path()])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", _BOOT, boot, title, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=(theirs.fileno(), *descriptors),
                start_new_session=True,
                env=environment or _environment(),
            )
        self._log, self._tail = log, b""
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        self._reader.start()

    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def terminate(self) -> None:
        """End a process that has a reaper (fork_under_reaper) and all that it started, without waiting."""
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self.process.terminate()
        else:
            self._kill_group()

    def kill(self) -> str:
        """`terminate`, wait for the end, and return the last of the output."""
        self.terminate()
        return self.wait()

    def wait(self, patience_s: float = _KILL_WAIT_S) -> str:
        """Wait for the end, kill the process group after `patience_s`, and return the last of the output."""
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._kill_group()
            # A process that waits for a disk cannot be killed before the disk answers.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_KILL_WAIT_S)
        self._reader.join(_POLL_S)  # an escaped process may hold the pipe open
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.channel.close()
        return self._tail.decode(errors="replace").strip()

    def exit_reason(self) -> str:
        """How the process ended, from its exit status."""
        code = self.process.returncode
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return f"worker died with signal {-code} ({signal.Signals(-code).name})"
        return f"worker exited with code {code}"

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a zombie
            os.killpg(self.process.pid, signal.SIGKILL)

    def _read_output(self) -> None:
        """Runs in a thread until no process holds the pipe."""
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError), self.process.stdout as stream:
            while part := stream.read(1 << 16):
                self._tail = (self._tail + part)[-_TAIL_BYTES:]
                if self._log is not None:
                    self._log.info(part.decode(errors="replace").rstrip("\n"))


def exchange(
    channel: socket.socket, message: bytes, timer: CallTimer, alive: Callable[[], bool] = lambda: True
) -> dict[str, Any]:
    """Send a message (unless it is empty) and receive one reply, a JSON object.

    Raises TimedOut when `timer` runs out. Raises Died at the end of the stream, for a reply that is not a JSON object,
    and if nothing arrives while `alive` is False.
    """
    channel.setblocking(False)
    unsent = memoryview(frame(message) if message else b"")
    reader = FrameReader()
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0))
        while True:
            timer.read_events()
            if (left := timer.remaining()) <= 0:
                raise TimedOut(timer.cause())
            ready = selector.select(min(left, _POLL_S))
            try:
                for _, events in ready:
                    if events & selectors.EVENT_WRITE and unsent:
                        unsent = unsent[channel.send(unsent) :]
                        if not unsent:
                            selector.modify(channel, selectors.EVENT_READ)
                    if events & selectors.EVENT_READ:
                        if not (part := channel.recv(1 << 20)):
                            raise Died(ENDED)
                        reader.add(part)
                if (reply := reader.message()) is not None:
                    return parse_object(reply)
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                raise Died(ENDED) from None
            except FrameError as error:
                raise Died(str(error)) from None
            if not ready and not alive():
                raise Died(ENDED)


def _environment() -> dict[str, str]:
    """One numerics thread in each worker, and a fixed hash seed: sets have the same order in every run."""
    return {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false", **os.environ}


def open_log(path: str | Path | None) -> tuple[RotatingFileHandler | None, logging.Logger | None]:
    """A log of at most 2 x _LOG_BYTES for the output of child processes; (None, None) without a path."""
    if path is None:
        return None, None
    import logging
    from logging.handlers import RotatingFileHandler

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, delay=True, encoding="utf-8")
    log = logging.Logger("hone.workers.output")
    log.addHandler(handler)
    return handler, log
