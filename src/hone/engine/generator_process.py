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
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
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
BETWEEN_TOKENS = ("receive_weights", "abort")
"""Calls that are answered between two tokens of a running `generate`."""


class GeneratorProcess:
    """The parent's side, a GeneratorServer. Calls are pickled. The child answers one at a time, in order; but weights
    are received, and completions aborted, between two tokens of a call that is running."""

    batches_itself = False

    def __init__(self, name: str, config: OnlineConfig, weights: Path) -> None:
        self.name, self.config, self.weights = name, config, weights
        folder = Path(config.checkpointing.checkpoint_dir).resolve() / "workers"
        self.log = folder / f"{name.replace(' ', '_')}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._calls = 0
        self._replies: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._progressed = 0.0

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
        self.channel, self._replies = Connection(ours.detach()), {}
        arguments = (self.channel, self._replies)
        self._reader = threading.Thread(target=self._read, args=arguments, daemon=True, name=self.name)
        self._reader.start()
        self._call("build_generator", self.config, self.weights)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As `LocalGenerator.generate`."""
        return await asyncio.to_thread(self._call, "generate", list(prompts), sampling, count)

    async def receive(self, version: int) -> None:
        """Load the weights that were published as `version`."""
        await asyncio.to_thread(self._call, "receive_weights", version)

    async def abort(self, keys: Sequence[tuple[str, int]]) -> None:
        """End completions (prompt id, number) that are being sampled, with the tokens that they have."""
        await asyncio.to_thread(self._call, "abort", list(keys))

    def close(self) -> None:
        """Kill the child."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            self.channel.close()
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.process = None

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the child's EngineWorker. Raises its exception, or WorkerLostError if it died or hangs."""
        reply: Future[Any] = Future()
        began = time.monotonic()
        try:
            with self._lock:
                self._calls += 1
                self._replies[self._calls] = reply
                self.channel.send((self._calls, method, arguments))
            result = self._wait(reply, method, began)
        except (EOFError, OSError) as error:
            raise WorkerLostError(
                f"{self._who()} died: {self._exit_reason()}{last_lines(self.log)}"
            ) from error
        if isinstance(result, BaseException):
            raise result
        return result

    def _wait(self, reply: Future[Any], method: str, began: float) -> Any:
        """The reply. Raises WorkerLostError after `cluster.worker_timeout_s` without progress."""
        patience = self.config.cluster.worker_timeout_s
        while (left := max(began, self._progressed) + patience - time.monotonic()) > 0:
            with contextlib.suppress(FutureTimeoutError):
                return reply.result(min(left, BEAT_S) if self._reader.is_alive() else 0)
            if not self._reader.is_alive() and not reply.done():
                raise EOFError
        raise WorkerLostError(
            f"{self._who()} made no progress for {patience:.0f} s in {method}{last_lines(self.log)}"
        )

    def _read(self, channel: Connection, replies: dict[int, Future[Any]]) -> None:
        """Hand out the replies until the child is gone; note its heartbeats."""
        beats = 0
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, result = channel.recv()
                if number:
                    replies.pop(number).set_result(result)
                elif result != beats:
                    beats, self._progressed = result, time.monotonic()

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

    channel, lock = Connection(descriptor), threading.Lock()
    calls: deque[tuple[int, str, tuple[Any, ...]]] = deque()
    arrived = threading.Semaphore(0)

    def send(number: int, result: Any) -> None:
        with lock:
            channel.send((number, result))

    def beat() -> None:
        while True:
            time.sleep(BEAT_S)
            send(0, HEARTBEAT.count)

    def read() -> None:
        with contextlib.suppress(EOFError, OSError):  # the parent has ended, and this process with it
            while True:
                calls.append(channel.recv())
                arrived.release()

    def answer() -> None:
        number, method, arguments = calls.popleft()
        try:
            send(number, getattr(worker, method)(*arguments))
        except Exception as error:  # raised again in the parent, with this traceback as its cause
            send(number, ExceptionWithTraceback(error, error.__traceback__))

    def between_tokens() -> None:
        while calls and calls[0][1] in BETWEEN_TOKENS and arrived.acquire(blocking=False):
            answer()

    worker = EngineWorker(0, os.getcwd(), log, between_tokens)
    threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    threading.Thread(target=read, daemon=True, name="calls").start()
    while True:
        arrived.acquire()
        answer()
