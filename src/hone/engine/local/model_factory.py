"""Create the models of a run, on this process's device or sharded over a mesh, and check them before loading."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.config.schema import ClusterConfig, ModelConfig
from hone.engine.distributed.sharding import shard_model
from hone.engine.local.learner import DTYPES
from hone.errors import ConfigError
from hone.model.adapters import check_adapter, merged, with_lora
from hone.model.dropout import turn_off
from hone.model.loading import context_length, empty_model, load_model
from hone.model.mesh import Mesh
from hone.model.quantized import four_bits
from hone.model.scorer import TokenScorer
from hone.planning.auxiliary_models import check_length
from hone.planning.placement import device_of_this_process


def make_scorer(
    policy: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    device: torch.device,
    mesh: Mesh | None,
    *,
    temperature: float,
    trained: bool,
    vocabulary: int | None = None,
) -> TokenScorer:
    """A scorer whose model is on `device`, or sharded over the mesh; `vocabulary` as in TokenScorer."""
    chunk = policy.logprob_chunk_size
    if mesh is not None:
        return shard_model(
            partial(make_model, policy, tokenizer, seed, trained),
            mesh,
            device,
            temperature=temperature,
            chunk_rows=chunk,
            vocabulary=vocabulary,
            sequence_parallel=policy.sequence_parallel,
            cpu_offload=bool(policy.cpu_offload),
        )
    model = make_model(policy, tokenizer, seed, trained, True)
    torch.nn.Module.to(model, device)
    return TokenScorer(model, temperature=temperature, chunk_rows=chunk, vocabulary=vocabulary)


def model_options(policy: ModelConfig) -> dict[str, Any]:
    """Options of `load_model` and `empty_model` that say which model it is."""
    return {
        "overrides": policy.hf_config_overrides,
        "scalar": policy.has_scalar_head,
        "trust_remote_code": policy.trust_remote_code,
    }


def make_model(
    policy: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    trained: bool,
    with_weights: bool,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A model of the run in host memory, or on the meta device without weights. A model that is not trained has no
    adapters: the adapters of `adapter_path` are merged into its weights."""
    options = model_options(policy)
    options["activation_checkpointing"] = bool(policy.activation_checkpointing) and trained
    if with_weights:
        quantization = four_bits(policy.lora, DTYPES[policy.precision])
        model = load_model(policy.model_name, seed=seed, quantization=quantization, **options)
    else:
        model = empty_model(policy.model_name, dtype=dtype, **options)
    check_fit(model, tokenizer, policy)
    if policy.disable_dropout:
        turn_off(model)
    if not policy.lora.enabled:
        return model
    if trained:
        return with_lora(model, policy.lora, seed=seed)
    if not with_weights or policy.lora.adapter_path is None:
        return model
    model = with_lora(model, policy.lora)
    return model if policy.lora.load_in_4bit else merged(model)  # 4-bit weights cannot represent the sum


def check_start(
    policy: ModelConfig, tokenizer: PreTrainedTokenizerBase, cluster: ClusterConfig | None = None
) -> None:
    """Check the model's settings without reading weights.

    Raises ModelError if the adapter of `adapter_path` does not belong to the model. Raises ConfigError if there is no
    GPU for a 4-bit base, no module for new adapters, or no embedding for a token.
    """
    if policy.lora.enabled and policy.lora.load_in_4bit and cluster is not None:
        if (
            device_of_this_process(cluster).type != "cuda"
        ):  # on a CPU, evaluation rounds differently than training
            raise ConfigError(
                "policy.lora.load_in_4bit=true needs an NVIDIA GPU, and this process has none: set "
                "policy.lora.load_in_4bit=false"
            )
        four_bits(policy.lora, torch.float32)
    empty = empty_model(policy.model_name, **model_options(policy))
    check_fit(empty, tokenizer, policy)
    if policy.lora.enabled and policy.lora.adapter_path is not None:
        check_adapter(empty, policy.model_name, policy.lora)
    elif policy.lora.enabled:
        with_lora(empty, policy.lora)


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, policy: ModelConfig) -> None:
    check_length(policy, context_length(model))
    rows = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if len(tokenizer) > rows:
        raise ConfigError(
            f"policy.tokenizer.name={policy.tokenizer.name} has {len(tokenizer)} tokens, but "
            f"{policy.model_name} has embeddings for {rows}: use the model's own tokenizer, or add embeddings for new "
            "tokens first (`resize_token_embeddings` of transformers, then save_pretrained)"
        )
