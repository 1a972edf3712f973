"""RewardPool: scores batches of completions in worker processes that are killed when they hang or crash.

    with RewardPool(resolve_all(cfg.rewards.functions)) as pool:            # a wrong function stops here
        pool.check_columns(dataset_columns)                                 # a missing column stops here
        scored = await pool.score(prompts, completions, {"answer": [...]})  # one Scored for each completion

A function is called on chunks of the batch, in parallel. If the call of a chunk times out, crashes or raises, the
function is called again on one completion at a time, in workers that are killed and replaced if they hang or die. So
only the completions at fault fail, each with its cause. A chunk holds all `group_size` completions of a prompt; a retry
does not. A function that runs `alone` (a reward model, a judge) and an async function have a worker of their own, which
gets the whole batch. The pool is not bound to an event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hone.errors import RewardError
from hone.rollout.rewards.metrics import column_of
from hone.rollout.rewards.resolve import RewardSpec
from hone.rollout.rewards.scoring_batch import Scored, Scoring, ScoringBatch, Tally, TrainingProgress
from hone.rollout.rewards.worker_pool import Limits, Reply, RewardWorkerPool
from hone.rollout.sandbox import SandboxLimits
from hone.rollout.workers.child_process import CallFailed, TimedOut, open_log

__all__ = ["RewardPool", "Scored"]

_MIN_CHUNK = 8
"""Completions. For fewer, a call (0.2 ms) and the start of a worker (0.1 s) cost more than they save."""
_MODEL_CALL_S = 600.0
_MODEL_LOAD_S = 1800.0  # a large model from a slow disk or over the network


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
        """num_workers: None for one per core, at most 8. timeout_s: limit of one call. memory_limit_mb: limit of a
        worker's address space (Linux; not for a reward model). log_path: for the functions' output. sandbox: for
        functions that run programs."""
        self.specs = list(specs)
        self.notes: list[str] = []
        """Messages that functions returned when they were loaded, for the user."""
        self._max_failure_fraction = max_failure_fraction
        self._num_workers = num_workers or min(8, os.cpu_count() or 1)
        self._log_handler, self._log = open_log(log_path)
        self.limits = Limits(timeout_s, load_timeout_s, memory_limit_mb, sandbox or SandboxLimits())
        self._shared = RewardWorkerPool(self._num_workers, self.limits, self._log)
        self._dedicated = {spec.name: self._dedicated_pool(spec) for spec in self.specs if spec.alone}
        self._described: dict[str, dict[str, Any]] = {}
        self._chunk_limit: dict[str, int] = {}
        self._tally = Tally()
        self._progress = TrainingProgress()

    def start(self, doing: Callable[[str], None] = lambda text: None) -> RewardPool:
        """Import every function in a worker; `doing` is called before each. Raises RewardError for an unusable one."""
        try:
            for spec in self.specs:
                doing(f"loading reward {spec.label}")
                described = self._dedicated.get(spec.name, self._shared).workers[0].load(spec)
                self._described[spec.name] = described
                if described["asynchronous"] and spec.name not in self._dedicated:
                    self._dedicated[spec.name] = RewardWorkerPool(1, self.limits, self._log)
                if described.get("note"):
                    self.notes.append(f"reward {spec.label}: {described['note']}")
        except BaseException:
            self.close()
            raise
        return self

    def set_progress(self, step: int | None, max_steps: int | None = None) -> None:
        """Set the number of optimizer steps done, for the following batches: weights may depend on it, and functions
        receive it (`trainer_state`)."""
        self._progress = TrainingProgress(step, max_steps)

    def close(self) -> None:
        """Kill every worker. The pool cannot be used again."""
        for pool in self._pools():
            pool.terminate()
        for pool in self._pools():
            pool.join()
        if self._log_handler is not None:
            self._log_handler.close()

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise RewardError if the data lacks a column that a function needs."""
        have = sorted(set(columns) - {"prompts", "completions"})
        for spec in self.specs:
            missing = [f"'{name}'" for name in self._described[spec.name]["columns"] if name not in have]
            any_of = [f"'{name}'" for name in self._described[spec.name]["any_of"]]
            if missing or (any_of and not set(any_of) & {f"'{name}'" for name in have}):
                raise RewardError(
                    f"reward {spec.label} needs the column {' and '.join(missing) or ' or '.join(any_of)}, which the "
                    f"data does not have; its columns: {', '.join(have) or 'none'}"
                )

    def check_no_tokens(self, setting: str) -> None:
        """Raise RewardError for a function that needs completions as tokens; `setting` would give them."""
        for spec in self.specs:
            if self._described[spec.name]["reads_tokens"]:
                raise RewardError(
                    f"reward {spec.label} takes completion_ids, and the endpoint gives text: set {setting}, or leave "
                    "the function out"
                )

    async def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Sequence[Any]],
        group_size: int = 1,
        sources: Sequence[tuple[str, str]] | None = None,
        *,
        scoring: Scoring | None = None,
    ) -> list[Scored]:
        """Score each completion by every function.

        prompts, completions: text, or messages ([{"role": "assistant", "content": …}]) for conversational data.
        columns: lists with one value for each completion, including `completion_ids` (token ids). sources: the dataset
        and the environment of each completion's row. scoring: None for the pool's own. Raises RewardError for a
        defective function (wrong number of rewards, not numbers, a missing column), and if more completions fail than
        max_failure_fraction allows.
        """
        own = scoring or Scoring(self._max_failure_fraction, self._tally)
        batch = ScoringBatch(self.specs, prompts, completions, columns, own, sources, self._progress)
        if not batch.size:
            return []
        self.check_columns(columns)
        chunks = []
        for spec in self.specs:
            rows = batch.rows(spec)
            size = self._chunk_size(spec, len(rows), group_size)
            chunks += [self._chunk(batch, spec, rows[i : i + size]) for i in range(0, len(rows), size)]
        await _all(chunks)
        return batch.scored()

    def worker_pids(self) -> list[int]:
        """Process ids of the running workers; each leads its own process group."""
        workers = [worker for pool in self._pools() for worker in pool.workers]
        return [worker.pid for worker in workers if worker.pid is not None]

    def metrics(self, tally: Tally | None = None) -> dict[str, float]:
        """Since the last call: the means of the numbers reported with `log_metric`; `workers_retried` (completions that
        were retried after a chunk failed); `workers_killed` (or found dead); `weight_NAME` of each scheduled weight.
        `tally`: of which batches; None: those without one."""
        step = self._progress.step
        weights = {f"weight_{s.name}": s.weight_at(step) for s in self.specs if s.weights}
        return (self._tally if tally is None else tally).drain() | weights

    async def _chunk(self, batch: ScoringBatch, spec: RewardSpec, indices: Sequence[int]) -> bool:
        """Score some completions with one function; True if the call timed out."""
        reply = await self._call(batch, spec, indices)
        timed_out = isinstance(reply, TimedOut)
        if self._accept(batch, spec, indices, reply):
            return False
        if len(indices) == 1:
            self._fail(batch, spec, indices[0], reply)
            return timed_out
        batch.tally.counts["retried"] += len(indices)
        guilty = await _all([self._chunk(batch, spec, [i]) for i in indices])
        if timed_out and not any(guilty):
            # The function is slow and does not hang: make smaller calls from now on.
            self._chunk_limit[spec.name] = max(1, len(indices) // 2)
        return timed_out

    async def _call(self, batch: ScoringBatch, spec: RewardSpec, indices: Sequence[int]) -> Reply:
        """One call in a free worker: its reply, or how it failed."""
        request = batch.request(spec, self._described[spec.name]["accepts"], indices)
        pool = self._dedicated.get(spec.name, self._shared)
        if not spec.alone and len(indices) == 1:  # the retries of an async function use all workers
            pool = self._shared
        return await asyncio.wrap_future(pool.submit(spec, request, len(indices)))

    def _accept(self, batch: ScoringBatch, spec: RewardSpec, indices: Sequence[int], reply: Reply) -> bool:
        """Record a reply; False for a failed call. Raises RewardError for a defect."""
        if isinstance(reply, CallFailed):
            batch.tally.counts["killed"] += 1
            return False
        if "defect" in reply:
            raise RewardError(f"reward {spec.label} {reply['defect']}")
        if "raised" in reply:
            return False
        for name, values in reply["metrics"].items():
            column = column_of(name, spec.name)
            if column is None:
                raise RewardError(f"reward {spec.label} {reserved(name)}")
            batch.tally.reported.setdefault(column, []).extend(values)
        batch.record(spec, indices, reply)
        return True

    def _fail(self, batch: ScoringBatch, spec: RewardSpec, index: int, reply: Reply) -> None:
        if isinstance(reply, CallFailed):
            batch.fail(index, f"{reply.cause} in reward '{spec.name}'", detail=reply.detail)
        else:
            raised = f"reward '{spec.name}' raised"
            batch.fail(index, f"{raised} {reply['raised']}", f"{raised} {reply['type']}", reply["traceback"])

    def _chunk_size(self, spec: RewardSpec, size: int, group_size: int) -> int:
        """A worker's share of the batch, in whole groups; less if calls of that size have timed out."""
        size = max(1, size)
        if spec.name in self._dedicated:
            return self._chunk_limit.get(spec.name, size)
        share = max(_MIN_CHUNK, -(-size // self._num_workers))
        whole_groups = -(-share // group_size) * group_size
        return min(whole_groups, self._chunk_limit.get(spec.name, whole_groups))

    def _dedicated_pool(self, spec: RewardSpec) -> RewardWorkerPool:
        """The worker of a function that runs alone: with its own time limit, and no memory limit."""
        call_s = float(spec.kwargs.get("timeout_s", _MODEL_CALL_S))
        load_s = max(_MODEL_LOAD_S, self.limits.load_timeout_s)
        limits = replace(self.limits, timeout_s=call_s, load_timeout_s=load_s, memory_mb=None)
        return RewardWorkerPool(1, limits, self._log)

    def _pools(self) -> list[RewardWorkerPool]:
        return [self._shared, *self._dedicated.values()]

    def __enter__(self) -> RewardPool:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()


def reserved(name: str) -> str:
    """The message for a metric whose name is a column of the run."""
    return f"calls log_metric('{name}', …), but '{name}' is a column of the run: use another name, such as 'own_{name}'"


async def _all(coroutines: Iterable[Coroutine[Any, Any, bool]]) -> list[bool]:
    """Run coroutines concurrently; at the first error, cancel the others and raise it."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def checked_names(measured: dict[str, float], taken: Iterable[str]) -> dict[str, float]:
    """What `RewardPool.metrics` measured. Raises RewardError if a function reported a name in `taken`, the columns of
    the run."""
    for name in sorted(measured.keys() & set(taken)):
        raise RewardError(f"a reward function {reserved(name)}")
    return measured
