"""The embedded models, datasets and recipes by name, and where their files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hone.embedded import preference_pairs, task
from hone.errors import ConfigError, DataError, ModelError

_HERE = Path(__file__).resolve().parent
MODELS = {"hone/tiny": _HERE / "tiny", "hone/tiny-sft": _HERE / "tiny-sft"}
"""Folder of each embedded model, with config.json and tokenizer files; hone/tiny has no weights."""
DATASETS = {"hone/word-problems": task.rows, preference_pairs.NAME: preference_pairs.rows}
RECIPES = {path.stem: path for path in sorted((_HERE / "recipes").glob("*.yaml"))}
"""File of settings that suit the tiny model, by command."""


def is_embedded_model(name: str) -> bool:
    """Whether the name is one of an embedded model."""
    return name in MODELS


def model_path(name: str) -> Path:
    """Folder of an embedded model. Raises ModelError for another name."""
    if name not in MODELS:
        raise ModelError(f"There is no embedded model '{name}'; there are {', '.join(MODELS)}.")
    return MODELS[name]


def is_embedded_dataset(name: str) -> bool:
    """Whether the name is one of an embedded dataset."""
    return name in DATASETS


def dataset_rows(name: str, split: str, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows of an embedded dataset's split. Raises DataError for another name or split."""
    if name not in DATASETS:
        raise DataError(f"There is no embedded dataset '{name}'; there are {', '.join(sorted(DATASETS))}.")
    return DATASETS[name](split, limit)


def recipe(name: str) -> Path:
    """YAML file of the settings that suit the tiny model, by command. Raises ConfigError."""
    if name not in RECIPES:
        raise ConfigError(f"There is no embedded recipe '{name}'; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
