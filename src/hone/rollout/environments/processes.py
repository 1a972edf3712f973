"""This process's end of environment processes: a host that forks them, and a seat, one of them, that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hone.config.schema import EnvConfig, EnvironmentConfig
from hone.errors import ConfigError
from hone.rollout.rewards.worker_process import CallFailed, Died, TimedOut, stop, worker_environment
from hone.rollout.workers.framing import BadFrame, Inbox, framed
from hone.user_code import search_path

_BOOT = (
    "import json, sys; fd, sys.path[:] = json.loads(sys.argv[1]); "
    "from hone.rollout.environments.server import main; main(fd)"
)
_FORK_S = 60.0  # for a machine that swaps
_END_S = 5.0
_LOG_TAIL = 4000


class Raised(CallFailed):
    """The environment raised; its process lives on. `kind` says what, `detail` is the traceback."""


class EnvServer:
    """One environment of the configuration: the process that has imported it. Any thread may fork it."""

    def __init__(self, name: str, config: EnvironmentConfig, log: Any = None) -> None:
        self.name, self.config, self._log = name, config, log
        self.described: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._tail = b""

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"environment '{self.name}'" + (f" ({self.config.path})" if self.config.path else "")

    def start(self) -> None:
        """Start the process and have it import the environment. Raises ConfigError when it is none."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-u",
                    "-c",
                    _BOOT,
                    json.dumps([theirs.fileno(), search_path()]),
                    "hone-environment",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=worker_environment(),
            )
        self._channel = ours
        threading.Thread(target=self._drain, args=(self._process.stdout,), daemon=True).start()
        config = self.config
        request = {
            "op": "load",
            "path": config.path,
            "kwargs": dict(config.kwargs),
            "tools": list(config.tools),
            "action": config.action,
            "observation": config.observation,
            "limit": config.max_observation_chars,
            "memory_limit_mb": config.memory_limit_mb,
        }
        try:
            reply = exchange(ours, pickle.dumps(request), config.load_timeout_s)
        except CallFailed as failed:
            raise ConfigError(
                f"{self.label} cannot be imported: {failed.kind}\n{self._last_words()}"
            ) from None
        if "raised" in reply:
            raise ConfigError(f"{self.label} cannot be imported: {reply['raised']}\n{reply['traceback']}")
        if "missing" in reply:
            section = "env" if isinstance(self.config, EnvConfig) else f"env.{self.name}"
            raise ConfigError(f"{self.label}: {section}.{reply['missing']}")
        if "defect" in reply:
            raise ConfigError(f"{self.label} {reply['defect']}")
        self.described = reply["ok"]

    def fork(self) -> EnvProcess:
        """A process for one rollout at a time. Raises CallFailed when the server is gone."""
        ours, theirs = socket.socketpair()
        out, into = os.pipe()
        message = pickle.dumps({"op": "fork"})
        with self._lock, theirs:
            assert self._channel is not None
            self._channel.setblocking(True)
            try:
                socket.send_fds(self._channel, [framed(message)], [theirs.fileno(), out])
                reply = exchange(self._channel, b"", _FORK_S)
            except OSError as error:
                raise Died(f"the environment server is gone: {error}") from error
            finally:
                os.close(out)
        return EnvProcess(ours, into, reply["ok"])

    def close(self) -> None:
        """End the server with all that it started; processes are closed on their own."""
        if self._process is None:
            return
        stop(self._process)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._channel is not None:
            self._channel.close()

    def _drain(self, stream: Any) -> None:
        """What environments print, into the log. Ends when the last of their processes does."""
        with contextlib.suppress(OSError, ValueError), stream:
            while part := stream.read1(1 << 16):
                self._tail = (self._tail + part)[-_LOG_TAIL:]
                if self._log is not None:
                    self._log.info(part.decode(errors="replace").rstrip("\n"))

    def _last_words(self) -> str:
        time.sleep(0.1)  # the thread that reads them
        return self._tail.decode(errors="replace").strip()


class EnvProcess:
    """A process that answers one rollout at a time."""

    def __init__(self, channel: socket.socket, lifeline: int, pid: int) -> None:
        self.pid = pid
        self._channel, self._lifeline = channel, lifeline
        self.open = True

    def call(self, op: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        """Raises TimedOut or Died, and the process is gone then; Raised, and it is not."""
        try:
            reply = exchange(self._channel, pickle.dumps({"op": op, "arguments": list(arguments)}), timeout_s)
        except CallFailed:
            self.close()
            raise
        if "ok" in reply:
            return reply["ok"]
        if "defect" in reply:
            raise Raised(reply["defect"])
        raise Raised(f"raised {reply['raised']}", reply["traceback"])

    def close(self) -> None:
        """Kill the process and all that it started."""
        if not self.open:
            return
        self.open = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "linux":
                os.kill(self.pid, signal.SIGTERM)  # see `supervise`
            else:
                os.killpg(self.pid, signal.SIGKILL)
        self._channel.close()
        os.close(self._lifeline)


def exchange(channel: socket.socket, message: bytes, timeout_s: float) -> Mapping[str, Any]:
    """Write a message (unless it is empty), read one reply. Raises TimedOut; or Died at the end of the stream, and for
    what is no reply."""
    try:
        return _exchange(channel, message, timeout_s)
    except BadFrame as bad:
        raise Died(str(bad)) from None


def _exchange(channel: socket.socket, message: bytes, timeout_s: float) -> Mapping[str, Any]:
    deadline = time.monotonic() + timeout_s
    channel.setblocking(False)
    unsent = memoryview(framed(message) if message else b"")
    inbox = Inbox()
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0))
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(f"timeout after {timeout_s:g} s")
            for _, events in selector.select(left):
                try:
                    if events & selectors.EVENT_WRITE and unsent:
                        unsent = unsent[channel.send(unsent) :]
                        if not unsent:
                            selector.modify(channel, selectors.EVENT_READ)
                    if events & selectors.EVENT_READ:
                        part = channel.recv(1 << 20)
                        if not part:
                            raise Died("process died")
                        inbox.add(part)
                except BlockingIOError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    raise Died("process died") from None
            if (answer := inbox.answer()) is not None:
                return answer
