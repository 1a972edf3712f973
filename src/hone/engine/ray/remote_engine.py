"""The engine on several ranks: Ray actors, each of which runs an `EngineWorker`. Only this package imports Ray.

Every call goes to all ranks at once with the same arguments, which Ray stores once. No call waits forever: if a rank
dies or makes no progress, an error names the rank, the cause and the last lines of its log, and the whole group is
replaced (`hone.training.recovery.run_with_restarts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hone.config import OnlineConfig, TrainingConfig
from hone.engine.base import Engine, Transport
from hone.engine.generators import attach_generators, batch_size_of, folder_for_weights
from hone.engine.local.threads import threads_for
from hone.engine.ray import local_cluster
from hone.engine.ray.nodes import NodeLost, connect, ray, usable_nodes, wait_for_nodes
from hone.engine.ray.vllm_servers import servers_on_cluster
from hone.engine.ray.worker_group import WorkerGroup
from hone.engine.vllm.launch import attach_vllm, check_folder, servers_of
from hone.engine.vllm.running import are_on_this_machine
from hone.errors import WorkerLostError
from hone.model.model_size import ModelSize
from hone.planning import planner
from hone.planning.hardware import Hardware
from hone.planning.parallel_dims import ParallelDims
from hone.planning.placement import (
    check_mesh,
    count_vllm_servers,
    found_by_url,
    hardware_of,
    split_devices,
    vllm_generates,
)
from hone.types import Completion, LossFn, Prompt, Sample, Sampling

if ray is not None:
    from ray.exceptions import RayError


def build_on_cluster(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, size: ModelSize, *, recovering: bool
) -> ClusterEngine:
    """Start the ranks, check that their versions and folders match, and load the run's models onto them.

    Raises ConfigError and ClusterError before any weight is loaded, WorkerLostError if a rank is lost meanwhile.
    """
    own = connect(config.cluster)
    with ExitStack() as started:
        if own:
            started.callback(local_cluster.stop)
        while True:
            groups = ExitStack()
            try:
                engine = _build(config, tokenizer, size, own, recovering, groups)
                break
            except NodeLost:  # Ray listed a dead node as alive
                groups.close()
            except BaseException:
                groups.close()
                raise
        started.callback(groups.close)
        engine.resources = started.pop_all()
    return engine


def _build(
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    size: ModelSize,
    own: bool,
    recovering: bool,
    groups: ExitStack,
) -> ClusterEngine:
    """Build the engine. `groups` closes all worker groups, also those that were started before an exception."""
    nodes = wait_for_nodes(config.cluster, recovering=recovering)
    hardware = hardware_of(config.cluster, nodes)
    learner_hardware, generator_hardware = split_devices(config, hardware)
    planner.check_generators(config, size, generator_hardware)
    settled, choice = planner.resolve(config, size, learner_hardware)
    check_mesh(settled, choice.dims)
    beside = config.cluster.reserved_devices
    threads = threads_for(config.cluster.cpu_threads, size.parameters, sharers=hardware.per_node + beside)

    def start(dims: ParallelDims, title: str) -> WorkerGroup:
        group = WorkerGroup(settled, dims, threads=threads, own=own, title=title)
        groups.callback(group.close)
        group.start()
        group.join()
        return group

    patience = config.cluster.worker_timeout_s
    devices = (learner_hardware, generator_hardware)
    weights = _folder_for_weights(settled, size, devices, one_node=nodes == 1)
    workers = start(choice.dims, "rank {}")
    workers.call_all("build", settled, choice.dims, weights, vllm_generates(settled), seconds=patience)
    engine = ClusterEngine(
        tokenizer, ClusterLearner(workers, "learner"), ranks=choice.dims.world, workers=workers
    )
    engine.nodes, engine.resources = nodes, groups
    engine.notices += [
        f"{choice.dims} on {nodes} machine{'s' if nodes > 1 else ''}; logs of the ranks: {workers.folder}"
    ]
    teacher_workers = workers
    if beside:
        dims = ParallelDims(1, beside, shard=beside)
        teacher_workers = start(dims, "teacher rank {}")
        teacher_workers.call_all("build_teacher", settled, dims, size.vocabulary, seconds=patience)
        engine.notices.append(f"the teacher on {dims} of its own")
    if missing := config.cluster.num_nodes - nodes:
        engine.notices.append(
            f"{missing} of {config.cluster.num_nodes} machines are missing: going on with those left"
        )
    if config.critic is not None:
        engine.value = ClusterLearner(workers, "value")
    if config.teacher_model is not None:
        engine.teacher = ClusterLearner(teacher_workers, "teacher")
    if not isinstance(settled, OnlineConfig):
        return engine
    if settled.uses_reference_model:
        engine.reference = ClusterLearner(workers, "reference")
    _attach_generator(engine, settled, size, devices, weights, threads)
    return engine


def _folder_for_weights(
    config: TrainingConfig, size: ModelSize, devices: tuple[Hardware, Hardware | None], *, one_node: bool
) -> Path | None:
    """Where the ranks publish weights; None if they generate themselves. Raises ConfigError for a vLLM server that does
    not see it, and for devices that vLLM servers cannot share."""
    by_vllm = vllm_generates(config)
    if not isinstance(config, OnlineConfig) or (devices[1] is None and not by_vllm):
        return None
    here = are_on_this_machine(config.policy.generation.vllm_cfg.server_urls)
    weights = folder_for_weights(config, size, one_node=one_node and here)
    if by_vllm:
        count_vllm_servers(config, *devices)
        check_folder(config, weights)
    return weights


def _attach_generator(
    engine: ClusterEngine,
    config: OnlineConfig,
    size: ModelSize,
    devices: tuple[Hardware, Hardware | None],
    weights: Path | None,
    threads: int,
) -> None:
    """Give the engine its generator: the learner's ranks, vLLM servers, or generators on devices of their own."""
    learner = ClusterLearner(engine.workers, "learner")
    if weights is None:
        engine.generator = ClusterGenerator(engine.workers)
        engine.transport = Transport(learner, engine.generator)
    elif vllm_generates(config):
        started = servers_on_cluster(config, engine.workers, *devices, threads)
        servers = servers_of(config, size) if found_by_url(config) else list(started)
        attach_vllm(engine, servers, learner, config, size, weights)
    else:
        assert devices[1] is not None
        generators = [
            RayGenerator(f"generator {i}", config, weights, threads) for i in range(devices[1].count)
        ]
        batch_size = batch_size_of(config)
        attach_generators(engine, generators, learner, config, weights, batch_size=batch_size)


