"""The parent's end of environment processes: the server that imports an environment, and the processes it forks."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from logging import Logger
from typing import Any

from hone.config.schema import EnvConfig, EnvironmentConfig
from hone.errors import ConfigError
from hone.rollout.workers.child_process import CallFailed, ChildProcess, Died, Raised, exchange
from hone.rollout.workers.framing import frame
from hone.rollout.workers.import_time import CallTimer

_FORK_S = 60.0  # a fork is slow on a machine that swaps


class EnvServer:
    """The process that imports one environment of the configuration. Any thread may call `fork`."""

    def __init__(self, name: str, config: EnvironmentConfig, log: Logger | None = None) -> None:
        self.name, self.config, self._log = name, config, log
        self.described: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None

    @property
    def label(self) -> str:
        """The environment's name in messages."""
        return f"environment '{self.name}'" + (f" ({self.config.path})" if self.config.path else "")

    @property
    def pid(self) -> int | None:
        """The server's process id; None before its start."""
        return None if self._child is None else self._child.process.pid

    def start(self) -> None:
        """Start the process and import the environment in it. Raises ConfigError if the import fails, and for an object
        that is not an environment."""
        self._child = ChildProcess("hone.rollout.environments.server", "hone-environment", log=self._log)
        config = self.config
        request = {
            "op": "load",
            "path": config.path,
            "kwargs": dict(config.kwargs),
            "tools": list(config.tools),
            "action": config.action,
            "observation": config.observation,
            "memory_limit_mb": config.memory_limit_mb,
            "max_observation_chars": config.max_observation_chars,
        }
        try:
            reply = exchange(self._child.channel, pickle.dumps(request), CallTimer(config.load_timeout_s))
        except CallFailed as failed:
            reply = {"raised": failed.cause, "traceback": self._child.kill()}
        if "raised" in reply:
            raise ConfigError(f"{self.label} cannot be imported: {reply['raised']}\n{reply['traceback']}")
        if "missing" in reply:
            section = "env" if isinstance(config, EnvConfig) else f"env.{self.name}"
            raise ConfigError(f"{self.label}: {section}.{reply['missing']}")
        if "defect" in reply:
            raise ConfigError(f"{self.label} {reply['defect']}")
        self.described = reply["ok"]

    def fork(self) -> EnvProcess:
        """A process for one rollout at a time. Raises CallFailed if the server has ended."""
        ours, theirs = socket.socketpair()
        reading, lifeline = os.pipe()
        message = frame(pickle.dumps({"op": "fork"}))
        with self._lock, theirs:
            assert self._child is not None
            channel = self._child.channel
            try:
                channel.setblocking(True)
                socket.send_fds(channel, [message], [theirs.fileno(), reading])
                reply = exchange(channel, b"", CallTimer(_FORK_S))
            except OSError as error:
                raise Died(f"the environment server has ended: {error}") from error
            finally:
                os.close(reading)
        return EnvProcess(ours, lifeline, reply["ok"])

    def close(self) -> None:
        """End the server and all that it started. Forked processes are closed separately."""
        if self._child is not None:
            self._child.kill()


class EnvProcess:
    """A process that serves one rollout at a time."""

    def __init__(self, channel: socket.socket, lifeline: int, pid: int) -> None:
        """lifeline: the writing end of a pipe; the process ends when it closes."""
        self.pid, self.open = pid, True
        self._channel, self._lifeline = channel, lifeline

    def call(self, op: str, arguments: Sequence[Any], timeout_s: float) -> Any:
        """Call a method of the rollout's Session. Raises TimedOut or Died after the process has ended, and Raised while
        it is still running."""
        try:
            message = pickle.dumps({"op": op, "arguments": list(arguments)})
            reply = exchange(self._channel, message, CallTimer(timeout_s))
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
                os.kill(self.pid, signal.SIGTERM)  # its reaper ends the rest (fork_under_reaper)
            else:
                os.killpg(self.pid, signal.SIGKILL)
        self._channel.close()
        os.close(self._lifeline)
