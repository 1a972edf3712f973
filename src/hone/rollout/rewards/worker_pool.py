"""The parent's end of reward workers: load functions, call them with a time limit, restart workers that died."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from hone.errors import RewardError
from hone.rollout.rewards.resolve import RewardSpec
from hone.rollout.sandbox import SandboxLimits
from hone.rollout.workers.child_process import ENDED, CallFailed, ChildProcess, Died, TimedOut, exchange
from hone.rollout.workers.import_time import CallTimer


@dataclass(frozen=True)
class Limits:
    """Limits of a worker: seconds for a call, seconds to import a function, megabytes of address space."""

    timeout_s: float
    load_timeout_s: float
    memory_mb: int | None = None
    sandbox: SandboxLimits = SandboxLimits()  # noqa: RUF009  (frozen)


class RewardWorkerHandle:
    """One worker process, started on first use and again after it was killed. Used by one thread at a time.

    Any thread may call `terminate`: a call in progress then raises Died within a fraction of a second.
    """

    def __init__(self, limits: Limits, log: logging.Logger | None = None) -> None:
        self._limits, self._log = limits, log
        self._child: ChildProcess | None = None
        self._import_events: int | None = None
        self._described: dict[str, dict[str, Any]] = {}
        self._terminated = threading.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the running worker; the id of its reaper until a function is loaded."""
        loaded = next(iter(self._described.values()), {})
        return None if self._child is None else loaded.get("pid", self._child.process.pid)

    def load(self, spec: RewardSpec) -> dict[str, Any]:
        """Start the worker if needed and import the function in it; its arguments (see function_signature.describe).

        Raises RewardError if it cannot be imported or is not a reward function.
        """
        if self._child is None:
            self._start()
        if spec.name not in self._described:
            request = {"op": "load", "name": spec.name, "target": spec.target, "kwargs": dict(spec.kwargs)}
            request["settings"] = {"sandbox": asdict(self._limits.sandbox)}
            try:
                reply = self._exchange(pickle.dumps(request), CallTimer(self._limits.load_timeout_s))
            except CallFailed as failed:
                advice = " (raise rewards.load_timeout_s?)" if isinstance(failed, TimedOut) else ""
                reply = {"raised": failed.cause + advice, "traceback": failed.detail}
            if "raised" in reply:
                problem = f"{reply['raised']}\n{reply['traceback']}".rstrip()
                raise RewardError(f"reward {spec.label} cannot be imported: {problem}")
            if "defect" in reply:
                raise RewardError(f"reward {spec.label} {reply['defect']}")
            self._described[spec.name] = reply["ok"]
        return self._described[spec.name]

    def call(self, spec: RewardSpec, request: bytes, count: int = 1) -> dict[str, Any]:
        """Send a request to score `count` completions and return the reply. Raises TimedOut or Died after the worker
        has ended."""
        described = self.load(spec)
        seconds = self._limits.timeout_s + count * described["seconds_each"]
        reply = self._exchange(request, CallTimer(seconds, self._limits.load_timeout_s, self._import_events))
        if reply.get("restart"):
            self.kill()
        return reply

    def terminate(self) -> None:
        """End the worker for good, without waiting. Safe from any thread; its own thread calls `kill` afterwards."""
        self._terminated.set()
        if (child := self._child) is not None:
            child.terminate()

    def kill(self) -> str:
        """Kill the worker and all that it started, wait, and return the last of its output. The next call starts a new
        one, unless `terminate` was called."""
        if self._child is None:
            return ""
        output = self._child.kill()
        if self._import_events is not None:
            os.close(self._import_events)
        self._child = self._import_events = None
        return output

    def _start(self) -> None:
        if self._terminated.is_set():
            raise Died("the pool was closed")
        self._import_events, events = os.pipe()
        os.set_blocking(self._import_events, False)
        arguments = (events, self._limits.memory_mb)
        with os.fdopen(events, "wb"):
            module = "hone.rollout.rewards.worker"
            self._child = ChildProcess(module, "hone-reward-worker", arguments, [events], self._log)
        self._described = {}

    def _exchange(self, message: bytes, timer: CallTimer) -> dict[str, Any]:
        child, terminated = self._child, self._terminated
        assert child is not None
        try:
            return exchange(child.channel, message, timer, lambda: child.alive() and not terminated.is_set())
        except TimedOut as late:
            raise TimedOut(late.cause, self.kill()) from None
        except Died as died:
            output = self.kill()
            raise Died(child.exit_reason() if died.cause == ENDED else died.cause, output) from None


Reply = dict[str, Any] | CallFailed
"""The function's reply, or how the call failed."""


class RewardWorkerPool:
    """`num_workers` workers and as many threads. They start on first use."""

    def __init__(self, num_workers: int, limits: Limits, log: logging.Logger | None) -> None:
        self.workers: Sequence[RewardWorkerHandle] = [
            RewardWorkerHandle(limits, log) for _ in range(num_workers)
        ]
        self._idle: queue.LifoQueue[RewardWorkerHandle] = queue.LifoQueue()  # started workers first
        for worker in reversed(self.workers):
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="hone-reward")

    def submit(self, spec: RewardSpec, request: bytes, count: int) -> Future[Reply]:
        """Have a free worker score `count` completions."""

        def work() -> Reply:
            worker = self._idle.get_nowait()  # as many threads as workers: one is free
            try:
                return worker.call(spec, request, count)
            except CallFailed as failed:
                return failed
            finally:
                self._idle.put(worker)

        return self._threads.submit(work)

    def terminate(self) -> None:
        """End all workers for good, also during a call, without waiting; `join` comes next."""
        for worker in self.workers:
            worker.terminate()

    def join(self) -> None:
        """Wait for the threads, whose calls have failed, and for the workers."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.workers:
            worker.kill()
