"""RewardPool: scores batches of completions in worker processes that are killed when they hang or crash.

    async with RewardPool(resolve_all(cfg.rewards.functions)) as pool:      # a wrong function stops here
        pool.check_columns(dataset_columns)                                 # a missing column stops here
        scored = await pool.score(prompts, completions, {"answer": [...]})  # one Scored for each completion

A function is called on chunks of the batch, in parallel. A chunk whose call times out, crashes or raises is called
again one completion at a time, each in a worker that is killed and replaced if it hangs or dies. So only the
completions at fault fail, each with its cause. A function may therefore see a part of the batch: chunks keep the
`group_size` completions of a prompt together, a retry does not. A function that stands `alone` (a reward model, a
judge) and an async one have a worker of their own, which gets the whole batch. The pool is not bound to an event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hone.errors import RewardError
from hone.rollout.rewards.metrics import column_of
from hone.rollout.rewards.resolve import RewardSpec
from hone.rollout.rewards.scoring_batch import Scored, ScoringBatch, TrainingProgress
from hone.rollout.rewards.worker_pool import Reply, WorkerPool
from hone.rollout.rewards.worker_process import Limits
from hone.rollout.sandbox import SandboxLimits
from hone.rollout.workers.child_process import CallFailed, TimedOut, open_log

__all__ = ["RewardPool", "Scored"]

_MIN_CHUNK = 8
"""Completions. For fewer, the cost of a call (0.2 ms) and of a worker's start (0.1 s) outweighs the gain."""
_MODEL_CALL_S = 600.0
_MODEL_LOAD_S = 1800.0  # a large model comes from a slow disk or over the network


