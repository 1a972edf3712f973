"""The embedded models, datasets and recipes by name, and the paths of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hone.embedded import preference_pairs, task
from hone.errors import DataError

_HERE = Path(__file__).resolve().parent
MODELS = {"hone/tiny": _HERE / "tiny", "hone/tiny-sft": _HERE / "tiny-sft"}
"""The folder of each embedded model, with config.json and tokenizer files; hone/tiny has no weights."""
DATASETS = {"hone/word-problems": task.rows, preference_pairs.NAME: preference_pairs.rows}
RECIPES = {path.stem: path for path in sorted((_HERE / "recipes").glob("*.yaml"))}
"""The YAML file of settings for the tiny model, by command."""


def dataset_rows(name: str, split: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of an embedded dataset's split (None: all). Raises DataError for another name or split."""
    if name not in DATASETS:
        raise DataError(
            f"There is no embedded dataset '{name}'; the names are {', '.join(sorted(DATASETS))}."
        )
    return DATASETS[name](split, limit)
