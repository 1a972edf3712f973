"""Rows through the `datasets` library: datasets of the Hugging Face hub, and folders written by `save_to_disk`.

This is a separate module because importing `datasets` takes a second or more.
"""

from __future__ import annotations

from typing import Any

import datasets
import datasets.exceptions

from hone.data import arrow_tables
from hone.data.rows import ColumnRows, Row, Rows
from hone.data.splits import choose_split, key_of
from hone.errors import DataError

_SHORT_NAMES: dict[str, tuple[str, str | None, str | None]] = {
    "openmathinstruct-2": ("nvidia/OpenMathInstruct-2", None, "train_1M"),
    "openmathinstruct2": ("nvidia/OpenMathInstruct-2", None, "train_1M"),
    "deepscaler": ("agentica-org/DeepScaleR-Preview-Dataset", None, "train"),
    "dapomath17k": ("BytedTsinghua-SIA/DAPO-Math-17k", None, "train"),
    "dapomathaime2024": ("BytedTsinghua-SIA/AIME-2024", None, "train"),
    "aime2024": ("HuggingFaceH4/aime_2024", None, "train"),
    "math500": ("HuggingFaceH4/MATH-500", None, "test"),
    "gsm8k": ("openai/gsm8k", "main", None),
    "helpsteer3": ("nvidia/HelpSteer3", "preference", None),
    "tulu3preference": ("allenai/llama-3.1-tulu-3-8b-preference-mixture", None, "train"),
    "squad": ("rajpurkar/squad", None, None),
    "tulu3_sft_mixture": ("allenai/tulu-3-sft-mixture", None, "train"),
}
"""NeMo RL's names of datasets, in lower case: hub name, subset, and the split used if the entry has none."""


def load(name: str, subset: str | None, split: str | None, role: str) -> Rows:
    """A dataset by its hub name, or by NeMo RL's name for it. Raises DataError if it cannot be loaded."""
    if named := _SHORT_NAMES.get(name.lower()):
        name, subset, split = named[0], subset or named[1], split or named[2]
    try:
        loaded = datasets.load_dataset(name, subset, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"{key_of(role)}: '{name}' is neither a local file or folder nor a dataset on the Hugging Face hub "
            f"(private ones need `hf auth login`). {arrow_tables.first_line(error)}"
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"{key_of(role)}.dataset_name={name}: there is no such local file or folder, the Hugging Face hub cannot "
            "be reached, and no dataset of that name was downloaded before. A local file needs no network"
        ) from error
    except OSError as error:
        raise DataError(
            f"{key_of(role)}: dataset '{name}' could not be loaded: {arrow_tables.first_line(error)}"
        ) from error
    except (ValueError, datasets.exceptions.DatasetsError) as error:  # unknown split or subset, broken files
        raise DataError(f"{key_of(role)}: dataset '{name}' could not be loaded: {error}") from error
    return _rows(loaded, name, split, role)


def load_saved(path: str, split: str | None, role: str) -> Rows:
    """The rows of a folder written by `datasets.save_to_disk`. Raises DataError."""
    try:
        loaded = datasets.load_from_disk(path)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{key_of(role)}: the saved dataset {path} could not be loaded: {error}") from error
    return _rows(loaded, path, split, role)


def _rows(loaded: Any, path: str, split: str | None, role: str) -> Rows:
    if isinstance(loaded, dict):
        split = choose_split(path, list(loaded), split, role)
        loaded = loaded[split]

    def read(start: int, stop: int) -> list[Row]:
        columns = loaded[start:stop]
        return [{c: columns[c][i] for c in columns} for i in range(stop - start)]

    return ColumnRows(arrow_tables.filled(read), len(loaded), f"{path} ({split})" if split else path)
