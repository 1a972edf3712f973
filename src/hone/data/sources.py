"""Load the rows of a dataset entry of the configuration: embedded data, files, Hugging Face datasets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hone.data import custom_datasets, files
from hone.data.rows import ListRows, Rows
from hone.data.splits import choose_split, key_of, select_range
from hone.errors import DataError
from hone.user_code import is_code

_HUB_NAME = re.compile(r"[\w.\-]+(/[\w.\-]+)?")


def load_rows(entry: Any, *, role: str) -> Rows:
    """The rows of one dataset entry (`dataset_name`, `subset`, `split`, `limit`).

    `role` is "train", "validation" or "test": it chooses the split if the entry names none, and the section that
    messages name. `dataset_name` may be user code (`hone.data.custom_datasets`), a path of files (`hone.data.files`) or
    of a `datasets.save_to_disk` folder, an embedded dataset, or a name on the Hugging Face hub. `split` may have a
    range, as in `train[:1000]` or `train[90%:]`; a single file is one split, whatever its name.

    Raises DataError: no such data (naming the most similar), an unknown split (listing the existing ones), a hub that
    does not answer, no rows.
    """
    if is_code(entry.dataset_name):
        kwargs = getattr(entry, "kwargs", {})
        rows = custom_datasets.load(
            entry.dataset_name, kwargs, entry.split or role, entry.limit, key_of(role)
        )
    else:
        rows = _load(entry.dataset_name, entry.subset, entry.split, entry.limit, role)
    if entry.limit is not None and len(rows) > entry.limit:
        rows = rows[: entry.limit]
    if not len(rows):
        raise DataError(f"{key_of(role)}: {rows.name} has no rows")
    return rows


def _load(path: str, subset: str | None, split: str | None, limit: int | None, role: str) -> Rows:
    from hone.embedded import DATASETS, dataset_rows

    if path in DATASETS:
        return ListRows(dataset_rows(path, split or role, limit), f"{path} ({split or role})")
    local = Path(path).expanduser()
    if files.is_remote(path) or local.exists():
        return _from_files(path if files.is_remote(path) else str(local), subset, split, role)
    if files.data_suffix(path) or not _HUB_NAME.fullmatch(path):
        raise files.missing_file(path)
    from hone.data import hub

    return hub.load(path, subset, split, role)


def _from_files(path: str, subset: str | None, split: str | None, role: str) -> Rows:
    if files.data_suffix(path):
        rows = files.read_file(path)
        return select_range(rows, split) if split and "[" in split else rows
    path = f"{path.rstrip('/')}/{subset}" if subset else path
    if not files.is_remote(path):
        if not Path(path).exists():
            raise files.missing_file(path)
        if Path(path).is_file():
            return files.read_file(path)  # raises the error that lists the known formats
        if any((Path(path) / f).exists() for f in ("dataset_dict.json", "state.json")):
            from hone.data import hub

            saved = hub.load_saved(path, split, role)
            return select_range(saved, split) if split else saved
    found = files.list_folder(path)
    if not found:
        raise DataError(
            f"the folder {path} has no data files ({', '.join(files.SUFFIXES)}, also with .gz)"
            if not files.is_remote(path)
            else f"there is no data file at {path}"
        )
    splits = files.files_by_split(path, found)
    name = choose_split(path, sorted(splits), split, role)
    rows = files.read_files(splits[name], f"{path} ({name})")
    return select_range(rows, split) if split else rows
