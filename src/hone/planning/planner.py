"""Choice of mesh, micro-batch, activation checkpointing and CPU offload, from sizes alone.

Given settings are kept. Candidates for those that are null are tried in order, the least intrusive first, and the first
that fits is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from hone.config import OnlineConfig, TrainingConfig
from hone.config.schema.base import fill_derived
from hone.config.schema.model import ModelConfig
from hone.errors import ConfigError
from hone.model.model_size import ModelSize
from hone.planning.hardware import GIB, Hardware
from hone.planning.memory_estimate import MemoryEstimate, Settings, estimate_memory, generator_bytes, tokens
from hone.planning.parallel_dims import ParallelDims
from hone.planning.placement import count_vllm_servers, vllm_generates

Config = TypeVar("Config", bound=TrainingConfig)

GPU_TOKENS = 8192
"""Most tokens of a chosen micro-batch: enough to use a GPU fully."""
CPU_TOKENS = 4096
LARGEST = 1024
"""Largest number of devices that is suggested."""
OPEN = ("train_micro_batch_size", "activation_checkpointing", "tensor_parallel_size", "cpu_offload")
"""Keys of `policy` that the planner chooses if they are null."""


@dataclass(frozen=True)
class Candidate:
    """One way to run, and what each device would hold."""

    settings: Settings
    dims: ParallelDims
    memory: MemoryEstimate

    def __str__(self) -> str:
        s = self.settings
        parts = [f"micro-batch {s.micro_batch}"]
        parts += ["activation checkpointing"] if s.activation_checkpointing else []
        parts += [f"tensor parallel {s.tensor}"] if s.tensor > 1 else []
        parts += ["CPU offload"] if s.cpu_offload else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Choice:
    """The planner's choice. `fits` is None if the devices' memory is unknown."""

    hardware: Hardware
    taken: Candidate
    """The chosen candidate; if none fits, the one with the lowest peak."""
    fits: bool | None
    refused: tuple[Candidate, ...] = ()
    """Candidates that do not fit, the least intrusive first."""
    nearest: tuple[str, ...] = ()
    """If none fits: changes with which one would."""

    @property
    def dims(self) -> ParallelDims:
        """The mesh."""
        return self.taken.dims

    @property
    def backend(self) -> str:
        """PyTorch's parallelism."""
        if self.dims.world == 1:
            return "FSDP2 (for the offload)" if self.taken.settings.cpu_offload else "one process"
        spread = self.dims.shard * self.dims.context > 1
        names = ["HSDP" if self.dims.replicate > 1 else "FSDP2"] if spread else []
        names += ["DDP"] if not spread and self.dims.replicate > 1 else []
        names += ["tensor parallel"] if self.dims.tensor > 1 else []
        return " with ".join([*names, "context parallel"] if self.dims.context > 1 else names)

    def short(self) -> str:
        """A sentence about the memory that is needed, and what would fit."""
        need = f"{self.taken.memory.peak / GIB:.1f} GiB on each of {self.hardware}"
        if self.hardware.usable is not None:
            need += f", of which {self.hardware.usable / GIB:.1f} GiB can be used"
        if self.taken.memory.host and self.hardware.host is not None:
            host = self.taken.memory.host * self.hardware.per_node
            need += f", and {host / GIB:.0f} GiB of the {self.hardware.host / GIB:.0f} GiB of each machine's memory"
        would = "; or ".join(self.nearest) or "nothing that Hone can choose: a smaller model"
        return f"at least ({self.taken}) {need}. What would fit: {would}"


def resolve(config: Config, model: ModelSize, hardware: Hardware) -> tuple[Config, Choice]:
    """The configuration with a value for every key of `OPEN`, and the choice.

    Raises ConfigError if nothing fits into the memory of a GPU (a CPU's can be swapped).
    """
    choice = choose(model, config, hardware)
    if choice.fits is False and not hardware.elastic:
        raise ConfigError(f"{config.policy.model_name} does not fit: it needs {choice.short()}")
    return settled(config, choice.taken.settings), choice


def check_generators(config: TrainingConfig, model: ModelSize, hardware: Hardware | None) -> None:
    """Raise ConfigError where a generator does not fit a device of its own (a CPU's memory is taken to stretch)."""
    if (
        hardware is None
        or hardware.elastic
        or hardware.usable is None
        or not isinstance(config, OnlineConfig)
    ):
        return
    if vllm_generates(config):
        _check_vllm_weights(config, model, hardware)
        return
    need = sum(generator_bytes(model, config))
    if need > hardware.usable:
        raise ConfigError(
            f"a generator of {config.policy.model_name} needs {need / GIB:.1f} GiB on a device of its own, of which "
            f"{hardware.usable / GIB:.1f} GiB can be used: lower policy.generation_batch_size"
        )


