"""Attention of rows of different lengths without padding between them.

A step computes the new tokens of all rows as one sequence of T tokens: a row that decodes has one, a row whose prompt
is read has many. Keys and values lie in slabs [slots, heads, width, dim], one slab for rows of about the same length;
a row has a slot, and fills it from position 0.

Each row's last new token comes first, slab by slab in the order of slots, so that one call of PyTorch's attention
serves a slab. The earlier new tokens are a `Segment` with a call of its own, which rows of equal lengths share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import CacheLayerMixin


@dataclass(frozen=True)
class SlabStep:
    """The last new token of each row of a slab: tokens [first, first + rows) of the step, slots [0, rows)."""

    width: int
    first: int
    slots: Tensor
    """[rows] 0 to rows - 1."""
    positions: Tensor
    """[rows] where each token's keys are written."""
    mask: Tensor
    """[rows, 1, 1, longest] what each token attends to; `longest` is the number of filled positions of the longest."""

    _index: dict[int, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.slots.numel()

    def index(self, heads: int) -> Tensor:
        """[rows * heads] where each token's keys are in a slab that is seen as [slots * heads * width, dim]."""
        if heads not in self._index:
            row = self.slots[:, None] * heads + torch.arange(heads, device=self.slots.device)
            self._index[heads] = (row * self.width + self.positions[:, None]).flatten()
        return self._index[heads]


@dataclass(frozen=True)
class Segment:
    """Further new tokens of some rows of a slab, at positions [start, start + count) of each, row by row from token
    `first` of the step on."""

    width: int
    slots: Tensor
    first: int
    count: int
    start: int
    mask: Tensor | None
    """[count, start + count] what each token attends to; None: all before it, `start` being 0."""

    @property
    def tokens(self) -> slice:
        """Its tokens among those of the step."""
        return slice(self.first, self.first + self.slots.numel() * self.count)


@dataclass(frozen=True)
class RaggedStep:
    """The layout of a step's tokens."""

    slabs: list[SlabStep]
    segments: list[Segment]


class RaggedLayer(CacheLayerMixin):
    """One layer's keys and values, by the width of their slab. `update` writes a step's and returns the layer itself in
    place of keys and values; `attend` then reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.step = RaggedStep([], [])
        self.slots: dict[int, int] = {}
        """Wanted slots of each width; shared by all layers."""
        self.slabs: dict[int, tuple[Tensor, Tensor]] = {}

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Write the keys and values [1, heads, T, dim] of a step's tokens."""
        for stored, new in ((0, key_states), (1, value_states)):
            new_TGD = new[0].transpose(0, 1)
            for slab in self.step.slabs:
                tokens = new_TGD[slab.first : slab.first + slab.rows].flatten(0, 1)
                target = self._slab(slab.width, key_states, value_states)[stored].view(-1, tokens.shape[-1])
                target.index_copy_(0, slab.index(new.shape[1]), tokens)
            for part in self.step.segments:
                tokens = new_TGD[part.tokens].unflatten(0, (-1, part.count)).transpose(1, 2)
                target = self._slab(part.width, key_states, value_states)[stored]
                target[part.slots, :, part.start : part.start + part.count] = tokens
        return self, self

    def _slab(self, width: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if width not in self.slabs:
            # Zeros: a masked position that holds nan would still spoil a sum.
            self.slabs[width] = tuple(
                new.new_zeros(self.slots[width], new.shape[1], width, new.shape[3]) for new in (keys, values)
            )  # type: ignore[assignment]
        return self.slabs[width]

    def resize(self, width: int, rows: int) -> None:
        """Give a slab its wanted number of slots; the first `rows` keep what they hold."""
        if width not in self.slabs:
            return
        if not self.slots[width]:
            del self.slabs[width]
            return
        old = self.slabs[width]
        new = tuple(part.new_zeros(self.slots[width], *part.shape[1:]) for part in old)
        for target, source in zip(new, old, strict=True):
            target[:rows] = source[:rows]
        self.slabs[width] = new  # type: ignore[assignment]

    def copy(self, source: tuple[int, int], target: tuple[int, int], length: int) -> None:
        """Copy the first `length` positions of a row to another: (width, slot) of each."""
        if not length:
            return
        like = self.slabs[source[0]]
        for old, new in zip(like, self._slab(target[0], *like), strict=True):
            new[target[1], :, :length] = old[source[1], :, :length]

    def attend(self, query: Tensor, scale: float | None) -> Tensor:
        """[1, heads, T, dim] -> [1, T, heads, dim]."""
        query_THD = query[0].transpose(0, 1)
        parts = [self._last_tokens(slab, query_THD, scale) for slab in self.step.slabs]
        parts += [self._segment(part, query_THD, scale) for part in self.step.segments]
        return torch.cat(parts)[None]

    def _last_tokens(self, slab: SlabStep, query_THD: Tensor, scale: float | None) -> Tensor:
        keys, values = (part[: slab.rows, :, : slab.mask.shape[-1]] for part in self.slabs[slab.width])
        heads, groups = query_THD.shape[1], keys.shape[1]
        query = query_THD[slab.first : slab.first + slab.rows]
        query = query.reshape(slab.rows, groups, heads // groups, -1)  # as in attention.py: no copies of keys
        done = scaled_dot_product_attention(query, keys, values, attn_mask=slab.mask, scale=scale)
        return done.reshape(slab.rows, heads, -1)

    def _segment(self, part: Segment, query_THD: Tensor, scale: float | None) -> Tensor:
        copies = query_THD.shape[1] // self.slabs[part.width][0].shape[1]
        keys, values = (
            one[part.slots, :, : part.start + part.count].repeat_interleave(copies, 1)
            for one in self.slabs[part.width]
        )
        query = query_THD[part.tokens].unflatten(0, (-1, part.count)).transpose(1, 2)
        done = scaled_dot_product_attention(
            query, keys, values, attn_mask=part.mask, is_causal=part.mask is None, scale=scale
        )
        return done.transpose(1, 2).flatten(0, 1)

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return -1
