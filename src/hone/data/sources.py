"""From a dataset entry of the configuration to rows: embedded data, files, Hugging Face datasets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hone.data import custom_datasets, files
from hone.data.mixture import permutation
from hone.data.rows import ListRows, Rows
from hone.errors import DataError
from hone.user_code import is_code

_SPLIT = re.compile(r"([\w.\-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")
_HUB_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)?")
_PREFERRED = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "test"),
    "test": ("test", "validation", "train"),
}
_SPLIT_STREAM = 0x5B117
"""Keeps the train/validation division apart from the shuffling of epochs under the same seed."""


def load_rows(entry: Any, *, kind: str) -> Rows:
    """The rows of one dataset entry (`dataset_name`, `subset`, `split`, `limit`).

    `kind` is "train", "validation" or "test": it chooses the split where the entry names none, and messages
    its section. Code of the user's own is asked for its rows (`hone.data.custom_datasets`). A path goes to files
    (`hone.data.files`) or to a `datasets.save_to_disk` folder; anything else is an embedded dataset or a name on the
    Hugging Face hub. `split` may have a range, as in `train[:1000]` or `train[90%:]`; a single file is one split,
    whatever its name.

    Raises DataError: nothing there (naming the nearest thing that is), an unknown split (listing those
    there are), a hub that does not answer, no rows.
    """
    if is_code(entry.dataset_name):
        kwargs = getattr(entry, "kwargs", {})
        rows = custom_datasets.load(
            entry.dataset_name, kwargs, entry.split or kind, entry.limit, key_of(kind)
        )
    else:
        rows = _load(entry.dataset_name, entry.subset, entry.split, entry.limit, kind)
    if entry.limit is not None and len(rows) > entry.limit:
        rows = rows[: entry.limit]
    if not len(rows):
        raise DataError(f"{key_of(kind)}: {rows.name} has no rows")
    return rows


def holdout(length: int, size: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide rows into (training, validation) indices, each in file order; at least one is held out.

    `size` is a share of the rows. Raises DataError when nothing would be left to train on.
    """
    held = max(1, round(length * size))
    if held >= length:
        raise DataError(
            f"split_validation_size={size} sets {held} of {length} rows aside and leaves none to train on"
        )
    order = permutation(length, seed, _SPLIT_STREAM).tolist()
    return sorted(order[held:]), sorted(order[:held])


def key_of(kind: str) -> str:
    """The section of the configuration that messages name."""
    return "data" if kind == "test" else f"data.{kind}"


def _load(path: str, subset: str | None, split: str | None, limit: int | None, kind: str) -> Rows:
    from hone.embedded import dataset_rows, is_embedded_dataset

    if is_embedded_dataset(path):
        return ListRows(dataset_rows(path, split or kind, limit), f"{path} ({split or kind})")
    local = Path(path).expanduser()
    if files.is_remote(path) or local.exists():
        return _from_files(path if files.is_remote(path) else str(local), subset, split, kind)
    if files.data_suffix(path) or not _HUB_NAME.fullmatch(path):
        raise files.missing_file(path)
    from hone.data import hub

    return hub.load(path, subset, split, kind)


def _from_files(path: str, subset: str | None, split: str | None, kind: str) -> Rows:
    if files.data_suffix(path):
        rows = files.read_file(path)
        return _cut(rows, split) if split and "[" in split else rows
    path = f"{path.rstrip('/')}/{subset}" if subset else path
    if not files.is_remote(path):
        if not Path(path).exists():
            raise files.missing_file(path)
        if Path(path).is_file():
            return files.read_file(path)  # says which formats are known
        if any((Path(path) / f).exists() for f in ("dataset_dict.json", "state.json")):
            from hone.data import hub

            saved = hub.load_saved(path, split, kind)
            return _cut(saved, split) if split else saved
    found = files.list_folder(path)
    if not found:
        raise DataError(
            f"the folder {path} has no data files ({', '.join(files.SUFFIXES)}, also with .gz)"
            if not files.is_remote(path)
            else f"there is no data file at {path}"
        )
    splits = files.files_by_split(path, found)
    name = choose_split(path, sorted(splits), split, kind)
    rows = files.read_files(splits[name], f"{path} ({name})")
    return _cut(rows, split) if split else rows


def choose_split(path: str, available: list[str], wanted: str | None, kind: str) -> str:
    """The name of the split to use. Raises DataError that lists those there are."""
    if wanted is not None:
        name = _parse_split(wanted)[0]
        if name in available:
            return name
        raise DataError(
            f"{key_of(kind)}: {path} has no split '{name}'; it has {', '.join(available)}. "
            f"Set {key_of(kind)}.split to one of these"
        )
    if len(available) == 1:
        return available[0]
    for name in _PREFERRED.get(kind, ()):
        if name in available:
            return name
    raise DataError(
        f"{key_of(kind)}: {path} has the splits {', '.join(available)}; choose one: {key_of(kind)}.split=…"
    )


def _parse_split(split: str) -> tuple[str, str | None, str | None]:
    match = _SPLIT.fullmatch(split.strip())
    if not match:
        raise DataError(
            f"split '{split}' is not understood; write a name or a range: train, train[:1000], train[90%:]"
        )
    return match[1], match[2], match[3]


def _cut(rows: Rows, split: str) -> Rows:
    """Apply the range of a split such as train[10%:500]."""

    def at(mark: str | None) -> int | None:
        if mark is None:
            return None
        return round(len(rows) * int(mark[:-1]) / 100) if mark.endswith("%") else int(mark)

    _, start, stop = _parse_split(split)
    return rows if start is None and stop is None else rows[at(start) : at(stop)]
