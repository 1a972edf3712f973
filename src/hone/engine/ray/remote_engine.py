"""The only room that knows Ray: ranks as actors, each with a `Worker` for a body, and the verbs that reach all of them.

Every verb goes to all ranks at once with the same arguments, which travel once. Nothing waits for ever: a rank that
dies, or makes no progress, is named with its cause and the last lines of its log, and the whole group is replaced
(`hone.training.recovery.run_with_restarts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hone.config import OnlineConfig, TrainingConfig
from hone.engine.base import Engine
from hone.engine.local.threads import threads_for
from hone.engine.ray import local_cluster
from hone.engine.ray.nodes import NodeLost, connect, usable_nodes, wait_for_nodes
from hone.engine.ray.worker_group import WorkerGroup
from hone.model.model_size import ModelSize
from hone.planning import planner
from hone.planning.parallel_dims import ParallelDims
from hone.planning.placement import check_mesh, hardware_of
from hone.types import Completion, LossFn, Prompt, Sample, Sampling


def build_on_cluster(
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    size: ModelSize,
    *,
    recovering: bool,
) -> ClusterEngine:
    """Start the ranks, check that they can work together, and load the run's models onto them.

    Raises ConfigError and ClusterError before any weight is loaded, WorkerLostError when a rank is lost meanwhile.
    """
    own = connect(config.cluster)
    while True:
        workers: WorkerGroup | None = None
        teacher_workers: WorkerGroup | None = None
        try:
            nodes = wait_for_nodes(config.cluster, recovering=recovering)
            settled, choice = planner.resolve(config, size, hardware_of(config.cluster, nodes))
            dims = choice.dims
            check_mesh(settled, dims)
            beside = config.cluster.reserved_devices
            sharers = dims.per_node + beside
            threads = threads_for(config.cluster.cpu_threads, size.parameters, sharers=sharers)
            patience = config.cluster.worker_timeout_s
            workers = WorkerGroup(settled, dims, threads=threads, own=own)
            workers.start()
            workers.call_all("build", settled, dims, seconds=patience)
            if beside:
                together = ParallelDims(1, beside, shard=beside)
                teacher_workers = WorkerGroup(settled, together, threads=threads, own=False, title="teacher")
                teacher_workers.start()
                teacher_workers.call_all(
                    "build_teacher", settled, together, size.vocabulary, seconds=patience
                )
            break
        except NodeLost:  # one was counted that was dead already
            for group in filter(None, (teacher_workers, workers)):
                group.close(stay=True)
        except BaseException:
            for group in filter(None, (teacher_workers, workers)):
                group.close()
            if workers is None and own:
                local_cluster.stop()
            raise
    notices = [f"{dims} on {nodes} machine{'s' if nodes > 1 else ''}; logs of the ranks: {workers.folder}"]
    if teacher_workers is not None:
        notices.append(f"the teacher on {teacher_workers.dims} of its own")
    missing = config.cluster.num_nodes - nodes
    if missing:
        notices.append(
            f"{missing} of {config.cluster.num_nodes} machines are missing: going on with those left"
        )
    engine = ClusterEngine(
        tokenizer, ClusterLearner(workers, "learner"), ranks=dims.world, notices=notices, workers=workers
    )
    engine.teacher_workers = teacher_workers
    if config.critic is not None:
        engine.value = ClusterLearner(workers, "value")
    if config.teacher_model is not None:
        engine.teacher = ClusterLearner(teacher_workers or workers, "teacher")
    if isinstance(config, OnlineConfig):
        engine.generator, engine.transport = ClusterGenerator(workers), ClusterTransport(workers, workers)
        if config.uses_reference_model:
            engine.reference = ClusterLearner(workers, "reference")
    return engine


class ClusterLearner:
    """A model on all ranks of a group, by its role there: learner, reference, value, teacher."""

    def __init__(self, workers: WorkerGroup, role: str) -> None:
        self.workers, self.role = workers, role

    async def forward(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        """As `LocalLearner.forward`."""
        return await self._call("forward", list(samples))

    async def entropies(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        """As `LocalLearner.entropies`."""
        return await self._call("entropies", list(samples))

    async def topk_logprobs(
        self, samples: Sequence[Sample], k: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """As `LocalLearner.topk_logprobs`."""
        return await self._call("topk_logprobs", list(samples), k)

    async def forward_backward(self, samples: Sequence[Sample], loss: LossFn) -> dict[str, float]:
        """As `LocalLearner.forward_backward`."""
        return await self._call("forward_backward", list(samples), loss)

    async def optim_step(self) -> dict[str, float]:
        """As `LocalLearner.optim_step`."""
        return await self._call("optim_step")

    async def save(self, path: Path, *, wait: bool = True) -> None:
        """Every rank writes its part below `path`, which all of them see."""
        await self._call("save", path.resolve(), wait)

    def wait_for_save(self) -> None:
        """As `LocalLearner.wait_for_save`, on all ranks."""
        seconds = self.workers.config.cluster.worker_timeout_s
        self.workers.call_all("wait_for_save", self.role, seconds=seconds, thread="files")

    async def load(self, path: Path) -> None:
        """Every rank reads its part, whatever mesh wrote it."""
        await self._call("load", path.resolve())

    async def _call(self, verb: str, *arguments: Any) -> Any:
        return (await self.workers.call_all_async("call", self.role, verb, *arguments))[0]


class ClusterGenerator:
    """A generator on every rank, each with all weights; each samples for its part of the prompts."""

    def __init__(self, workers: WorkerGroup) -> None:
        self.workers = workers

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As `LocalGenerator.generate`: a completion is the same wherever it is sampled."""
        shares = await self.workers.call_all_async("generate", list(prompts), sampling, count)
        return [shares[i % len(shares)][i // len(shares)] for i in range(len(prompts))]


class ClusterTransport:
    """From the learner's ranks to the generator's ranks: the weights do not pass through this process."""

    def __init__(self, learners: WorkerGroup, generators: WorkerGroup) -> None:
        self.learners, self.generators = learners, generators

    async def publish(self, version: int) -> None:
        """On every rank of the learner."""
        await self.learners.call_all_async("publish_weights", version)

    async def receive(self, version: int) -> None:
        """On every rank of the generator."""
        await self.generators.call_all_async("receive_weights", version)


@dataclass
class ClusterEngine(Engine):
    """All of it on the ranks of a cluster."""

    workers: WorkerGroup = field(kw_only=True)
    teacher_workers: WorkerGroup | None = None
    """The teacher's, where it has devices of its own."""

    def close(self) -> None:
        """Stop the ranks."""
        for group in filter(None, (self.teacher_workers, self.workers)):
            group.close()

    def can_grow(self) -> bool:
        """Whether machines that are asked for, and were missing, have come."""
        cluster, nodes = self.workers.config.cluster, self.workers.dims.nodes
        return nodes < cluster.num_nodes and len(usable_nodes(cluster)) > nodes

    async def usage(self) -> dict[str, float]:
        """`host_memory_gib` and, on GPUs, `gpu_memory_gib` of the fullest rank, mean `gpu_utilization`."""
        found = [one for one in await self.workers.call_all_async("usage") if one]
        merged: dict[str, float] = {}
        for name in found[0] if found else ():
            values = [one[name] for one in found if name in one]
            merged[name] = max(values) if name.endswith("gib") else sum(values) / len(values)
        return merged
