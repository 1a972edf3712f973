"""A model's sizes from its config alone: parameters are counted on the meta device, where they take no memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hone.errors import ModelError
from hone.model.attention import caps_scores
from hone.model.load_errors import one_line
from hone.model.loading import auto_class, wanted_config
from hone.model.scalar_head import head_of


@dataclass(frozen=True)
class Linear:
    """`count` linear layers of one name and size, the output layer not among them."""

    name: str
    """The last part of their names, such as q_proj."""
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a causal language model, or of one with a scalar head, in parameters, units or tokens."""

    architecture: str
    model_type: str
    parameters: int
    """All of them, tied ones once."""
    embedding: int
    """Parameters of the input embedding."""
    block: int
    """Parameters of the largest block."""
    non_block: int
    """Parameters outside the blocks: embedding, output layer, last norm."""
    layers: int
    hidden: int
    intermediate: int
    """Units that one token takes up inside an MLP: for a mixture, of all experts that it is sent to."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None
    tied: bool
    plain_head: bool
    """Whether the config names nothing (soft cap, scale) that stands between the output layer and the logits."""
    supports_tensor_parallel: bool
    supports_sequence_parallel: bool
    linears: tuple[Linear, ...] = ()
    scalar: bool = False
    """Whether it has a scalar head, and so no logits."""
    keeps_attention_scores: bool = False
    """Whether the backward needs each head's attention scores, since PyTorch's fused attention cannot be used."""
    value: ModelSize | None = None
    """Of the value model that is trained on the same devices."""
    teacher: ModelSize | None = None
    """Of the teacher on the same devices."""


def load_model_size(
    name: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    scalar: bool = False,
    trust_remote_code: bool = False,
) -> ModelSize:
    """The sizes of a model by name, from its config; no weight is read.

    Raises ModelError for a config that cannot be read or has another head, ConfigError for an unknown override.
    """
    try:
        trusted = {"trust_remote_code": trust_remote_code}
        config = wanted_config(name, overrides or {}, scalar=scalar, **trusted)
        return model_size_of(config, scalar=scalar, **trusted)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ModelError(f"cannot read the config of model {name}: {one_line(error)}") from error


def model_size_of(
    config: PreTrainedConfig, *, scalar: bool = False, trust_remote_code: bool = False
) -> ModelSize:
    """Count a model on a meta device: 405B parameters take a fifth of a second and no memory."""
    from hone.model.parallelize import blocks_of  # torch's DTensor, which few runs need

    with torch.device("meta"):
        model: PreTrainedModel = auto_class(scalar).from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    blocks = [sum(p.numel() for p in block.parameters()) for block in blocks_of(model)]
    parameters = sum(p.numel() for p in model.parameters())
    tensor_parallel, sequence_parallel = _supported_parallelism(config)
    heads = getattr(text, "num_attention_heads", None) or 1
    return ModelSize(
        architecture=type(model).__name__,
        model_type=config.model_type,
        parameters=parameters,
        embedding=sum(p.numel() for p in embedding.parameters()),
        block=max(blocks, default=parameters),
        non_block=parameters - sum(blocks),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=_intermediate(text),
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
        tied=head is not None and head.weight is embedding.weight,
        plain_head=isinstance(head, nn.Linear) and head.bias is None and not _scaled(text),
        supports_tensor_parallel=tensor_parallel,
        supports_sequence_parallel=sequence_parallel,
        linears=_linears(model, head_of(model) if scalar else head),
        scalar=scalar,
        keeps_attention_scores=caps_scores(config)
        or (hasattr(text, "num_attention_heads") and not model._supports_sdpa),
    )


def _linears(model: PreTrainedModel, head: nn.Module | None) -> tuple[Linear, ...]:
    counts = Counter(
        (name.rpartition(".")[2], module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    return tuple(Linear(*key, count) for key, count in counts.items())


def _intermediate(text: PreTrainedConfig) -> int:
    dense = next(
        (size for key in ("intermediate_size", "ffn_dim", "n_inner") if (size := getattr(text, key, None))),
        4 * text.hidden_size,
    )
    chosen = getattr(text, "num_experts_per_tok", None)
    return chosen * (getattr(text, "moe_intermediate_size", None) or dense) if chosen else dense


def _scaled(text: PreTrainedConfig) -> bool:
    if getattr(text, "final_logit_softcapping", None):
        return True
    return any(getattr(text, key, None) not in (None, 1, 1.0) for key in ("logit_scale", "logits_scaling"))


def _supported_parallelism(config: PreTrainedConfig) -> tuple[bool, bool]:
    """Whether tensor and sequence parallelism are made for an architecture."""
    from hone.model.parallelize import BETWEEN_IS_NORMS, STYLES, block_plan

    plan = block_plan(config)
    tensor_parallel = bool(plan) and set(plan.values()) <= set(STYLES)
    return tensor_parallel, tensor_parallel and config.model_type in BETWEEN_IS_NORMS
