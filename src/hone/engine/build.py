"""From a configuration to a Learner, a reference and a Generator."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hone.config import EvalConfig, GRPOConfig, SFTConfig
from hone.config.schema import ClusterConfig
from hone.engine.generator import LocalGenerator
from hone.engine.learner import DTYPES, LocalLearner
from hone.errors import ConfigError
from hone.model.adapters import with_lora
from hone.model.load import context_length, load_model, load_tokenizer, stop_tokens


@dataclass
class Engine:
    """What a loop works with. `reference` and `generator` are there when the algorithm needs them."""

    tokenizer: PreTrainedTokenizerBase
    learner: LocalLearner
    reference: LocalLearner | None = None
    generator: LocalGenerator | None = None


def device_of_this_process(cluster: ClusterConfig) -> torch.device:
    """CUDA where there is some, then Apple's GPU, else the CPU; the CPU when the cluster is to have no GPU."""
    if cluster.gpus_per_node == 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def place(model: torch.nn.Module, device: torch.device) -> None:
    """Move a model, in place."""
    model.to(device)


PLACEMENT = (
    "tensor_parallel_size",
    "context_parallel_size",
    "pipeline_parallel_size",
    "dp_replicate_size",
    "sequence_parallel",
    "cpu_offload",
)


def placement_notices(config: SFTConfig | GRPOConfig | EvalConfig) -> list[str]:
    """What the config asks of a cluster that this process does not do. None of it changes a result beyond rounding."""
    asked = [f"cluster.num_nodes={config.cluster.num_nodes}"] if config.cluster.num_nodes > 1 else []
    if config.cluster.gpus_per_node > 1:
        asked.append(f"cluster.gpus_per_node={config.cluster.gpus_per_node}")
    if not isinstance(config, EvalConfig):
        asked += [
            f"policy.{name}={value}"
            for name in PLACEMENT
            if (value := getattr(config.policy, name)) not in (1, False)
        ]
    if not asked:
        return []
    return [f"{', '.join(asked)}: runs in one process here; the same numbers up to rounding, slower"]


SMALL_MODEL = 10_000_000
"""Below so many parameters one thread is as fast as several: waiting for each other costs what sharing gains."""


def threads_for(wanted: int | None, parameters: int) -> int:
    """Threads of a process's tensor operations: `cluster.cpu_threads`, else what OMP_NUM_THREADS said to torch,
    else one for a small model and all cores for a larger one."""
    if wanted is not None:
        return wanted
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if parameters < SMALL_MODEL else cores


def set_threads(wanted: int | None, model: torch.nn.Module) -> None:
    """Give torch the threads that a model is best served by."""
    torch.set_num_threads(threads_for(wanted, sum(p.numel() for p in model.parameters())))


def seed_everything(seed: int) -> None:
    """Seed every global random generator: all of them are part of a checkpoint, so all must be part of the seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def tokenizer_of(config: SFTConfig | GRPOConfig) -> PreTrainedTokenizerBase:
    """The run's tokenizer; the data is checked with it before any weight is loaded."""
    return load_tokenizer(config.policy.tokenizer.name, chat_template=config.policy.tokenizer.chat_template)


def build(config: SFTConfig | GRPOConfig, tokenizer: PreTrainedTokenizerBase) -> Engine:
    """All that the run computes with. Raises ConfigError for what this model or machine cannot do."""
    policy = config.policy
    seed = config.grpo.seed if isinstance(config, GRPOConfig) else config.sft.seed
    seed_everything(seed)
    device = device_of_this_process(config.cluster)
    model = load_model(
        policy.model_name,
        overrides=policy.hf_config_overrides,
        seed=seed,
        activation_checkpointing=policy.activation_checkpointing,
    )
    _check_fit(config, model, tokenizer)
    set_threads(config.cluster.cpu_threads, model)
    if policy.lora.enabled:
        model = with_lora(model, policy.lora)
    place(model, device)
    pad = tokenizer.pad_token_id
    temperature = config.policy.generation.temperature if isinstance(config, GRPOConfig) else 1.0
    learner = LocalLearner(model, policy, pad_token=pad, temperature=temperature)
    learner.save_optimizer = config.checkpointing.save_optimizer
    if isinstance(config, SFTConfig):
        return Engine(tokenizer, learner)
    policy = config.policy
    reference = None
    if config.loss_fn.reference_policy_kl_penalty:
        frozen = load_model(policy.model_name, overrides=policy.hf_config_overrides, seed=seed)
        place(frozen, device)
        reference = LocalLearner(frozen, policy, pad_token=pad, temperature=temperature, frozen=True)
    generator = LocalGenerator(
        model,
        tokenizer,
        stop_tokens=stop_tokens(model, tokenizer),
        context=policy.max_total_sequence_length,
        max_rows=policy.generation_batch_size,
        autocast=learner.autocast,
    )
    return Engine(tokenizer, learner, reference, generator)


def build_generator(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> LocalGenerator:
    """A generator alone, for evaluation."""
    generation = config.generation
    model = load_model(generation.model_name).eval()
    set_threads(config.cluster.cpu_threads, model)
    place(model, device_of_this_process(config.cluster))
    device, dtype = model.device.type, DTYPES[generation.precision]
    limit = context_length(model)
    wanted = generation.max_model_len
    return LocalGenerator(
        model,
        tokenizer,
        stop_tokens=stop_tokens(model, tokenizer),
        context=min(wanted, limit) if limit else wanted,
        max_rows=generation.batch_size,
        autocast=lambda: torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32),
    )


def check_length(config: SFTConfig | GRPOConfig, limit: int | None) -> None:
    """Raise ConfigError when sequences may be longer than the model's positions."""
    wanted = config.policy.max_total_sequence_length
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"policy.max_total_sequence_length={wanted} is more than the {limit} positions of "
            f"{config.policy.model_name}: lower it to {limit}, or extend the model with policy.hf_config_overrides"
        )


def _check_fit(
    config: SFTConfig | GRPOConfig, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase
) -> None:
    check_length(config, context_length(model))  # type: ignore[arg-type]
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if len(tokenizer) > rows:
        raise ConfigError(
            f"policy.tokenizer.name={config.policy.tokenizer.name} has {len(tokenizer)} tokens, but "
            f"{config.policy.model_name} has embeddings for {rows}: use the model's own tokenizer"
        )
