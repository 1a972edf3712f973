"""A key/value cache for rows of different lengths that come and go, bounded by a number of tokens.

Rows of about the same length share a slab (`hone.model.ragged_attention`). A row that outgrows its slab moves to the
next wider one; when a row leaves, the last row of its slab takes its slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from hone.engine.local.kv_cache import agrees
from hone.model.ragged_attention import RaggedLayer, RaggedStep, Segment, SlabStep

BLOCK = 64
"""Positions of the narrowest slab. The widths are 64, 96, 128, 192, 256, ...: at most half as much again as needed."""
HEADROOM = 1.25
"""A slab that is full gets so many times the slots it needs, since growing copies it."""


@dataclass(eq=False)
class CachedRow:
    """A row's place, and the number of positions that it has filled."""

    width: int
    slot: int
    length: int = 0


class RaggedCache:
    """Keys and values of rows, of which all slabs together hold at most `budget` tokens of at most `context` a row."""

    def __init__(self, config: Any, *, budget: int, context: int, additive_mask: bool) -> None:
        self.budget, self.context, self.additive_mask = budget, context, additive_mask
        self.slots: dict[int, int] = {}
        self.rows: dict[int, list[CachedRow]] = {}
        self.layers = [RaggedLayer() for _ in range(config.get_text_config().num_hidden_layers)]
        for layer in self.layers:
            layer.slots = self.slots
        self.cache = Cache(layers=list(self.layers))
        """What the model is given."""

    @property
    def allocated(self) -> int:
        """Tokens that the slabs have room for."""
        return sum(width * slots for width, slots in self.slots.items())

    @property
    def rows_in_use(self) -> int:
        return sum(map(len, self.rows.values()))

    def width_for(self, tokens: int) -> int:
        """The width of the narrowest slab for a row of so many tokens."""
        width = BLOCK
        while width < tokens:
            width += width // 2 if width & (width - 1) == 0 else width // 3
        return min(width, self.context)

    def add(self, tokens: int) -> CachedRow | None:
        """A place for a row of so many tokens; None if the budget has no room."""
        width = self.width_for(tokens)
        if not self._reserve(width, 1):
            return None
        row = CachedRow(width, len(self.rows[width]))
        self.rows[width].append(row)
        return row

    def grow(self, row: CachedRow, tokens: int) -> bool:
        """Give a row room for so many tokens; whether the budget allowed it."""
        if tokens <= row.width:
            return True
        wider = self.add(tokens)
        if wider is None:
            return False
        self.copy(row, wider, row.length)
        self.remove(row)
        row.width, row.slot = wider.width, wider.slot
        self.rows[row.width][row.slot] = row
        return True

    def copy(self, source: CachedRow, target: CachedRow, length: int) -> None:
        """Copy the first `length` positions of a row to another, which then has that length."""
        for layer in self.layers:
            layer.copy((source.width, source.slot), (target.width, target.slot), length)
        target.length = length

    def remove(self, row: CachedRow) -> None:
        """Free a row's place."""
        last = self.rows[row.width].pop()
        if last is not row:
            for layer in self.layers:
                layer.copy((last.width, last.slot), (row.width, row.slot), last.length)
            last.slot = row.slot
            self.rows[row.width][last.slot] = last
        if not self.rows[row.width]:
            self._resize(row.width, 0)

    def reserve(self, tokens: Iterable[int]) -> None:
        """Prepare for rows of so many tokens each, where the budget allows it: a slab grows once for all of them."""
        for width, count in Counter(map(self.width_for, tokens)).items():
            self._reserve(width, count)

    def _reserve(self, width: int, count: int) -> bool:
        """Make room for `count` further rows in a slab, if the budget allows it."""
        wanted = len(self.rows.setdefault(width, [])) + count
        slots = self.slots.setdefault(width, 0)
        if wanted <= slots:
            return True
        if self.allocated + (wanted - slots) * width > self.budget:
            self._trim()
            slots = self.slots[width]
        spare = (self.budget - self.allocated) // width
        if wanted > slots + spare:
            return False
        self._resize(width, min(int(HEADROOM * wanted) + 1, slots + spare))
        return True

    def _trim(self) -> None:
        """Free all slots without a row."""
        for width, rows in self.rows.items():
            if self.slots[width] > len(rows):
                self._resize(width, len(rows))

    def _resize(self, width: int, slots: int) -> None:
        self.slots[width] = slots
        for layer in self.layers:
            layer.resize(width, min(slots, len(self.rows[width])))

    def begin_step(self, new: dict[CachedRow, int], device: torch.device) -> dict[CachedRow, list[int]]:
        """Lay out a step in which each row has `new` further tokens (at least 1). Returns the index of each of them
        among the step's tokens."""
        slabs, segments, index, first = [], [], {}, 0
        for width in sorted(self.rows):
            if rows := self.rows[width]:
                slabs.append(self._slab_step(width, rows, new, first, device))
                index.update({row: [first + row.slot] for row in rows})
                first += len(rows)
        alike: dict[tuple[int, int, int], list[CachedRow]] = {}
        for row, count in new.items():
            if count > 1:
                alike.setdefault((row.width, count - 1, row.length), []).append(row)
        for (_, count, _), rows in alike.items():
            segments.append(self._segment(rows, count, first, device))
            for row in rows:
                index[row] = [*range(first, first + count), *index[row]]
                first += count
        step = RaggedStep(slabs, segments)
        for layer in self.layers:
            layer.step = step
        return index

    def _slab_step(
        self,
        width: int,
        rows: Sequence[CachedRow],
        new: dict[CachedRow, int],
        first: int,
        device: torch.device,
    ) -> SlabStep:
        positions = torch.tensor([row.length + new[row] - 1 for row in rows])
        seen = torch.arange(int(positions.max()) + 1) <= positions[:, None]
        mask = seen[:, None, None, :].to(device)
        if self.additive_mask:  # else attention would make one of booleans in every layer
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
        return SlabStep(width, first, torch.arange(len(rows), device=device), positions.to(device), mask)

    @staticmethod
    def _segment(rows: Sequence[CachedRow], count: int, first: int, device: torch.device) -> Segment:
        """Of rows that have the same width and length."""
        start, slots = rows[0].length, torch.tensor([row.slot for row in rows], device=device)
        mask = None
        if start:
            mask = torch.ones(count, start + count, dtype=torch.bool, device=device).tril(start)
        return Segment(rows[0].width, slots, first, count, start, mask)

    def forward_arguments(self, device: torch.device) -> dict[str, Any]:
        """What the model is given in a step, besides tokens and positions."""
        unused = torch.ones(
            1, 1, 1, 1, dtype=torch.bool, device=device
        )  # a mask of four axes is taken as it is
        return {"attention_mask": unused, "past_key_values": self.cache, "use_cache": True}


@torch.inference_mode()
def works(model: PreTrainedModel) -> bool:
    """Whether a model's attention reads the cache: its last token has the logits that it has behind its text."""
    device = model.device
    text = torch.arange(1, 6, device=device)[None] % model.config.get_text_config().vocab_size
    cache = RaggedCache(model.config, budget=BLOCK, context=BLOCK, additive_mask=False)
    row = cache.add(5)
    assert row is not None
    try:
        for start, end in ((0, 4), (4, 5)):
            cache.begin_step({row: end - start}, device)
            order = torch.tensor(
                [[end - 1, *range(start, end - 1)]], device=device
            )  # its last token is first
            cached = model(
                input_ids=text[0, order], position_ids=order, **cache.forward_arguments(device)
            ).logits
            row.length = end
        uncached = model(input_ids=text, use_cache=False).logits[:, -1:]
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        return False  # what a model makes of keys that are no tensor
    return agrees(model, cached[:, :1], uncached)
