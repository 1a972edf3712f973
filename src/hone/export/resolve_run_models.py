"""A run's folder given as a model's name: its newest checkpoint, converted once. This chains stages of training."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from hone.checkpoint.manifest import MANIFEST, verify
from hone.config import Loaded
from hone.errors import CheckpointError
from hone.export.convert import FIX, convert, locate

PARTS = ("policy", "teacher", "value", "generation")
"""Sections that name a model."""
READ_BY_A_PLAN = 64 << 20
"""A plan verifies the checksums of files of at most so many bytes, and the sizes of larger ones."""


def with_models_of_runs(loaded: Loaded[Any], *, only_described: bool = False) -> Loaded[Any]:
    """The configuration, with every model that is named by a run's folder (or one of its steps) replaced by a folder
    that `transformers` loads: `model_of`. `only_described`: by the checkpoint's folders of the model's config and of
    its tokenizer, which have no weights; nothing is written. Raises CheckpointError."""
    config = loaded.config.model_copy(deep=True)
    notices: list[str] = []
    for part in PARTS:
        section = getattr(config, part, None)
        if section is None:
            continue
        trusted = bool(getattr(section, "trust_remote_code", False))
        if (found := _resolved(section, "model_name", "model", only_described, trusted)) is not None:
            name = getattr(loaded.config, part).model_name
            notices.append(f"{part}.model_name={name} is a run: its model is {found}")
        if (tokenizer := getattr(section, "tokenizer", None)) is not None:
            _resolved(tokenizer, "name", "tokenizer", only_described, trusted)
    if (tokenizer := getattr(config, "tokenizer", None)) is not None:
        _resolved(tokenizer, "name", "tokenizer", only_described, config.generation.trust_remote_code)
    notices += [] if only_described else _reward_models(config)
    return replace(loaded, config=config, notices=[*loaded.notices, *notices]) if notices else loaded


def _reward_models(config: Any) -> list[str]:
    """Replace reward models that are runs by folders of their models, in place; returns notices."""
    notices = []
    rewards = getattr(config, "rewards", None)
    for entry in rewards.functions if rewards is not None else ():
        model = entry.kwargs.get("model") if (entry.path or entry.name) == "reward_model" else None
        if not isinstance(model, str) or (step := step_of(model)) is None:
            continue
        trusted = bool(entry.kwargs.get("trust_remote_code", False))
        entry.kwargs["model"] = str(model_of(step, trust_remote_code=trusted))
        notices.append(f"reward model {model} is a run: its model is {entry.kwargs['model']}")
    return notices


def _resolved(
    section: Any, key: str, folder: str, only_described: bool, trust_remote_code: bool
) -> Path | None:
    """Replace a run's name by a folder of its model, and return that; None for a name that is not a run's."""
    name = getattr(section, key)
    step = step_of(name) if isinstance(name, str) else None
    if step is None:
        return None
    if only_described:
        verify(step, fix=FIX, largest=READ_BY_A_PLAN)
        found = step / "policy" / folder
    else:
        found = model_of(step, trust_remote_code=trust_remote_code)
    setattr(section, key, str(found))
    return found


def step_of(name: str) -> Path | None:
    """The newest step of a run's folder, or the step folder itself; None for another name. Raises CheckpointError for a
    run without checkpoints."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file() or not (folder / "config.yaml").is_file():
        return None
    return locate(folder)[0].parent


def model_of(step: Path, *, trust_remote_code: bool = False) -> Path:
    """The model of a step: `RUN/hf/step_N-HASH`, converted if it is not there.

    The hash is that of the checkpoint's manifest: when a run is repeated, its model has another name, and runs that
    began with the first model notice it.
    """
    try:
        digest = zlib.crc32((step / MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{step} has no {MANIFEST}: it is not a whole checkpoint") from error
    out = step.parent / "hf" / f"{step.name}-{digest:08x}"
    if (out / "config.json").is_file():
        return out
    out.parent.mkdir(exist_ok=True)
    print(f"converting {step} into {out}", flush=True)
    try:
        weights = step / "policy" / "weights"
        return convert(step / "config.yaml", weights, out, trust_remote_code=trust_remote_code)
    except CheckpointError:
        if (out / "config.json").is_file():  # another command converted it meanwhile
            return out
        raise
