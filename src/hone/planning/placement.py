"""Placement of a run: the devices that its configuration asks for and those that exist. Starts nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from hone.config import EvalConfig, OnlineConfig, TrainingConfig
from hone.config.schema import ClusterConfig
from hone.config.schema.model import SamplingConfig
from hone.config.schema.vllm import vllm_is_installed
from hone.errors import ClusterError, ConfigError
from hone.model.loading import configured, resolve
from hone.model.parallelize import check_parallel
from hone.planning.cpu import is_emulated
from hone.planning.hardware import Hardware, hardware_here
from hone.planning.parallel_dims import ParallelDims


def device_of_this_process(cluster: ClusterConfig) -> torch.device:
    """CUDA if available, then MPS, else the CPU; the CPU if the configuration asks for no GPU."""
    if cluster.gpus_per_node == 0 or cluster.cpu_workers_per_node is not None:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def is_single_process(cluster: ClusterConfig) -> bool:
    """Whether the run uses this process alone: it asks for one device, or for GPUs where there are none."""
    if not cluster.is_distributed or cluster.cpu_workers_per_node is not None:
        return not cluster.is_distributed
    return cluster.ray_address is None and not torch.cuda.is_available()


def hardware_of(cluster: ClusterConfig, nodes: int | None = None) -> Hardware:
    """The devices of a run; `nodes` replaces cluster.num_nodes. Raises ConfigError for more GPUs than this machine
    has, if it is the only one."""
    gpu = cluster.gpus_per_node > 0 and cluster.cpu_workers_per_node is None
    if is_single_process(cluster):
        return hardware_here(gpu=gpu)
    nodes = nodes or cluster.num_nodes
    if not gpu:
        return hardware_here(nodes=nodes, per_node=cluster.cpu_workers_per_node or 1, gpu=False)
    wanted, there = cluster.gpus_per_node, torch.cuda.device_count()
    alone = cluster.num_nodes == 1 and cluster.ray_address is None
    if alone and wanted <= there < wanted + cluster.reserved_devices:
        raise ConfigError(
            f"cluster.gpus_per_node={wanted} and cluster.teacher_devices={cluster.reserved_devices}: this machine has "
            f"{there} GPU{'s' if there != 1 else ''}. Set cluster.teacher_devices=null for a teacher on the policy's"
        )
    if alone and wanted > there:
        raise ConfigError(
            f"cluster.gpus_per_node={wanted}: this machine has {there} GPU{'s' if there != 1 else ''}. Set "
            f"cluster.gpus_per_node={there}, or cluster.cpu_workers_per_node={wanted} to try it on the CPU"
        )
    if not there:  # the GPUs are on other machines, of a kind not known yet
        return Hardware("GPU", nodes, wanted)
    return hardware_here(nodes=nodes, per_node=wanted, gpu=True)


def split_devices(config: TrainingConfig, hardware: Hardware) -> tuple[Hardware, Hardware | None]:
    """Of a run's devices those of the learner, and those of generators in a group of their own (None: they share). On a
    GPU that a vLLM server shares, the learner has what `gpu_memory_utilization` leaves.

    Raises ConfigError for a single GPU, which a built-in generator in a process of its own would have to share.
    """
    if not isinstance(config, OnlineConfig):
        return hardware, None
    if found_by_url(config):
        return hardware, None
    shared = config.policy.generation.colocated.enabled or hardware.count == 1
    if vllm_generates(config) and shared and not hardware.elastic and hardware.memory is not None:
        left = 1 - config.policy.generation.vllm_cfg.gpu_memory_utilization
        hardware = replace(hardware, memory=int(left * hardware.memory))
    if config.policy.generation.colocated.enabled:
        return hardware, None
    if hardware.count == 1:
        if vllm_generates(config) and not hardware.elastic:
            return hardware, None
        if not hardware.elastic:
            raise ConfigError(
                "policy.generation.colocated.enabled=false needs a GPU for the generator, and there is one in all: set "
                "it to true, or cluster.gpus_per_node=2 and policy.generation.colocated.resources.gpus_per_node=1"
            )
        return hardware, hardware
    wanted = config.policy.generation.colocated.resources
    if config.cluster.num_nodes == 1:
        count = wanted.gpus_per_node or 0
        return replace(hardware, per_node=hardware.per_node - count), replace(hardware, per_node=count)
    count = wanted.num_nodes or 0
    if hardware.nodes <= count:
        raise ClusterError(
            f"policy.generation.colocated.resources.num_nodes={count}: of the machines {hardware.nodes} are there, and "
            "none is left to learn on"
        )
    return replace(hardware, nodes=hardware.nodes - count), replace(hardware, nodes=count)


def count_vllm_servers(config: OnlineConfig, learner: Hardware, own: Hardware | None) -> int:
    """The number of vLLM servers that a run starts: one for each `tensor_parallel_size` GPUs of its `own` devices, else
    of the learner's; on CPUs that it shares with the learner, one.

    Raises ConfigError if a machine's devices cannot be divided so.
    """
    hardware, size = own or learner, config.policy.generation.vllm_cfg.tensor_parallel_size
    if own is None and hardware.elastic:
        return 1
    if hardware.per_node % size:
        raise ConfigError(
            f"policy.generation.vllm_cfg.tensor_parallel_size={size}: vLLM servers have {hardware.per_node} devices of "
            "each machine, which cannot be divided into groups of this size"
        )
    return hardware.count // size


def check_distributed(config: TrainingConfig) -> None:
    """Raise ConfigError for settings that do not work on several ranks, whatever the model."""
    policy = config.policy
    if policy.precision == "float16":
        raise ConfigError("policy.precision=float16 is for one device: set policy.precision=bfloat16")
    if policy.lora.enabled and policy.lora.load_in_4bit:
        raise ConfigError(
            "policy.lora.load_in_4bit=true is for one device: 4-bit weights are not sharded. Set it to false, or "
            "cluster.gpus_per_node=1 and cluster.num_nodes=1"
        )
    if policy.sequence_parallel and policy.tensor_parallel_size == 1:
        raise ConfigError(
            "policy.sequence_parallel=true is a part of tensor parallelism: set policy.tensor_parallel_size, or "
            "policy.sequence_parallel=false"
        )


def check_mesh(config: TrainingConfig, dims: ParallelDims) -> None:
    """Raise ConfigError for a model that does not support this mesh. Reads its config, not its weights."""
    teacher = None if config.cluster.reserved_devices else config.teacher_model
    for model in filter(None, (config.policy, config.critic, teacher)):
        if model.lora.enabled and model.lora.trainable_token_indices:
            raise ConfigError(
                f"{model.part}.lora.trainable_token_indices is not made for several devices: name embed_tokens in "
                f"{model.part}.lora.modules_to_save, or use one device"
            )
        check_parallel(
            configured(
                resolve(model.model_name),
                model.hf_config_overrides,
                trust_remote_code=model.trust_remote_code,
            ),
            dims.axes,
            sequence_parallel=config.policy.sequence_parallel,
            lora=model.lora.enabled,
        )


def builtin_instead_of_vllm(config: TrainingConfig | EvalConfig) -> str | None:
    """Why Hone's own generator samples although vLLM is asked for. None: vLLM samples, or is not asked for."""
    generation = _generation(config)
    if generation is None or not _asks_for_vllm(generation):
        return None
    if not generation.vllm_cfg.server_urls and not vllm_is_installed():
        return "vLLM is not installed in this Python"
    return None