class ClusterLearner:
    """A model on all ranks of a group, by its role: learner, reference, value, teacher."""

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
        """Every rank writes its part below `path`, which all ranks see."""
        await self._call("save", path.resolve(), wait)

    def wait_for_save(self) -> None:
        """As `LocalLearner.wait_for_save`, on all ranks."""
        seconds = self.workers.config.cluster.worker_timeout_s
        self.workers.call_all("wait_for_save", self.role, seconds=seconds, thread="files")

    async def load(self, path: Path) -> None:
        """Every rank reads its part; the checkpoint may come from another mesh."""
        await self._call("load", path.resolve())

    async def publish(self, version: int) -> None:
        """Every rank publishes; the weights do not pass through this process."""
        await self.workers.call_all_async("publish_weights", version)

    async def _call(self, verb: str, *arguments: Any) -> Any:
        return (await self.workers.call_all_async("call", self.role, verb, *arguments))[0]


class ClusterGenerator:
    """A generator on every rank, each with all weights; each samples completions of its share of the prompts."""

    def __init__(self, workers: WorkerGroup) -> None:
        self.workers = workers

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As `LocalGenerator.generate`; a completion does not depend on the rank that samples it."""
        shares = await self.workers.call_all_async("generate", list(prompts), sampling, count)
        return [shares[i % len(shares)][i // len(shares)] for i in range(len(prompts))]

    async def receive(self, version: int) -> None:
        """Every rank's generator loads the weights that were published as `version`."""
        await self.workers.call_all_async("receive_weights", version)


class RayGenerator(ClusterGenerator):
    """A GeneratorServer: one Ray actor with its own device and unsharded model. It answers one call after the other."""

    batches_itself = False

    def __init__(self, name: str, config: OnlineConfig, weights: Path, threads: int) -> None:
        super().__init__(WorkerGroup(config, ParallelDims(), threads=threads, own=False, title=name))
        self.name, self.config, self.weights = name, config, weights

    def start(self) -> None:
        """Start the actor and load its model."""
        try:
            self.workers.start()
        except (NodeLost, RayError) as error:
            raise WorkerLostError(f"{self.name} lost its node: {error}") from error
        seconds = self.config.cluster.worker_timeout_s
        self.workers.call_all("build_generator", self.config, self.weights, seconds=seconds)

    async def abort(self, keys: Sequence[tuple[str, int]]) -> None:
        """Nothing: the call that is running ends first."""

    def close(self) -> None:
        """Stop the actor."""
        self.workers.close()


@dataclass
class ClusterEngine(Engine):
    """An engine whose models are on the ranks of a cluster."""

    workers: WorkerGroup = field(kw_only=True)
    nodes: int = 1
    """The number of nodes that it runs on."""

    def can_grow(self) -> bool:
        """Whether requested nodes that were missing have joined the cluster."""
        cluster = self.workers.config.cluster
        return self.nodes < cluster.num_nodes and len(usable_nodes(cluster)) > self.nodes

    async def usage(self) -> dict[str, float]:
        """Over the ranks: the maximum of `host_memory_gib`; on GPUs also that of `gpu_memory_gib`, and the mean of
        `gpu_utilization`."""
        found = [one for one in await self.workers.call_all_async("usage") if one]
        merged: dict[str, float] = {}
        for name in found[0] if found else ():
            values = [one[name] for one in found if name in one]
            merged[name] = max(values) if name.endswith("gib") else sum(values) / len(values)
        return merged
