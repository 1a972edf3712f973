"""Tiles of a matrix of logits [rows, columns of the vocabulary], and the memory that they reuse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A block of rows and columns, and the targets in it: (row, column) from the tile's corner, and the index among the
    row's targets."""

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
        """A view of the beginning of `space` in the tile's shape."""
        return space[: self.size].view(self.rows.stop - self.rows.start, -1)


def cut(targets: Tensor, width: int, rows: int, elements: int, shard: int | None) -> list[list[Tile]]:
    """Tiles of [targets, width] with at most `rows` rows and about `elements` logits, grouped by columns.

    `targets` [N, K] are rows of the whole head, of which this is the part from row `shard` on; None: all of it, and a
    target outside raises IndexError. Synchronises with the device once for each block of rows.
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
    """Split [0, total) into the fewest parts of at most `most`, of about equal size."""
    parts = -(-total // most)
    for part in range(parts):
        yield slice(total * part // parts, total * (part + 1) // parts)


def spaces(hidden: Tensor, tiles: list[list[Tile]]) -> tuple[Tensor, Tensor]:
    """Memory for a tile's logits in the precision of the products, and for their exponentials in fp32; the same
    memory if both are fp32. Reused, since allocation would cost more than the computation."""
    most = max((tile.size for strip in tiles for tile in strip), default=0)
    logits = hidden.new_empty(most)
    return logits, logits if hidden.dtype == torch.float32 else hidden.new_empty(most, dtype=torch.float32)
