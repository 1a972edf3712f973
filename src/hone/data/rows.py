"""Rows of a dataset as a random-access sequence of dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, overload

Row = dict[str, Any]
_CHUNK = 1000


class Rows(Sequence[Row]):
    """A named sequence of rows. Iterating is cheaper than indexing: columnar data is read in chunks."""

    name: str
    """The name in messages: a path or a hub name, with its split."""

    def get(self, index: int) -> Row:
        raise NotImplementedError

    def location(self, index: int) -> str:
        """The name of one row in messages."""
        return f"{self.name}, row {index}"

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return Subset(self, range(len(self))[index])
        return self.get(range(len(self))[index])

    def __iter__(self) -> Iterator[Row]:
        return (self.get(i) for i in range(len(self)))


class ListRows(Rows):
    """Rows in memory; `lines` are their line numbers in the file (from 1), if it has lines."""

    def __init__(self, rows: Sequence[Row], name: str, lines: Sequence[int] | None = None) -> None:
        self.rows, self.name, self.lines = rows, name, lines

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, index: int) -> Row:
        return self.rows[index]

    def location(self, index: int) -> str:
        line = f" (line {self.lines[index]})" if self.lines is not None else ""
        return super().location(index) + line


class ColumnRows(Rows):
    """Rows of columnar data, read a slice at a time: `read(start, stop)` returns the rows of a range."""

    def __init__(self, read: Callable[[int, int], list[Row]], length: int, name: str) -> None:
        self.read, self.length, self.name = read, length, name

    def __len__(self) -> int:
        return self.length

    def get(self, index: int) -> Row:
        return self.read(index, index + 1)[0]

    def __iter__(self) -> Iterator[Row]:
        starts = range(0, self.length, _CHUNK)
        return chain.from_iterable(self.read(i, min(i + _CHUNK, self.length)) for i in starts)


class Subset(Rows):
    """Some rows of another sequence, in the order of `indices`; messages name the original row."""

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self.rows, self.indices, self.name = rows, indices, rows.name

    def __len__(self) -> int:
        return len(self.indices)

    def get(self, index: int) -> Row:
        return self.rows.get(int(self.indices[index]))

    def location(self, index: int) -> str:
        return self.rows.location(int(self.indices[index]))


class Chain(Rows):
    """Several files as one dataset."""

    def __init__(self, parts: Sequence[Rows], name: str) -> None:
        self.parts, self.name = parts, name

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    def _locate(self, index: int) -> tuple[Rows, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def get(self, index: int) -> Row:
        part, inner = self._locate(index)
        return part.get(inner)

    def location(self, index: int) -> str:
        part, inner = self._locate(index)
        return part.location(inner)

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(self.parts)