def generator_of(config: EvalConfig) -> Literal["builtin", "vllm", "openai"]:
    """What answers in an evaluation."""
    if config.generation.backend == "openai":
        return "openai"
    return "vllm" if vllm_generates(config) else "builtin"


def vllm_generates(config: TrainingConfig | EvalConfig) -> bool:
    """Whether vLLM servers sample."""
    generation = _generation(config)
    return generation is not None and _asks_for_vllm(generation) and builtin_instead_of_vllm(config) is None


def found_by_url(config: TrainingConfig | EvalConfig) -> bool:
    """Whether the vLLM servers run already, on devices that are not the run's."""
    generation = _generation(config)
    return vllm_generates(config) and generation is not None and bool(generation.vllm_cfg.server_urls)


def servers_sleep(config: OnlineConfig) -> bool:
    """Whether vLLM servers give their memory to the learner while it trains: on GPUs that they share with it."""
    return _generation_sleeps(config) and not runs_on_cpu(config.cluster)


def _generation_sleeps(config: TrainingConfig | EvalConfig) -> bool:
    if not isinstance(config, OnlineConfig) or not vllm_generates(config) or found_by_url(config):
        return False
    generation = config.policy.generation
    return generation.vllm_cfg.sleep_level == 1 and generation.colocated.enabled


