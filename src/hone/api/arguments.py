"""Arguments of a call -> settings: sections as dicts, dotted keys, and TRL's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hone.config.loading.overrides import Override
from hone.config.nested import split_path
from hone.errors import ConfigError

ARGUMENT = {"train_dataset": "dataset", "eval_dataset": "validation", "output_dir": "folder"}
OTHERWISE = {
    "args": "give its settings as arguments, such as learning_rate=1e-5",
    "processing_class": "policy={'tokenizer': {'name': ...}}; without it the model's own is used",
    "tokenizer": "policy={'tokenizer': {'name': ...}}; without it the model's own is used",
    "peft_config": "policy={'lora': {'enabled': True, 'dim': 16, 'alpha': 32}}",
    "callbacks": "nothing of the kind; metrics are in Result.history",
    "reward_processing_classes": "reward_funcs=[{'name': 'reward_model', 'kwargs': {...}}]",
}
"""TRL's arguments that only a Python call has, and what to write instead. `hone.config` knows TRL's settings."""


def settings_of(algorithm: str, given: Mapping[str, Any]) -> list[Override]:
    """Keyword arguments, or a mapping of settings: keys may be dotted, values sections. Raises ConfigError for TRL's
    arguments that Hone does not have, saying what to write."""
    found: list[Override] = []
    for name, value in given.items():
        if name in OTHERWISE and not (name == "tokenizer" and isinstance(value, Mapping)):
            raise ConfigError(f"{name}= is not an argument of hone.{algorithm}: write {OTHERWISE[name]}")
        found.append(Override(split_path(name), plain(value)))
    return found


def plain(value: Any) -> Any:
    """The value as YAML can hold it: paths as text, tuples as lists, numbers of NumPy as Python's. Functions stay."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not callable(value) and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def named(model: Any, argument: str) -> str | None:
    """A model's name or folder. Raises ConfigError for a model in memory."""
    if model is None or isinstance(model, str | Path):
        return None if model is None else str(model)
    raise ConfigError(
        f"{argument} is a {type(model).__name__}: give a Hugging Face name or a folder. To write a model that is in "
        "memory: model.save_pretrained(FOLDER) and tokenizer.save_pretrained(FOLDER)"
    )


def arguments_of(settings: dict[str, Any], **own: Any) -> dict[str, Any]:
    """The call's own arguments; those under TRL's names are taken out of `settings`. Raises ConfigError for one that is
    given under both names."""
    for theirs, ours in ARGUMENT.items():
        if theirs not in settings:
            continue
        value = settings.pop(theirs)
        if own.get(ours) is not None:
            raise ConfigError(f"{theirs}= and {ours}= are the same argument: give one")
        own[ours] = value
    return own
