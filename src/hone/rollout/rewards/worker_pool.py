"""WorkerPool: reward workers, each driven by a thread whose waits have a deadline."""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hone.rollout.rewards.resolve import RewardSpec
from hone.rollout.rewards.worker_process import Limits, WorkerProcess
from hone.rollout.workers.child_process import CallFailed

Reply = dict[str, Any] | CallFailed
"""The function's reply, or how the call failed."""


class WorkerPool:
    """`num_workers` workers and as many threads. They start on first use."""

    def __init__(self, num_workers: int, limits: Limits, log: logging.Logger | None) -> None:
        self.workers: Sequence[WorkerProcess] = [WorkerProcess(limits, log) for _ in range(num_workers)]
        self._idle: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()  # started workers first
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

    def kill(self) -> None:
        """Kill the workers, also during a call; `wait` comes next."""
        for worker in self.workers:
            worker.close()

    def wait(self) -> None:
        """Wait for the threads, whose calls have failed, and release the workers' resources."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.workers:
            worker.kill()
