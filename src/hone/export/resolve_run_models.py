"""A run where a model is asked for: its newest checkpoint, converted once. So that stages of training chain."""

from __future__ import annotations

import zlib
from collections.abc import Callable
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
"""Bytes of the largest file of a checkpoint whose content a plan looks at; of larger ones it looks at the size."""


def with_models_of_runs(loaded: Loaded[Any], *, only_described: bool = False) -> Loaded[Any]:
    """The configuration, with every model that is named by a run's folder (or one of its steps) as a folder that
    `transformers` loads: `model_of_run`. `only_described`: as the folders that the checkpoint has of the model's config
    and of its tokenizer, where no weight will be read, so that nothing is written. Raises CheckpointError."""
    config = loaded.config.model_copy(deep=True)
    notices: list[str] = []
    for part in PARTS:
        section = getattr(config, part, None)
        if section is None:
            continue
        trusted = bool(getattr(section, "trust_remote_code", False))
        if (found := _renamed(section, "model_name", "model", only_described, trusted)) is not None:
            name = getattr(loaded.config, part).model_name
            notices.append(f"{part}.model_name={name} is a run: its model is {found}")
        if (tokenizer := getattr(section, "tokenizer", None)) is not None:
            _renamed(tokenizer, "name", "tokenizer", only_described, trusted)
    if (tokenizer := getattr(config, "tokenizer", None)) is not None:
        _renamed(tokenizer, "name", "tokenizer", only_described, config.generation.trust_remote_code)
    notices += [] if only_described else _reward_models(config)
    return replace(loaded, config=config, notices=[*loaded.notices, *notices]) if notices else loaded


def _reward_models(config: Any) -> list[str]:
    """Name reward models that are runs by folders of their models, in place. Returns what to tell of that."""
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


def _renamed(holder: Any, key: str, kind: str, only_described: bool, trust_remote_code: bool) -> Path | None:
    """Set a name of a run to a folder of its model, and return that; None where it names no run."""
    name = getattr(holder, key)
    step = step_of(name) if isinstance(name, str) else None
    if step is None:
        return None
    if only_described:
        verify(step, fix=FIX, largest=READ_BY_A_PLAN)
        found = step / "policy" / kind
    else:
        found = model_of(step, trust_remote_code=trust_remote_code)
    setattr(holder, key, str(found))
    return found


def step_of(name: str) -> Path | None:
    """The newest step of a run's folder, or the step that is named; None for what is neither. Raises CheckpointError
    for a run that has none."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file() or not (folder / "config.yaml").is_file():
        return None
    return locate(folder)[0].parent


def model_of(
    step: Path,
    *,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> Path:
    """The model of a step: `RUN/hf/step_N-HASH`, converted if it is not there.

    The hash is that of the checkpoint's manifest, so the name is that of these weights: a run that has been done again
    has another one, and a run that began with the first notices it.
    """
    try:
        mark = zlib.crc32((step / MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{step} has no {MANIFEST}: it is not a whole checkpoint") from error
    out = step.parent / "hf" / f"{step.name}-{mark:08x}"
    if (out / "config.json").is_file():
        return out
    out.parent.mkdir(exist_ok=True)
    say(f"converting {step} into {out}")
    try:
        return convert(
            step / "config.yaml", step / "policy" / "weights", out, trust_remote_code=trust_remote_code
        )
    except CheckpointError:
        if (out / "config.json").is_file():  # another command converted it meanwhile
            return out
        raise