def runs_on_cpu(cluster: ClusterConfig) -> bool:
    """Whether the generators of a run compute on CPUs."""
    if is_single_process(cluster):
        return device_of_this_process(cluster).type == "cpu"
    return cluster.cpu_workers_per_node is not None


def _asks_for_vllm(generation: SamplingConfig) -> bool:
    return generation.backend == "vllm"


def _generation(config: TrainingConfig | EvalConfig) -> SamplingConfig | None:
    """How completions are sampled; None for a command that samples none."""
    if isinstance(config, EvalConfig):
        return config.generation
    return config.policy.generation if isinstance(config, OnlineConfig) else None


def placement_notices(config: TrainingConfig | EvalConfig) -> list[str]:
    """Notices about vLLM where it cannot generate, about a number format that this CPU emulates, and about cluster
    settings that a run in one process ignores; results differ by rounding alone."""
    reason = builtin_instead_of_vllm(config)
    head = "generation" if isinstance(config, EvalConfig) else "policy.generation"
    vllm = [] if reason is None else [f"{head}.backend=vllm: {reason}; Hone's built-in generator samples"]
    if _generation_sleeps(config) and runs_on_cpu(config.cluster):
        vllm.append(f"{head}.vllm_cfg.sleep_level=1: on a CPU vLLM does not sleep")
    return vllm + _emulation_notices(config) + _one_process_notices(config)


def _one_process_notices(config: TrainingConfig | EvalConfig) -> list[str]:
    cluster = config.cluster
    training = not isinstance(config, EvalConfig)
    if training and not is_single_process(cluster):
        return []
    asked = [f"cluster.num_nodes={cluster.num_nodes}"] if cluster.num_nodes > 1 else []
    if cluster.gpus_per_node > 1:
        asked.append(f"cluster.gpus_per_node={cluster.gpus_per_node}")
    if not isinstance(config, EvalConfig):
        asked += [f"cluster.teacher_devices={cluster.reserved_devices}"] if cluster.reserved_devices else []
        policy = config.policy
        sizes = ("tensor_parallel_size", "context_parallel_size", "dp_replicate_size")
        for name in (*sizes, "sequence_parallel"):
            if (value := getattr(policy, name)) not in (None, 1, False):
                asked.append(f"policy.{name}={value}")
    if not asked:
        return []
    return [f"{', '.join(asked)}: runs in one process here; the same numbers up to rounding, slower"]


def _emulation_notices(config: TrainingConfig | EvalConfig) -> list[str]:
    cluster = config.cluster
    here = (
        cluster.gpus_per_node == 0 or cluster.cpu_workers_per_node is not None or is_single_process(cluster)
    )
    wanted = config.generation.precision if isinstance(config, EvalConfig) else config.policy.precision
    if isinstance(config, EvalConfig) and generator_of(config) == "openai":
        return []
    if not here or device_of_this_process(cluster).type != "cpu" or not is_emulated(wanted):
        return []
    if isinstance(config, EvalConfig):
        return [f"generation.precision={wanted}: this CPU would emulate it, so that float32 is computed"]
    generator = "; the built-in generator computes in float32" if isinstance(config, OnlineConfig) else ""
    return [
        f"policy.precision={wanted}: this CPU emulates it, at 2 to 4 times the time of float32{generator}"
    ]