def _check_vllm_weights(config: OnlineConfig, model: ModelSize, hardware: Hardware) -> None:
    """The cache takes what the weights leave."""
    vllm = config.policy.generation.vllm_cfg
    count_vllm_servers(config, hardware, hardware)
    need = generator_bytes(model, config)[0] / vllm.tensor_parallel_size
    if hardware.memory is not None and need > (room := vllm.gpu_memory_utilization * hardware.memory):
        raise ConfigError(
            f"a vLLM server of {config.policy.model_name} needs {need / GIB:.1f} GiB for weights on each device, and "
            f"gpu_memory_utilization={vllm.gpu_memory_utilization:g} gives it {room / GIB:.1f} GiB: raise "
            "policy.generation.vllm_cfg.tensor_parallel_size"
        )


def settled(config: Config, settings: Settings) -> Config:
    """A copy with the settings' values, from which token budgets are derived again."""
    copy = config.model_copy(deep=True)
    policy = copy.policy
    policy.train_micro_batch_size = settings.micro_batch
    policy.activation_checkpointing = settings.activation_checkpointing
    policy.tensor_parallel_size = settings.tensor
    policy.sequence_parallel = settings.sequence_parallel
    policy.cpu_offload = settings.cpu_offload
    if (value := getattr(copy, "value", None)) is not None:  # on the same devices, in the same way
        value.tensor_parallel_size, value.sequence_parallel = settings.tensor, settings.sequence_parallel
        value.cpu_offload = settings.cpu_offload
    fill_derived(copy)
    return copy


def choose(model: ModelSize, config: TrainingConfig, hardware: Hardware) -> Choice:
    """The first candidate that fits. Raises ConfigError when the given sizes do not multiply out."""
    found = _first(model, config, hardware)
    return replace(found, nearest=nearest(model, config, hardware)) if found.fits is False else found


def _first(model: ModelSize, config: TrainingConfig, hardware: Hardware) -> Choice:
    refused: list[Candidate] = []
    for settings, dims in candidates(model, config, hardware):
        candidate = Candidate(
            settings, dims, estimate_memory(model, config, dims, settings, on_cpu=hardware.elastic)
        )
        if hardware.usable is None or _fits(candidate, hardware):
            known = None if hardware.usable is None else True
            return Choice(hardware, candidate, known, tuple(refused))
        refused.append(candidate)
    least = min(refused, key=lambda candidate: candidate.memory.peak)
    return Choice(hardware, least, False, tuple(refused))


def _fits(candidate: Candidate, hardware: Hardware) -> bool:
    assert hardware.usable is not None
    host = candidate.memory.host * hardware.per_node
    return candidate.memory.peak <= hardware.usable and (hardware.host is None or host <= hardware.host)


def candidates(
    model: ModelSize, config: TrainingConfig, hardware: Hardware
) -> Iterator[tuple[Settings, ParallelDims]]:
    """Values for the keys that are null, the least intrusive first: as it is; activation checkpointing; smaller
    micro-batches; tensor parallelism within a node; offload."""
    policy = config.policy
    ways = tensor_sizes(model, policy, hardware)
    fixed = hardware.elastic or (policy.lora.enabled and policy.lora.load_in_4bit)
    offloads = _open(policy.cpu_offload, [False] if fixed else [False, True])
    checkpoints = _open(policy.activation_checkpointing, [False, True])
    for offload, tensor in product(offloads, ways):
        dims = parallel_dims_for(policy, hardware, tensor)
        sizes = micro_batches(policy, dims, CPU_TOKENS if hardware.elastic else GPU_TOKENS)
        chosen = policy.tensor_parallel_size is None and tensor > 1
        rest = (tensor, model.supports_sequence_parallel if chosen else policy.sequence_parallel, offload)
        yield from ((Settings(sizes[0], checkpoint, *rest), dims) for checkpoint in checkpoints)
        yield from ((Settings(size, checkpoints[-1], *rest), dims) for size in sizes[1:])


def _open(given: bool | None, choices: list[bool]) -> list[bool]:
    return choices if given is None else [given]


