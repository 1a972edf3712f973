"""The embedded default: a tiny model, its tokenizer, a generated task and recipes, all inside the package.

`hone/tiny` has no weights (callers initialise at random), `hone/tiny-sft` has those that SFT left half-good,
`hone/word-problems` is the task (see `task`), and `hone/word-problem-preferences` compares answers to it (see
`comparisons`). No torch is imported here. `scripts/build_embedded.py` in the repository rebuilds every file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hone.embedded import comparisons, task
from hone.errors import ConfigError, DataError, ModelError

_HERE = Path(__file__).resolve().parent
MODELS = {"hone/tiny": _HERE / "tiny", "hone/tiny-sft": _HERE / "tiny-sft"}
"""Folder of each embedded model, with config.json and tokenizer files; hone/tiny has no weights."""
DATASETS = {"hone/word-problems": task.rows, comparisons.NAME: comparisons.rows}
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