class RewardPool:
    """Reward functions in worker processes. Construct, `start`, `score` any number of times, `close`."""

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        num_workers: int | None = None,
        timeout_s: float = 10.0,
        max_failure_fraction: float = 0.1,
        load_timeout_s: float = 120.0,
        memory_limit_mb: int | None = None,
        log_path: str | Path | None = None,
        sandbox: SandboxLimits | None = None,
    ) -> None:
        """num_workers: None for one per core, at most 8. timeout_s bounds one call. memory_limit_mb bounds a worker's
        address space (Linux; not of a reward model). log_path: for the functions' output. sandbox: for functions that
        run programs."""
        self.specs = list(specs)
        self.notes: list[str] = []
        """Messages that functions returned when they were loaded, for the user."""
        self._max_failure_fraction = max_failure_fraction
        self._num_workers = num_workers or min(8, os.cpu_count() or 1)
        self._log_handler, self._log = open_log(log_path)
        self._limits = Limits(timeout_s, load_timeout_s, memory_limit_mb, sandbox or SandboxLimits())
        self._shared = WorkerPool(self._num_workers, self._limits, self._log)
        self._dedicated = {spec.name: self._dedicated_pool(spec) for spec in self.specs if spec.alone}
        self._described: dict[str, dict[str, Any]] = {}
        self._chunk_limit: dict[str, int] = {}
        self._metrics: dict[str, list[float]] = {}
        self._counts: Counter[str] = Counter()
        self._progress = TrainingProgress()

    def start(self, doing: Callable[[str], None] = lambda text: None) -> RewardPool:
        """Have a worker import every function; `doing` is called before each. Raises RewardError for what is no reward
        function."""
        try:
            for spec in self.specs:
                doing(f"loading reward {spec.label}")
                described = self._dedicated.get(spec.name, self._shared).workers[0].load(spec)
                self._described[spec.name] = described
                if described["asynchronous"] and spec.name not in self._dedicated:
                    self._dedicated[spec.name] = WorkerPool(1, self._limits, self._log)
                if described.get("note"):
                    self.notes.append(f"reward {spec.label}: {described['note']}")
        except BaseException:
            self.close()
            raise
        return self

    def at(self, step: int | None, max_steps: int | None = None) -> None:
        """Score the following batches as after `step` optimizer steps: weights may change, and functions receive the
        step (`trainer_state`)."""
        self._progress = TrainingProgress(step, max_steps)

    def close(self) -> None:
        """Kill every worker. The pool cannot be used again."""
        pools = self._pools()
        for pool in pools:
            pool.kill()
        for pool in pools:
            pool.wait()
        if self._log_handler is not None:
            self._log_handler.close()

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise RewardError where the data lacks a column that a function needs."""
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
        sources: Sequence[tuple[str, str]] | None = None,
    ) -> list[Scored]:
        """Score each completion by every function.

        prompts, completions: text, or messages ([{"role": "assistant", "content": …}]) for conversational data.
        columns: lists with one value for each completion, `completion_ids` (token ids) among them. sources: the dataset
        and the environment of each completion's row. Raises RewardError when a function is defective (wrong number of
        rewards, not numbers, a missing column) or when more completions fail than max_failure_fraction allows.
        """
        bound, progress = self._max_failure_fraction, self._progress
        batch = ScoringBatch(self.specs, prompts, completions, columns, bound, sources, progress)
        if not batch.size:
            return []
        self.check_columns(columns)
        chunks = [
            self._chunk(batch, spec, rows[first : first + size])
            for spec in self.specs
            for rows in [batch.rows(spec)]
            for size in [self._chunk_size(spec, len(rows), group_size)]
            for first in range(0, len(rows), size)
        ]
        await _all(chunks)
        return batch.scored()

    def worker_pids(self) -> list[int]:
        """Process ids of the running workers; each leads a process group of its own."""
        workers = [worker for pool in self._pools() for worker in pool.workers]
        return [worker.pid for worker in workers if worker.pid is not None]

    def metrics(self, taken: Iterable[str] = ()) -> dict[str, float]:
        """Since the last call: the means of what functions reported with `log_metric`; `workers_retried` (calls on one
        completion after a chunk failed); `workers_killed` (or found dead); `weight_NAME` of each scheduled weight.

        Raises RewardError where a function reported a name in `taken`, the columns of the run."""
        for name in sorted(self._metrics.keys() & set(taken)):
            raise RewardError(f"a reward function {reserved(name)}")
        means = {name: sum(values) / len(values) for name, values in self._metrics.items()}
        counts = {f"workers_{name}": float(self._counts[name]) for name in ("retried", "killed")}
        self._metrics.clear()
        self._counts.clear()
        step = self._progress.step
        return means | counts | {f"weight_{s.name}": s.weight_at(step) for s in self.specs if s.weights}

    async def _chunk(self, batch: ScoringBatch, spec: RewardSpec, indices: Sequence[int]) -> bool:
        """Score some completions with one function; True if the call timed out."""
        reply = await self._call(batch, spec, indices)
        timed_out = isinstance(reply, TimedOut)
        if self._accept(batch, spec, indices, reply):
            return False
        if len(indices) == 1:
            self._fail(batch, spec, indices[0], reply)
            return timed_out
        self._counts["retried"] += len(indices)
        guilty = await _all([self._chunk(batch, spec, [i]) for i in indices])
        if timed_out and not any(guilty):
            # Slow, not hanging: make smaller calls from now on.
            self._chunk_limit[spec.name] = max(1, len(indices) // 2)
        return timed_out

    async def _call(self, batch: ScoringBatch, spec: RewardSpec, indices: Sequence[int]) -> Reply:
        """One call in a free worker: its reply, or how it failed."""
        request = batch.request(spec, self._described[spec.name]["accepts"], indices)
        pools = self._dedicated.get(spec.name, self._shared)
        if not spec.alone and len(indices) == 1:
            # A retry of an async function: spread over all workers.
            pools = self._shared
        return await asyncio.wrap_future(pools.submit(spec, request, len(indices)))

    def _accept(self, batch: ScoringBatch, spec: RewardSpec, indices: Sequence[int], reply: Reply) -> bool:
        """Record a reply; False for a failed call. Raises RewardError for a defect."""
        if isinstance(reply, CallFailed):
            self._counts["killed"] += 1
            return False
        if "defect" in reply:
            raise RewardError(f"reward {spec.label} {reply['defect']}")
        if "raised" in reply:
            return False
        for name, values in reply["metrics"].items():
            column = column_of(name, spec.name)
            if column is None:
                raise RewardError(f"reward {spec.label} {reserved(name)}")
            self._metrics.setdefault(column, []).extend(values)
        batch.record(spec, indices, reply)
        return True

    def _fail(self, batch: ScoringBatch, spec: RewardSpec, index: int, reply: Reply) -> None:
        if isinstance(reply, CallFailed):
            cause = f"{reply.kind} in reward '{spec.name}'"
            batch.fail(index, cause, detail=reply.detail)
        else:
            kind = f"reward '{spec.name}' raised {reply['type']}"
            batch.fail(index, f"reward '{spec.name}' raised {reply['raised']}", kind, reply["traceback"])

    def _chunk_size(self, spec: RewardSpec, size: int, group_size: int) -> int:
        """A worker's share of the batch, in whole groups; less where calls of that size have timed out."""
        size = max(1, size)
        if spec.name in self._dedicated:
            return self._chunk_limit.get(spec.name, size)
        share = max(_MIN_CHUNK, -(-size // self._num_workers))
        whole_groups = -(-share // group_size) * group_size
        return min(whole_groups, self._chunk_limit.get(spec.name, whole_groups))

    def _dedicated_pool(self, spec: RewardSpec) -> WorkerPool:
        """The worker of a function that stands alone: with a time limit of its own, and no limit on memory."""
        seconds = float(spec.kwargs.get("timeout_s", _MODEL_CALL_S))
        limits = replace(
            self._limits,
            timeout_s=seconds,
            load_timeout_s=max(_MODEL_LOAD_S, self._limits.load_timeout_s),
            memory_mb=None,
        )
        return WorkerPool(1, limits, self._log)

    def _pools(self) -> list[WorkerPool]:
        return [self._shared, *self._dedicated.values()]

    def __enter__(self) -> RewardPool:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> RewardPool:
        return self.start()

    async def __aexit__(self, *error: object) -> None:
        self.close()


def reserved(name: str) -> str:
    """The message for a metric's name that the run uses itself."""
    return f"calls log_metric('{name}', …), but '{name}' is a column of the run: use another name, such as 'own_{name}'"


async def _all(coroutines: Iterable[Coroutine[Any, Any, bool]]) -> list[bool]:
    """Run them concurrently; at the first error, cancel the rest and raise it."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