def micro_batches(policy: ModelConfig, dims: ParallelDims, wanted: int) -> list[int]:
    """The given size, or possible sizes, largest first: divisors of the global batch with at least one micro-batch
    for each rank. Only one if a token budget is given."""
    if policy.train_micro_batch_size is not None:
        return [policy.train_micro_batch_size]
    share = -(-policy.train_global_batch_size // dims.data)
    unit = policy.sequences_per_unit * policy.max_total_sequence_length
    most = max(1, min(share, wanted // unit))
    sizes = [size for size in range(most, 0, -1) if policy.train_global_batch_size % size == 0]
    return sizes[:1] if tokens(policy, 1) == tokens(policy, 2) else sizes


def tensor_sizes(model: ModelSize, policy: ModelConfig, hardware: Hardware) -> list[int]:
    """The given size, or possible sizes: powers of two within a node that divide heads and vocabulary."""
    if policy.tensor_parallel_size is not None:
        return [policy.tensor_parallel_size]
    if not model.supports_tensor_parallel or policy.lora.enabled:  # adapters are not sharded
        return [1]
    outer = policy.context_parallel_size * policy.dp_replicate_size
    sizes = [1, *(2**power for power in range(1, 11) if 2**power <= hardware.per_node)]
    divided = (model.heads, model.kv_heads, model.vocabulary, hardware.per_node)
    return [
        size
        for size in sizes
        if not any(whole % size for whole in divided) and (size == 1 or hardware.count % (size * outer) == 0)
    ]


def parallel_dims_for(policy: ModelConfig, hardware: Hardware, tensor: int) -> ParallelDims:
    """The mesh: devices that are not tensor or context ranks or replicas shard the weights. One device is one rank.

    Raises ConfigError for sizes that do not multiply out to the number of devices.
    """
    if hardware.count == 1:
        return ParallelDims()
    context, replicate = policy.context_parallel_size, policy.dp_replicate_size
    if hardware.count % (tensor * context * replicate):
        raise ConfigError(
            f"policy.tensor_parallel_size={tensor}, policy.context_parallel_size={context} and "
            f"policy.dp_replicate_size={replicate} do not multiply out to the {hardware.count} devices of "
            f"cluster.num_nodes={hardware.nodes} and cluster.gpus_per_node={hardware.per_node}: change one of them"
        )
    shard = hardware.count // (tensor * context * replicate)
    return ParallelDims(hardware.nodes, hardware.per_node, replicate, shard, context, tensor)


def nearest(model: ModelSize, config: TrainingConfig, hardware: Hardware) -> tuple[str, ...]:
    """Changes each of which would make it fit: a key set to null, adapters, more devices of the same kind."""
    found = []
    given = [key for key in OPEN if getattr(config.policy, key) is not None]
    ways = [(key,) for key in given] + ([tuple(given)] if len(given) > 1 else [])
    for way in ways:
        opened = _first(model, _with(config, **dict.fromkeys(way)), hardware)
        if opened.fits:
            keys = ", ".join(f"policy.{key}" for key in way)
            found.append(f"leave {keys} open (null): {_described(opened)}")
            break
    if not config.policy.lora.enabled:
        lora = config.policy.lora.model_copy(update={"enabled": True})
        adapted = _first(model, _with(config, lora=lora, tensor_parallel_size=1), hardware)
        if adapted.fits:
            found.append(f"policy.lora.enabled=true: {_described(adapted)}")
    if (more := more_devices(model, config, hardware)) is not None:
        keys = f"cluster.num_nodes={more.hardware.nodes} cluster.gpus_per_node={more.hardware.per_node}"
        found.append(f"{more.hardware} ({keys}): {_described(more)}")
    return tuple(found)


def more_devices(
    model: ModelSize, config: TrainingConfig, hardware: Hardware, *, offload: bool | None = None
) -> Choice | None:
    """The smallest number of the same devices, up to 8 per node and then on more nodes, on which it fits, if any."""
    config = config if offload is None else _with(config, cpu_offload=offload)
    nodes, per_node = hardware.nodes, hardware.per_node
    while nodes * per_node < LARGEST:
        nodes, per_node = (nodes, 2 * per_node) if 2 * per_node <= 8 else (2 * nodes, per_node)
        try:
            found = _first(model, config, replace(hardware, nodes=nodes, per_node=per_node))
        except ConfigError:  # the given sizes do not multiply out to this number
            continue
        if found.fits:
            return found
    return None


def _with(config: TrainingConfig, **changes: object) -> TrainingConfig:
    return config.model_copy(update={"policy": config.policy.model_copy(update=changes)})


def _described(choice: Choice) -> str:
    where = f", {choice.taken.memory.host / GIB:.0f} GiB in host memory" if choice.taken.memory.host else ""
    return f"{choice.taken.memory.peak / GIB:.1f} GiB a device{where} ({choice.taken})"
