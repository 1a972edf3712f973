"""From a configuration to an engine. Here alone it is decided which implementation a run gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hone.config import EvalConfig, OnlineConfig, TrainingConfig
from hone.config.schema import ModelConfig
from hone.engine.base import Engine
from hone.engine.endpoint_generator import EndpointGenerator, open_endpoint
from hone.engine.generator_process import GeneratorProcess
from hone.engine.generators import attach_generators, batch_size_of, folder_for_weights
from hone.engine.local.continuous_batching import ContinuousBatching
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.learner import DTYPES, LocalLearner
from hone.engine.local.local_engine import build_local, seed_everything
from hone.engine.local.model_factory import check_start
from hone.engine.local.optimizer import check_optimizer
from hone.engine.local.threads import set_threads
from hone.engine.model_notices import model_notices
from hone.engine.vllm.checks import check as check_vllm
from hone.engine.vllm.generator import VLLMGenerator
from hone.engine.vllm.launch import attach_vllm, check_folder, open_server, publisher_for, servers_of
from hone.engine.vllm.running import are_on_this_machine
from hone.model.loading import context_length, load_model, stop_tokens
from hone.model.mesh import mesh_of_one
from hone.model.model_size import ModelSize
from hone.planning import planner
from hone.planning.auxiliary_models import check_auxiliary_models, check_length, model_size_of_run
from hone.planning.cpu import generator_precision
from hone.planning.placement import (
    check_distributed,
    device_of_this_process,
    generator_of,
    hardware_of,
    is_single_process,
    split_devices,
    vllm_generates,
)


def check(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> ModelSize:
    """The sizes of the run's models. Raises ConfigError and ModelError for what they cannot do, or what does not go
    together: lengths, vocabularies, adapters, optimizers. No weight is read."""
    policy = config.policy
    size = model_size_of_run(config)
    check_length(policy, size.context)
    check_auxiliary_models(config, size, tokenizer)
    if isinstance(config, OnlineConfig) and vllm_generates(config):
        check_vllm(config, size)
    for settings in filter(None, (policy, config.critic)):
        check_optimizer(settings)
        check_start(settings, tokenizer, config.cluster)
    return size


def build(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, *, recovering: bool = False) -> Engine:
    """All that the run computes with. Raises ConfigError for what this model or machine cannot do (see `check`).

    `recovering`: a run that lost machines may go on with fewer than it asks for.
    """
    engine = _built(config, tokenizer, check(config, tokenizer), recovering)
    engine.notices += model_notices(config, tokenizer)
    return engine


def _built(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, size: ModelSize, recovering: bool
) -> Engine:
    """In this process or on a cluster."""
    if is_single_process(config.cluster):
        learner_hardware, own = split_devices(config, hardware_of(config.cluster))
        planner.check_generators(config, size, own)
        settled, _ = planner.resolve(config, size, learner_hardware)
        device = device_of_this_process(config.cluster)
        mesh = mesh_of_one(device.type) if settled.policy.cpu_offload and device.type == "cuda" else None
        if not isinstance(settled, OnlineConfig) or (own is None and not vllm_generates(settled)):
            return build_local(settled, tokenizer, device, mesh)
        urls = settled.policy.generation.vllm_cfg.server_urls
        weights = folder_for_weights(settled, size, one_node=are_on_this_machine(urls))
        if vllm_generates(settled):
            check_folder(settled, weights)
            local = build_local(settled, tokenizer, device, mesh, weights)
            publisher = publisher_for(local.learner, settled, weights)
            attach_vllm(local, servers_of(settled, size), publisher, settled, size, weights)
            return local
        local = build_local(settled, tokenizer, device, mesh, weights)
        assert local.publisher is not None
        server = GeneratorProcess("generator", settled, weights)
        size_of_batch = batch_size_of(settled)
        attach_generators(local, [server], local.publisher, settled, weights, batch_size=size_of_batch)
        return local
    from hone.engine.ray.remote_engine import build_on_cluster

    check_distributed(config)
    split_devices(config, hardware_of(config.cluster))  # too few GPUs stop the run before Ray starts
    engine = build_on_cluster(config, tokenizer, size, recovering=recovering)
    # This process's random states are saved, too, and starting Ray draws from them.
    seed_everything(config.algorithm.seed)
    return engine


SCORED_TOKENS = 8192
"""Tokens of one forward when an evaluation asks for log-probabilities."""
EvalGenerator = LocalGenerator | VLLMGenerator | EndpointGenerator


def open_generator(
    config: EvalConfig, tokenizer: PreTrainedTokenizerBase | None
) -> AbstractContextManager[EvalGenerator]:
    """A generator alone, for evaluation. The tokenizer is None where an endpoint tokenizes. Raises ClusterError for a
    vLLM server that cannot be had."""
    return OPENERS[generator_of(config)](config, tokenizer)


def as_scorer(
    config: EvalConfig, tokenizer: PreTrainedTokenizerBase, generator: EvalGenerator
) -> LocalLearner:
    """The model of an evaluation as a frozen learner: its log-probabilities. It is the built-in generator's model, or
    loaded for this."""
    local = generator if isinstance(generator, LocalGenerator) else _local_generator(config, tokenizer)
    precision = generator_precision(config.generation.precision, on_cpu=local.model.device.type == "cpu")
    tokens = max(SCORED_TOKENS, config.generation.max_model_len)
    batching = {"enabled": True, "train_mb_tokens": tokens, "logprob_mb_tokens": tokens}
    policy = ModelConfig.model_validate({"precision": precision, "dynamic_batching": batching})
    return LocalLearner(local.model, policy, pad_token=tokenizer.pad_token_id, frozen=True)


@contextmanager
def _open_local(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[LocalGenerator]:
    yield _local_generator(config, tokenizer)


def _local_generator(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> LocalGenerator:
    generation = config.generation
    model = load_model(generation.model_name, trust_remote_code=generation.trust_remote_code).eval()
    set_threads(config.cluster.cpu_threads, model)
    torch.nn.Module.to(model, device_of_this_process(config.cluster))
    device = model.device.type
    dtype = DTYPES[generator_precision(generation.precision, on_cpu=device == "cpu")]
    limit = context_length(model)
    wanted = generation.max_model_len
    return LocalGenerator(
        model,
        tokenizer,
        stop_tokens=stop_tokens(model, tokenizer),
        context=min(wanted, limit) if limit else wanted,
        max_rows=generation.batch_size,
        autocast=lambda: torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32),
        continuous=ContinuousBatching.of(generation),
    )


OPENERS: Mapping[str, Callable[[EvalConfig, Any], AbstractContextManager[EvalGenerator]]] = {
    "builtin": _open_local,
    "vllm": open_server,
    "openai": open_endpoint,
}
