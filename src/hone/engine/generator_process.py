"""A generator in a child process of this machine, which runs an `EngineWorker` as a Ray actor does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.errors import WorkerLostError
from hone.files import last_lines
from hone.subprocesses import end_with_parent
from hone.user_code import search_path

if TYPE_CHECKING:
    from hone.config import OnlineConfig
    from hone.types import Completion, Prompt, Sampling

BOOT = (
    "import importlib, json, sys; descriptor, log, sys.path[:] = json.loads(sys.argv[1]); "
    "importlib.import_module('hone.engine.generator_process').main(descriptor, log)"
)
BEAT_S = 5.0
"""Seconds between two heartbeats of the child."""


class GeneratorProcess:
    """The parent's side, a GeneratorServer. Calls are pickled and answered in order."""

    def __init__(self, name: str, config: OnlineConfig, weights: Path) -> None:
        self.name, self.config, self.weights = name, config, weights
        folder = Path(config.checkpointing.checkpoint_dir).resolve() / "workers"
        self.log = folder / f"{name.replace(' ', '_')}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.calls = 0

    def start(self) -> None:
        """Start the child and load its model. Raises the error of loading, or WorkerLostError."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs:
            boot = json.dumps([theirs.fileno(), str(self.log), search_path()])
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, boot, f"hone {self.name}"],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.channel = Connection(ours.detach())
        self._call("build_generator", self.config, self.weights)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As `LocalGenerator.generate`."""
        return await asyncio.to_thread(self._call, "generate", list(prompts), sampling, count)

    async def receive(self, version: int) -> None:
        """Load the weights that were published as `version`."""
        await asyncio.to_thread(self._call, "receive_weights", version)

    def close(self) -> None:
        """Kill the child."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.channel.close()
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.process = None

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the child's EngineWorker. Raises its exception, or WorkerLostError if it died or hangs."""
        self.calls += 1
        try:
            self.channel.send((self.calls, method, arguments))
            while (reply := self._reply(method))[0] != self.calls:  # the reply to an abandoned call
                pass
        except (EOFError, OSError) as error:
            raise WorkerLostError(
                f"{self._who()} died: {self._exit_reason()}{last_lines(self.log)}"
            ) from error
        if isinstance(reply[1], BaseException):
            raise reply[1]
        return reply[1]

    def _reply(self, method: str) -> tuple[int, Any]:
        """The next reply. Raises WorkerLostError after `cluster.worker_timeout_s` without progress."""
        patience, beats = self.config.cluster.worker_timeout_s, 0
        deadline = time.monotonic() + patience
        while self.channel.poll(max(0.0, deadline - time.monotonic())):
            number, result = self.channel.recv()
            if number:
                return number, result
            if result != beats:
                beats, deadline = result, time.monotonic() + patience
        raise WorkerLostError(
            f"{self._who()} made no progress for {patience:.0f} s in {method}{last_lines(self.log)}"
        )

    def _who(self) -> str:
        assert self.process is not None
        return f"{self.name} (pid {self.process.pid})"

    def _exit_reason(self) -> str:
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(BEAT_S)
        code = self.process.returncode
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name} (killed, or out of memory?)"
        return f"exit code {code}"


def main(descriptor: int, log: str) -> None:
    """The child: answer calls of an `EngineWorker` until the parent ends, and send a heartbeat meanwhile."""
    end_with_parent(os.dup(0))
    from hone.engine.distributed.heartbeat import HEARTBEAT
    from hone.engine.distributed.worker import EngineWorker

    worker, channel, lock = EngineWorker(0, os.getcwd(), log), Connection(descriptor), threading.Lock()

    def send(number: int, result: Any) -> None:
        with lock:
            channel.send((number, result))

    def beat() -> None:
        while True:
            time.sleep(BEAT_S)
            send(0, HEARTBEAT.count)

    threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    while True:
        number, method, arguments = channel.recv()
        try:
            send(number, getattr(worker, method)(*arguments))
        except Exception as error:  # raised again in the parent, with this traceback as its cause
            send(number, ExceptionWithTraceback(error, error.__traceback__))
