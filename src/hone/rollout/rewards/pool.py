"""RewardPool: scores batches of completions in worker processes that are killed when they hang or crash.

    async with RewardPool(resolve_all(cfg.rewards.functions)) as pool:      # a wrong function stops here
        pool.check_columns(dataset_columns)                                 # a missing column stops here
        scored = await pool.score(prompts, completions, {"answer": [...]})  # one Scored for each completion

A function is called on chunks of the batch, in parallel. A chunk whose call times out, crashes or raises is
called again one completion at a time, each in a worker that is killed and replaced if it hangs or dies:
exactly the guilty completions fail, each with its cause, and the others keep their rewards. A function
therefore sees a chunk, never surely the whole batch; chunks do not split the `group_size` completions of one
prompt, but a retry does. A function that stands `alone` (a reward model) has one worker to itself, which gets the
whole batch.

Each worker is driven by a thread that never waits beyond a deadline, so the pool is bound to no event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from hone.errors import RewardError
from hone.rollout.rewards.batch import Batch, Scored
from hone.rollout.rewards.process import CallFailed, Limits, TimedOut, WorkerProcess
from hone.rollout.rewards.resolve import RewardSpec

__all__ = ["RewardPool", "Scored"]

_MIN_CHUNK = (
    8  # completions; below it a call's own cost (0.2 ms) and a worker's start (0.1 s) outweigh the gain
)
_MODEL_CALL_S = 600.0
_MODEL_LOAD_S = 1800.0  # a large model comes from a slow disk or over the network
_LOG_BYTES = 5_000_000  # of worker output kept on disk, twice over


class RewardPool:
    """Reward functions behind worker processes. Construct, `start`, `score` any number of times, `close`."""

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        num_workers: int | None = None,
        timeout_s: float = 10.0,
        max_failure_fraction: float = 0.1,
        load_timeout_s: float = 120.0,
        memory_limit_mb: int | None = None,
        log_path: str | Path | None = None,
    ) -> None:
        """num_workers: None for one a core, 8 at most; they start when first needed. timeout_s bounds one
        call.

        memory_limit_mb bounds a worker's address space (Linux). What functions print goes to `log_path`, if
        given.
        """
        self.specs = list(specs)
        self._timeout_s = timeout_s
        self._max_failure_fraction = max_failure_fraction
        self._num_workers = num_workers or min(8, os.cpu_count() or 1)
        self._log_handler, log = _open_log(log_path)
        limits = Limits(timeout_s, load_timeout_s, memory_limit_mb)
        self._workers = [WorkerProcess(limits, log) for _ in range(self._num_workers)]
        self._idle: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()  # the warm ones first
        for worker in reversed(self._workers):
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(self._num_workers, thread_name_prefix="hone-reward")
        self._alone = {
            spec.name: _Alone(WorkerProcess(Limits(_seconds(spec), _MODEL_LOAD_S, memory_limit_mb), log))
            for spec in self.specs
            if spec.alone
        }
        self._described: dict[str, dict[str, Any]] = {}
        self._chunk_limit: dict[str, int] = {}
        self._metrics: dict[str, list[float]] = {}
        self._counts: Counter[str] = Counter()

    def start(self) -> RewardPool:
        """Have a worker import every function. Raises RewardError for one that is no reward function."""
        try:
            self._described = {
                spec.name: (self._alone[spec.name].worker if spec.alone else self._workers[0]).load(spec)
                for spec in self.specs
            }
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Kill every worker, whatever it is doing. The pool cannot be used again."""
        for worker in self._all_workers():
            worker.close()
        for threads in (self._threads, *(one.thread for one in self._alone.values())):
            threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._all_workers():
            worker.reap()
        if self._log_handler is not None:
            self._log_handler.close()

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises RewardError when the data lacks a column that a function cannot do without."""
        have = sorted(set(columns) - {"prompts", "completions"})
        for spec in self.specs:
            described = self._described[spec.name]
            missing = [name for name in described["columns"] if name not in have]
            any_of = described["any_of"]
            if missing or (any_of and not set(any_of) & set(have)):
                needs = " and ".join(f"'{name}'" for name in missing) or " or ".join(
                    f"'{name}'" for name in any_of
                )
                raise RewardError(
                    f"reward {spec.label} needs the column {needs}, which the data does not have; "
                    f"its columns: {', '.join(have) or 'none'}"
                )

    async def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Sequence[Any]],
        group_size: int = 1,
    ) -> list[Scored]:
        """Score each completion by every function.

        prompts, completions: text, or messages ([{"role": "assistant", "content": …}]) for conversational
        data.
        columns: a list with one entry for each completion, `completion_ids` (token ids) among them where
        wanted. Raises RewardError when a function is defective (wrong number of rewards, no numbers, a
        missing column) or when more completions fail than max_failure_fraction allows.
        """
        batch = Batch(self.specs, prompts, completions, columns, self._max_failure_fraction)
        if not batch.size:
            return []
        self.check_columns(columns)
        chunks = [
            self._chunk(batch, spec, range(first, min(first + size, batch.size)))
            for spec in self.specs
            for size in [self._chunk_size(spec, batch.size, group_size)]
            for first in range(0, batch.size, size)
        ]
        await _all(chunks)
        return batch.scored()

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that run now; each leads a process group of its own."""
        return [worker.pid for worker in self._all_workers() if worker.pid is not None]

    def metrics(self) -> dict[str, float]:
        """Since the last call: the means of what functions reported by `log_metric`,
        `workers_retried` (calls of one completion after the call of its chunk failed) and
        `workers_killed` (or found dead)."""
        means = {name: sum(values) / len(values) for name, values in self._metrics.items()}
        counts = {f"workers_{name}": float(self._counts[name]) for name in ("retried", "killed")}
        self._metrics.clear()
        self._counts.clear()
        return means | counts

    async def _chunk(self, batch: Batch, spec: RewardSpec, indices: Sequence[int]) -> bool:
        """Score some completions by one function; True if the call timed out."""
        reply = await self._call(batch, spec, indices)
        timed_out = isinstance(reply, TimedOut)
        if self._accept(batch, spec, indices, reply):
            return False
        if len(indices) == 1:
            self._fail(batch, spec, indices[0], reply)
            return timed_out
        self._counts["retried"] += len(indices)
        guilty = await _all([self._chunk(batch, spec, [i]) for i in indices])
        if timed_out and not any(
            guilty
        ):  # merely slow: smaller calls, not the time limit again at every step
            self._chunk_limit[spec.name] = max(1, len(indices) // 2)
        return timed_out

    async def _call(
        self, batch: Batch, spec: RewardSpec, indices: Sequence[int]
    ) -> dict[str, Any] | CallFailed:
        """One call in whichever worker is free: its reply, or how it failed."""
        request = batch.request(spec, self._described[spec.name]["accepts"], indices)
        if spec.alone:
            return await asyncio.wrap_future(self._alone[spec.name].submit(spec, request))

        def work() -> dict[str, Any] | CallFailed:
            worker = self._idle.get_nowait()  # as many threads as workers: one is free
            try:
                return worker.call(spec, request)
            except CallFailed as failed:
                return failed
            finally:
                self._idle.put(worker)

        return await asyncio.wrap_future(self._threads.submit(work))

    def _accept(
        self, batch: Batch, spec: RewardSpec, indices: Sequence[int], reply: dict[str, Any] | CallFailed
    ) -> bool:
        """Record a good reply; False for a failed one. Raises RewardError for a defect."""
        if isinstance(reply, CallFailed):
            self._counts["killed"] += 1
            return False
        if "defect" in reply:
            raise RewardError(f"reward {spec.label} {reply['defect']}")
        if "raised" in reply:
            return False
        for name, values in reply["metrics"].items():
            self._metrics.setdefault(name, []).extend(values)
        batch.record(spec, indices, reply["ok"])
        return True

    def _fail(self, batch: Batch, spec: RewardSpec, index: int, reply: dict[str, Any] | CallFailed) -> None:
        if isinstance(reply, CallFailed):
            cause = f"{reply.kind} in reward '{spec.name}'"
            batch.fail(index, cause, detail=reply.detail)
        else:
            kind = f"reward '{spec.name}' raised {reply['type']}"
            batch.fail(index, f"reward '{spec.name}' raised {reply['raised']}", kind, reply["traceback"])

    def _chunk_size(self, spec: RewardSpec, size: int, group_size: int) -> int:
        """A worker's share of the batch, in whole groups, unless calls of that size have timed out before."""
        if spec.alone:
            return self._chunk_limit.get(spec.name, size)
        share = max(_MIN_CHUNK, -(-size // self._num_workers))
        whole_groups = -(-share // group_size) * group_size
        return min(whole_groups, self._chunk_limit.get(spec.name, whole_groups))

    def _all_workers(self) -> list[WorkerProcess]:
        return [*self._workers, *(one.worker for one in self._alone.values())]

    def __enter__(self) -> RewardPool:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> RewardPool:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class _Alone:
    """A worker that runs one function, and the thread that drives it."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="hone-reward-model")

    def submit(self, spec: RewardSpec, request: bytes) -> Future[dict[str, Any] | CallFailed]:
        """A call: its reply, or how it failed."""

        def work() -> dict[str, Any] | CallFailed:
            try:
                return self.worker.call(spec, request)
            except CallFailed as failed:
                return failed

        return self.thread.submit(work)


def _seconds(spec: RewardSpec) -> float:
    """How long a call of a function that stands alone may take."""
    return float(spec.kwargs.get("timeout_s", _MODEL_CALL_S))


async def _all(coroutines: Iterable[Coroutine[Any, Any, bool]]) -> list[bool]:
    """Run them together; at the first error, cancel those that have not begun and raise it."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _open_log(path: str | Path | None) -> tuple[RotatingFileHandler | None, logging.Logger | None]:
    """A file that stays below 2 x _LOG_BYTES whatever the functions print."""
    if path is None:
        return None, None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, delay=True, encoding="utf-8")
    log = logging.Logger("hone.rewards.output")
    log.addHandler(handler)
    return handler, log
