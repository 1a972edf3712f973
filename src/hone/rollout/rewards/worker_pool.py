"""Which worker is asked what. Each worker is driven by a thread that never waits beyond a deadline.

Most functions share the workers. One that holds something large, or that mostly waits (a reward model, a judge, an
async function), has a lane of its own, so that it holds nobody up and several of them run at once.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from hone.rollout.rewards.resolve import RewardSpec
from hone.rollout.rewards.worker_process import CallFailed, Limits, WorkerProcess

_LOG_BYTES = 5_000_000  # of worker output kept on disk, twice over
Reply = dict[str, Any] | CallFailed
"""What the function said, or how the call failed."""


class WorkerPool:
    """So many workers, and as many threads that drive them. They start when first needed."""

    def __init__(self, num_workers: int, limits: Limits, log: logging.Logger | None) -> None:
        self.workers: Sequence[WorkerProcess] = [WorkerProcess(limits, log) for _ in range(num_workers)]
        self._idle: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()  # the warm ones first
        for worker in reversed(self.workers):
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="hone-reward")

    def submit(self, spec: RewardSpec, request: bytes, count: int) -> Future[Reply]:
        """Have whichever worker is free score `count` completions."""

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
        """Kill the workers, whatever they are doing; `wait` comes next."""
        for worker in self.workers:
            worker.close()

    def wait(self) -> None:
        """Wait for the threads, whose calls have failed, and clean up."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.workers:
            worker.reap()


def open_log(path: str | Path | None) -> tuple[RotatingFileHandler | None, logging.Logger | None]:
    """A file that stays below 2 x _LOG_BYTES whatever the functions print."""
    if path is None:
        return None, None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, delay=True, encoding="utf-8")
    log = logging.Logger("hone.rewards.output")
    log.addHandler(handler)
    return handler, log
