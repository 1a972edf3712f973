"""Splits: choosing one by an entry's `split`, ranges of a split, and rows set aside for validation."""

from __future__ import annotations

import re

from hone.data.mixture import permutation
from hone.data.rows import Rows
from hone.errors import DataError

_SPLIT = re.compile(r"([\w.\-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")
_PREFERRED = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "test"),
    "test": ("test", "validation", "train"),
}
_HOLDOUT_STREAM = 0x5B117
"""The random stream of the train/validation division, which is independent of the shuffling of epochs."""


def key_of(role: str) -> str:
    """The section of the configuration for a role: "train", "validation" or "test"."""
    return "data" if role == "test" else f"data.{role}"


def choose_split(path: str, available: list[str], wanted: str | None, role: str) -> str:
    """The name of the split to use: the one in `wanted`, else the only one, else the first that `role` prefers.

    Raises DataError listing the existing splits.
    """
    if wanted is not None:
        name = _parse(wanted)[0]
        if name in available:
            return name
        raise DataError(
            f"{key_of(role)}: {path} has no split '{name}'; it has {', '.join(available)}. "
            f"Set {key_of(role)}.split to one of these"
        )
    if len(available) == 1:
        return available[0]
    for name in _PREFERRED.get(role, ()):
        if name in available:
            return name
    raise DataError(
        f"{key_of(role)}: {path} has the splits {', '.join(available)}; choose one: {key_of(role)}.split=…"
    )


def select_range(rows: Rows, split: str) -> Rows:
    """The rows in the range of a split such as train[10%:500]. Raises DataError for an invalid range."""
    _, start, stop = _parse(split)
    return rows if start is None and stop is None else rows[_at(start, len(rows)) : _at(stop, len(rows))]


def holdout(length: int, size: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide rows into (training, validation) indices, each in the order of the file; at least one row is held out.

    `size` is a share of the rows. Raises DataError if no row would be left to train on.
    """
    held = max(1, round(length * size))
    if held >= length:
        raise DataError(
            f"split_validation_size={size} sets {held} of {length} rows aside and leaves none to train on"
        )
    order = permutation(length, seed, _HOLDOUT_STREAM).tolist()
    return sorted(order[held:]), sorted(order[:held])


def _parse(split: str) -> tuple[str, str | None, str | None]:
    match = _SPLIT.fullmatch(split.strip())
    if not match:
        raise DataError(
            f"split '{split}' is invalid; write a name or a range: train, train[:1000], train[90%:]"
        )
    return match[1], match[2], match[3]


def _at(mark: str | None, length: int) -> int | None:
    if mark is None:
        return None
    return round(length * int(mark[:-1]) / 100) if mark.endswith("%") else int(mark)
