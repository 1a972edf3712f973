"""A matrix of logits [rows, columns of the vocabulary] cut into tiles, and the memory that tiles take turns in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Some rows by some columns, and which of them are targets: (rows, columns) counted from the tile's corner, and
    which of its row's targets each is."""

    rows: slice
    columns: slice
    target_rows: Tensor
    target_columns: Tensor
    target_slots: Tensor

    @property
    def size(self) -> int:
        """Its number of logits."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def shaped(self, space: Tensor) -> Tensor:
        """As much of `space` as it takes, in its shape."""
        return space[: self.size].view(self.rows.stop - self.rows.start, -1)


def cut(targets: Tensor, width: int, rows: int, elements: int, shard: int | None) -> list[list[Tile]]:
    """Tiles of [targets, width], of at most `rows` rows and about `elements` logits. Those of the same columns come
    together.

    `targets` [N, K] count over a head of which this is the part from row `shard` on; None: all of it, and a target
    outside raises IndexError. Asks the device for numbers once a block of rows.
    """
    blocks = list(even(len(targets), rows))
    tallest = max((block.stop - block.start for block in blocks), default=1)
    strips = list(even(width, max(1, elements // tallest)))
    tiles: list[list[Tile]] = [[] for _ in strips]
    borders = torch.tensor([0, *(columns.stop for columns in strips)], device=targets.device)
    for block in blocks:
        ordered, order = (targets[block] - (shard or 0)).flatten().sort()
        ends = torch.searchsorted(ordered, borders).tolist()
        if shard is None and (ends[0], ends[-1]) != (0, len(ordered)):
            raise IndexError(f"targets {int(ordered[0])} to {int(ordered[-1])} of a head with {width} rows")
        row, slot = order // targets.shape[1], order % targets.shape[1]
        for of_strip, columns, begin, end in zip(tiles, strips, ends, ends[1:], strict=False):
            here = slice(begin, end)
            of_strip.append(Tile(block, columns, row[here], ordered[here] - columns.start, slot[here]))
    return tiles if blocks else []


def even(total: int, most: int) -> Iterator[slice]:
    """[0, total) in the fewest parts of at most `most`, all of about one size."""
    parts = -(-total // most)
    for part in range(parts):
        yield slice(total * part // parts, total * (part + 1) // parts)


def spaces(hidden: Tensor, tiles: list[list[Tile]]) -> tuple[Tensor, Tensor]:
    """Memory for the logits of a tile in the precision of the products, and for their exponentials in fp32.

    It is used again and again (fresh memory would cost more than what is computed in it), and shared in fp32.
    """
    most = max((tile.size for strip in tiles for tile in strip), default=0)
    logits = hidden.new_empty(most)
    return logits, logits if hidden.dtype == torch.float32 else hidden.new_empty(most, dtype=torch.float32)
