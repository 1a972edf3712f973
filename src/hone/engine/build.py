"""From a configuration to a Learner, a reference and a Generator."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.config import EvalConfig, GRPOConfig, SFTConfig
from hone.engine import planner
from hone.engine.generator import LocalGenerator
from hone.engine.learner import DTYPES, LocalLearner, WithoutAdapters
from hone.engine.place import alone, check_several, device_of_this_process, machine_of
from hone.engine.spread import spread, unspread_copy
from hone.errors import ConfigError
from hone.model.adapters import with_lora
from hone.model.load import context_length, empty_model, load_model, load_tokenizer, stop_tokens
from hone.model.mesh import Mesh, mesh_of_one
from hone.model.scorer import TokenScorer
from hone.model.shape import load_shape
from hone.types import Generator, Scorer, TrainedModel


@dataclass
class Engine:
    """What a loop works with. `reference` and `generator` are there when the algorithm needs them.

    A context: on leaving it, what was started elsewhere is stopped.
    """

    tokenizer: PreTrainedTokenizerBase
    learner: TrainedModel
    reference: Scorer | None = None
    generator: Generator | None = None
    ranks: int = 1
    """Devices that the learner is spread over."""
    notices: list[str] = field(default_factory=list)
    """What was chosen or found out, for the run's log."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing was started."""

    def can_grow(self) -> bool:
        """Whether machines that the run asked for, and went on without, have come."""
        return False

    async def usage(self) -> dict[str, float]:
        """Load and memory of the ranks, for the metrics; this process's own are measured elsewhere."""
        return {}


@dataclass
class LocalEngine(Engine):
    """All of it in this process."""

    learner: LocalLearner
    reference: LocalLearner | WithoutAdapters | None = None
    generator: LocalGenerator | None = None


def place(model: torch.nn.Module, device: torch.device) -> None:
    """Move a model, in place."""
    model.to(device)


SMALL_MODEL = 10_000_000
"""Below so many parameters one thread is as fast as several: waiting for each other costs what sharing gains."""


def threads_for(wanted: int | None, parameters: int, *, sharers: int = 1) -> int:
    """Threads of a process's tensor operations: `cluster.cpu_threads`, else what OMP_NUM_THREADS said to torch,
    else one for a small model and for a larger one all cores, which as many processes share."""
    if wanted is not None:
        return wanted
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if parameters < SMALL_MODEL else max(1, cores // sharers)


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


def build(
    config: SFTConfig | GRPOConfig, tokenizer: PreTrainedTokenizerBase, *, recovering: bool = False
) -> Engine:
    """All that the run computes with. Raises ConfigError for what this model or machine cannot do.

    `recovering`: a run that lost machines may go on with fewer than it asks for.
    """
    policy = config.policy
    shape = load_shape(policy.model_name, policy.hf_config_overrides)
    check_length(config, shape.context)
    if alone(config.cluster):
        settled, _ = planner.resolve(config, shape, machine_of(config.cluster))
        device = device_of_this_process(config.cluster)
        offload = settled.policy.cpu_offload and device.type == "cuda"
        return build_here(settled, tokenizer, device, mesh_of_one(device.type) if offload else None)
    from hone.engine.cluster import build_on_cluster  # Ray, which a run in one process never imports

    check_several(config)
    machine_of(config.cluster)  # more GPUs than there are stop the run before Ray starts
    return build_on_cluster(config, tokenizer, shape, recovering=recovering)


def build_here(
    config: SFTConfig | GRPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    mesh: Mesh | None = None,
) -> LocalEngine:
    """In this process: all of it, or on a mesh this rank's part."""
    policy = config.policy
    seed = config.grpo.seed if isinstance(config, GRPOConfig) else config.sft.seed
    seed_everything(seed + (mesh.rank("data") if mesh is not None else 0))
    temperature = config.policy.generation.temperature if isinstance(config, GRPOConfig) else 1.0
    make = partial(_make, config, tokenizer, seed)
    chunk = policy.logprob_chunk_size

    def scorer(trained: bool) -> TokenScorer:
        if mesh is not None:
            return spread(
                partial(make, trained),
                mesh,
                device,
                temperature=temperature,
                chunk_rows=chunk,
                sequence_parallel=policy.sequence_parallel,
                cpu_offload=bool(policy.cpu_offload),
            )
        model = make(trained, True)
        place(model, device)
        return TokenScorer(model, temperature=temperature, chunk_rows=chunk)

    trained = scorer(True)
    if mesh is None:
        set_threads(config.cluster.cpu_threads, trained)
    learner = LocalLearner(trained, policy, pad_token=tokenizer.pad_token_id)
    learner.save_optimizer = config.checkpointing.save_optimizer
    if isinstance(config, SFTConfig):
        return LocalEngine(tokenizer, learner)
    reference: LocalLearner | WithoutAdapters | None = None
    if config.loss_fn.reference_policy_kl_penalty:
        if policy.lora.enabled:
            reference = WithoutAdapters(learner)
        else:
            reference = LocalLearner(scorer(False), policy, pad_token=tokenizer.pad_token_id, frozen=True)
    model = learner.model
    if mesh is not None:
        model = unspread_copy(make(True, False, DTYPES[policy.precision]), learner.model, device)
    generator = LocalGenerator(
        model,
        tokenizer,
        stop_tokens=stop_tokens(model, tokenizer),
        context=config.policy.max_total_sequence_length,
        max_rows=config.policy.generation_batch_size,
        autocast=learner.autocast,
    )
    return LocalEngine(tokenizer, learner, reference, generator)


def _make(
    config: SFTConfig | GRPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    trained: bool,
    with_weights: bool,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The run's model in host memory; without weights on the meta device. What is not trained has no adapters."""
    policy = config.policy
    checkpointing = bool(policy.activation_checkpointing) and trained
    if with_weights:
        model = load_model(
            policy.model_name,
            overrides=policy.hf_config_overrides,
            seed=seed,
            activation_checkpointing=checkpointing,
        )
    else:
        model = empty_model(
            policy.model_name,
            overrides=policy.hf_config_overrides,
            activation_checkpointing=checkpointing,
            dtype=dtype,
        )
    _check_fit(model, tokenizer, config)
    return with_lora(model, policy.lora) if policy.lora.enabled and trained else model


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
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SFTConfig | GRPOConfig
) -> None:
    check_length(config, context_length(model))
    rows = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if len(tokenizer) > rows:
        raise ConfigError(
            f"policy.tokenizer.name={config.policy.tokenizer.name} has {len(tokenizer)} tokens, but "
            f"{config.policy.model_name} has embeddings for {rows}: use the model's own tokenizer"
        )
