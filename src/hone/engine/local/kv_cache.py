"""A key/value cache that is written in place.

`transformers` grows its cache by concatenation: every decoded token copies all keys and values of every layer.
Here a layer owns a slab with room to spare, and the model sees the filled part of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from hone.model.quantized import is_quantized


class PreallocatedLayer(DynamicLayer):
    """Full attention's cache: [batch, heads, length, dim], of which `length` grows inside a larger slab."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self._slabs: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append [batch, heads, new, dim] and return everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._slabs is None or new > self._slabs[0].shape[-2]:
            self._slabs = (
                self._enlarged(key_states, self.keys, old),
                self._enlarged(value_states, self.values, old),
            )
        keys, values = self._slabs
        keys[:, :, old:new] = key_states
        values[:, :, old:new] = value_states
        self.keys, self.values = keys[:, :, :new], values[:, :, :new]
        return self.keys, self.values

    def _enlarged(self, like: Tensor, filled: Tensor | None, old: int) -> Tensor:
        batch, heads, new, dim = like.shape
        slab = like.new_empty(batch, heads, old + new + self.room, dim)
        if old and filled is not None:
            slab[:, :, :old] = filled
        return slab

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._slabs = None

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._slabs = None


def preallocated_cache(config: Any, room: int) -> DynamicCache:
    """The cache that `transformers` would make for this model, its full-attention layers written in place.

    `room` is how many tokens a slab holds beyond those it starts with.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        PreallocatedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def select_rows(cache: Any, rows: Tensor) -> None:
    """Keep only `rows` of the batch in every layer, as often as they are named."""
    for layer in cache.layers:
        recurrent = hasattr(layer, "update_recurrent_state")  # knows one way to pick rows: that of beams
        (layer.reorder_cache if recurrent else layer.batch_select_indices)(rows)


@torch.inference_mode()
def works(model: PreTrainedModel) -> bool:
    """Whether a token decoded behind a cache, of which a row was picked, has the logits that it has behind its text.

    Only of weights in fp32 are the numbers compared: where products are rounded more, they differ anyway.
    """
    vocabulary = model.config.get_text_config().vocab_size
    text = (torch.arange(1, 6, device=model.device)[None] % vocabulary).expand(2, -1)
    try:
        cache = preallocated_cache(model.config, room=1)
        model(input_ids=text[:, :4], past_key_values=cache, use_cache=True)
        select_rows(cache, torch.tensor([1], device=text.device))
        place = torch.tensor([[4]], device=text.device)
        cached = model(
            input_ids=text[:1, 4:], position_ids=place, past_key_values=cache, use_cache=True
        ).logits
        uncached = model(input_ids=text[:1], use_cache=False).logits[:, -1:]
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        return False  # what a model makes of a cache that is not of its kind
    return agrees(model, cached, uncached)


def agrees(model: PreTrainedModel, cached: Tensor, uncached: Tensor) -> bool:
    """Whether a model's logits behind a cache are those that it has behind the text, where it has weights in fp32."""
    if model.dtype != torch.float32 or is_quantized(model) or not torch.isfinite(uncached).all():
        return True
    return torch.allclose(cached, uncached, rtol=1e-2, atol=1e-2 * float(uncached.abs().max()))
