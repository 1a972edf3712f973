"""A generator in a child process of this machine: the parent's side. `generator_child` has the other one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.engine.requests import requests_of
from hone.errors import WorkerLostError
from hone.files import last_lines
from hone.user_code import search_path

if TYPE_CHECKING:
    from hone.config import OnlineConfig
    from hone.types import Completion, Prompt, Sampling

BOOT = (
    "import importlib, json, sys; descriptor, log, sys.path[:] = json.loads(sys.argv[1]); "
    "importlib.import_module('hone.engine.generator_child').main(descriptor, log)"
)
BEAT_S = 5.0
"""Seconds between two heartbeats of the child."""


class GeneratorProcess:
    """The parent's side, a GeneratorServer. Calls are pickled.

    With `async_rollouts=stream` and continuous batching each completion is a request of its own; otherwise the child
    answers one call after the other. Weights are received, and completions aborted, between two tokens.
    """

    def __init__(self, name: str, config: OnlineConfig, weights: Path) -> None:
        self.name, self.config, self.weights = name, config, weights
        folder = Path(config.checkpointing.checkpoint_dir).resolve() / "workers"
        self.log = folder / f"{name.replace(' ', '_')}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._calls = 0
        self._replies: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._progressed = 0.0
        self.batches_itself = serves_requests(config)

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
        """As `LocalGenerator.generate`. If it is cancelled, the child stops sampling."""
        try:
            done: list[list[Completion]] = await self._call_async("generate", list(prompts), sampling, count)
        except asyncio.CancelledError:
            with contextlib.suppress(EOFError, OSError):
                self._send("abort", [(one.id, one.first_completion) for one in requests_of(prompts, count)])
            raise
        return done

    async def receive(self, version: int) -> None:
        """Load the weights that were published as `version`."""
        await self._call_async("receive_weights", version)

    async def abort(self, keys: Sequence[tuple[str, int]]) -> None:
        """End completions (prompt id, number) that are being sampled."""
        await self._call_async("abort", list(keys))

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
        began = time.monotonic()
        with self._naming_the_loss() as who:
            reply = self._send(method, *arguments)
            while not self._is_answered(reply, method, began, who):
                wait([reply], timeout=BEAT_S)
        return _result(reply)

    async def _call_async(self, method: str, *arguments: Any) -> Any:
        """As `_call`."""
        began = time.monotonic()
        with self._naming_the_loss() as who:
            reply = self._send(method, *arguments)
            waiting = asyncio.wrap_future(reply)
            while not self._is_answered(reply, method, began, who):
                await asyncio.wait([waiting], timeout=BEAT_S)
        return _result(reply)

    def _send(self, method: str, *arguments: Any) -> Future[Any]:
        reply: Future[Any] = Future()
        with self._lock:
            self._calls += 1
            self._replies[self._calls] = reply
            self.channel.send((self._calls, method, arguments))
        return reply

    def _is_answered(self, reply: Future[Any], method: str, began: float, who: str) -> bool:
        """Raises EOFError if the child is gone, WorkerLostError after `cluster.worker_timeout_s` without progress."""
        patience = self.config.cluster.worker_timeout_s
        gone = not self._reader.is_alive()
        if reply.cancelled():
            raise EOFError
        if reply.done():
            return True
        if gone:
            raise EOFError
        if time.monotonic() > max(began, self._progressed) + patience:
            raise WorkerLostError(
                f"{who} made no progress for {patience:.0f} s in {method}{last_lines(self.log)}"
            )
        return False

    @contextlib.contextmanager
    def _naming_the_loss(self) -> Iterator[str]:
        """Yield the name of the child, which another call that fails may close meanwhile."""
        process = self.process
        who = f"{self.name} (pid {process.pid if process is not None else 'closed'})"
        try:
            yield who
        except (EOFError, OSError) as error:
            raise WorkerLostError(f"{who} died: {_exit_reason(process)}{last_lines(self.log)}") from error

    def _read(self, channel: Connection, replies: dict[int, Future[Any]]) -> None:
        """Hand out the replies until the child is gone; note its heartbeats."""
        beats = 0
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, result = channel.recv()
                if number:
                    reply = replies.pop(number)
                    if not reply.cancelled():
                        reply.set_result(result)
                elif result != beats:
                    beats, self._progressed = result, time.monotonic()
        for reply in list(replies.values()):  # wake those that wait
            reply.cancel()


def _exit_reason(process: subprocess.Popen[bytes] | None) -> str:
    if process is None:
        return "closed"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(BEAT_S)
    code = process.returncode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name} (killed, or out of memory?)"
    return f"exit code {code}"


def _result(reply: Future[Any]) -> Any:
    """Raises the exception that the child raised."""
    result = reply.result()
    if isinstance(result, BaseException):
        raise result
    return result


def serves_requests(config: OnlineConfig) -> bool:
    """Whether the child decodes a queue of requests that others join and leave."""
    return config.streams_rollouts and config.policy.generation.continuous_batching
