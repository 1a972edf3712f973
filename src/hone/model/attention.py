"""Attention for decoding with grouped queries, without repeating keys and values.

Where several query heads share a key/value head, `transformers` copies all keys and values once per query head
before it calls PyTorch's attention with a mask. For a single new token the query heads of a group can stand in the
place of query positions instead: the same numbers, no copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "hone_sdpa"


def grouped_sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's attention; one new token ([batch, heads, 1, dim]) goes by groups of query heads."""
    batch, heads, length, dim = query.shape
    groups = key.shape[1]
    alike = attention_mask is None or (attention_mask.dim() == 4 and attention_mask.shape[1] == 1)
    if length != 1 or heads == groups or not alike or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, groups, heads // groups, dim),
        key,
        value,
        attn_mask=attention_mask,
        scale=kwargs.get("scaling"),
    )
    return out.reshape(batch, 1, heads, out.shape[-1]), None


def use_grouped_sdpa(model: PreTrainedModel) -> None:
    """Let a model that uses PyTorch's attention use this one. Any other choice of attention is left as it is."""
    if model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, grouped_sdpa)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def has_full_attention(config: Any) -> bool:
    """Whether every layer of a model sees all that came before: no sliding window, no chunks, no recurrent state."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
