"""Which vLLM server a configuration asks for."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from hone.config import EvalConfig, OnlineConfig
from hone.config.schema.model import SamplingConfig
from hone.engine.base import WeightPublisher
from hone.engine.generator_group import attach_generators
from hone.engine.local.learner import DTYPES, LocalLearner
from hone.engine.local.local_engine import LocalEngine
from hone.engine.vllm.checkpoint_names import CheckpointWeights
from hone.engine.vllm.checks import check_evaluation, logprobs_mode
from hone.engine.vllm.generator import VLLMGenerator
from hone.engine.vllm.lora import AdapterPublisher, server_arguments
from hone.engine.vllm.server import ServerSettings, VLLMServer
from hone.engine.weight_files import FilePublisher
from hone.engine.weight_probe import ProbedTransport
from hone.model.adapters import NAME
from hone.model.loading import resolve, stop_tokens, stop_tokens_of
from hone.model.model_size import load_model_size
from hone.planning.auxiliary_models import readable_tokens
from hone.planning.placement import device_of_this_process

NO_LIMIT = 1 << 20
"""Completions that a server is asked for at once: it makes batches of them itself."""


def attach_vllm(engine: LocalEngine, config: OnlineConfig, weights: Path) -> None:
    """Start a server beside the learner of this process, and make it the engine's generator. Its weights are probed
    after every update. Raises ClusterError if it cannot be had."""
    policy, dtype = config.policy, DTYPES[config.policy.precision]
    generator = _generator(config, engine, weights)
    publisher = _publisher(engine.learner, weights, dtype, policy.lora.enabled)
    attach_generators(engine, [generator], publisher, config, weights, batch_size=NO_LIMIT)
    assert engine.transport is not None
    engine.transport = ProbedTransport(
        engine.transport,
        generator,
        engine.learner,
        tokens=readable_tokens(config) or len(engine.tokenizer),
        temperature=config.logits_temperature,
        dtype=dtype,
    )


def _generator(config: OnlineConfig, engine: LocalEngine, weights: Path) -> VLLMGenerator:
    policy, learner, extra = config.policy, engine.learner, []
    if policy.lora.enabled:
        extra = server_arguments(learner.model.peft_config[NAME])
    settings = ServerSettings(
        resolve(policy.model_name),
        policy.max_total_sequence_length,
        policy.precision,
        logprobs_mode(config),
        tokenizer=resolve(policy.tokenizer.name),
        trust_remote_code=policy.trust_remote_code,
        overrides=policy.hf_config_overrides,
        seed=config.algorithm.seed % 2**31,
        **server_options(policy.generation, learner.model.device, extra),
    )
    log = Path(config.checkpointing.checkpoint_dir).resolve() / "workers" / "vllm.log"
    return VLLMGenerator(
        "vLLM",
        VLLMServer(settings, log, start_s=policy.generation.vllm_cfg.start_timeout_s),
        weights=weights,
        adapter=policy.lora.enabled,
        stop_tokens=stop_tokens(learner.model, engine.tokenizer),
        context=policy.max_total_sequence_length,
        vocabulary_limit=readable_tokens(config),
        vocabulary=learner.model.config.get_text_config().vocab_size,
        timeout_s=config.cluster.worker_timeout_s,
    )


@contextmanager
def open_server(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[VLLMGenerator]:
    """A server of the model that is evaluated. Raises ClusterError if it cannot be had."""
    generation, source = config.generation, resolve(config.generation.model_name)
    trust = generation.trust_remote_code
    size = load_model_size(generation.model_name, trust_remote_code=trust)
    check_evaluation(config, size)
    context = min(generation.max_model_len, size.context or generation.max_model_len)
    settings = ServerSettings(
        source,
        context,
        generation.precision,
        "raw_logprobs",
        tokenizer=resolve(config.tokenizer.name),
        trust_remote_code=trust,
        trained=False,
        **server_options(generation, device_of_this_process(config.cluster)),
    )
    stops = stop_tokens_of(source, tokenizer, trust_remote_code=trust)
    # The end of its log is in the message of an error.
    with tempfile.TemporaryDirectory(prefix="hone-vllm-") as folder:
        server = VLLMServer(settings, Path(folder) / "log", start_s=generation.vllm_cfg.start_timeout_s)
        generator = VLLMGenerator("vLLM", server, weights=None, stop_tokens=stops, context=context)
        with contextlib.closing(generator):
            generator.start()
            yield generator


def server_options(
    generation: SamplingConfig, device: torch.device, extra: Sequence[str] = ()
) -> dict[str, Any]:
    """Of ServerSettings, what vllm_cfg, vllm_kwargs and the device say."""
    vllm, on_cpu = generation.vllm_cfg, device.type == "cpu"
    arguments = [text for key, value in generation.vllm_kwargs.items() for text in _argument(key, value)]
    return {
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "gpu_memory_utilization": None if on_cpu else vllm.gpu_memory_utilization,
        "enforce_eager": vllm.enforce_eager,
        "on_cpu": on_cpu,
        "arguments": [*arguments, *extra],
    }


def _publisher(learner: LocalLearner, weights: Path, dtype: torch.dtype, adapted: bool) -> WeightPublisher:
    if adapted:
        return AdapterPublisher(learner.weights, weights)
    ranks = learner.weights().ranks
    return FilePublisher(lambda: CheckpointWeights(learner.model, ranks), weights, dtype=dtype)


def _argument(key: str, value: Any) -> Iterator[str]:
    """`max_num_seqs: 512` as `--max-num-seqs 512`; true as the flag alone, false as its `--no-` form."""
    name = key.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
    else:
        yield from (f"--{name}", str(value))
