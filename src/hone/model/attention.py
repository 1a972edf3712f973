"""PyTorch's attention in two forms that `transformers` lacks.

Decoding with grouped queries: where query heads share a key/value head, `transformers` copies all keys and values for
each query head before it calls PyTorch's attention with a mask. For a single new token, the query heads of a group can
take the place of query positions instead: the same numbers without a copy.

Context parallelism: a rank has part of each sequence's tokens. It gathers the keys and values of all ranks (Llama 3,
arXiv 2407.21783 section 3.3.2), so that any mask can be used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hone.model.ragged_attention import RaggedLayer

NAME = "hone_sdpa"


def grouped_sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor | RaggedLayer,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's attention; one new token ([batch, heads, 1, dim]) goes by groups of query heads."""
    if isinstance(key, RaggedLayer):
        return key.attend(query, kwargs.get("scaling")), None
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
    """Use `grouped_sdpa` in a model that uses PyTorch's attention; other implementations are kept.

    A model with capped attention scores (Gemma 2) gets eager attention: PyTorch's has no cap, and `transformers` would
    drop it silently.
    """
    if model.config._attn_implementation != "sdpa":
        return
    if caps_scores(model.config):
        model.set_attn_implementation("eager")
        return
    AttentionInterface.register(NAME, grouped_sdpa)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def caps_scores(config: Any) -> bool:
    """Whether a model's attention scores have a soft cap."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


CONTEXT = "hone_context_sdpa"


def use_context_attention(model: PreTrainedModel, group: dist.ProcessGroup) -> None:
    """Make a model attend to the keys and values of all ranks of `group`, which hold successive parts of every
    sequence. Its forward needs the mask of this rank's tokens, [batch, 1, own, all]."""

    def context_sdpa(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        key, value = Gather.apply(torch.stack([key, value]), 3, group)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(CONTEXT, context_sdpa)
    AttentionMaskInterface.register(CONTEXT, sdpa_mask)
    model.set_attn_implementation(CONTEXT)


class Gather(torch.autograd.Function):
    """All-gather along `dim`; backward reduce-scatters the gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
        ctx.dim, ctx.group = dim, group
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size())]
        dist.all_gather(parts, part.contiguous(), group=group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        parts = torch.stack(grads[0].chunk(ctx.group.size(), ctx.dim))
        mine = torch.empty_like(parts[0])
        dist.reduce_scatter_tensor(mine, parts.flatten(0, 1), group=ctx.group)
        return mine, None, None


def has_chunks(config: Any) -> bool:
    """Whether some layer has chunked attention, as Llama 4's do."""
    return "chunked_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())


def has_full_attention(config: Any) -> bool:
    """Whether every layer attends to all previous tokens: no sliding window, no chunks, no recurrent state."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
