"""A run where a model is asked for: its newest checkpoint, converted once. So that stages of training chain."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from hone.config import Loaded
from hone.errors import CheckpointError
from hone.export.convert import convert, locate

NAMES = ("model_name", "name")
"""Settings that name a model or its tokenizer."""


def with_models_of_runs(loaded: Loaded[Any]) -> Loaded[Any]:
    """The configuration, with every model that is named by a run's folder (or one of its steps) as a folder that
    `transformers` loads: `RUN/hf/step_N`, written if it is not there. Raises CheckpointError."""
    config = loaded.config.model_copy(deep=True)
    said: list[str] = []
    for part in ("policy", "teacher", "value", "generation"):
        section = getattr(config, part, None)
        for holder in (section, getattr(section, "tokenizer", None), getattr(config, "tokenizer", None)):
            for key in NAMES:
                name = getattr(holder, key, None)
                if isinstance(name, str) and (found := model_of_run(name)) is not None:
                    setattr(holder, key, str(found))
                    if key == "model_name":
                        said.append(f"{part}.model_name={name} is a run: its model is {found}")
    if not said:
        return loaded
    return replace(loaded, config=config, notices=[*loaded.notices, *said])


def model_of_run(name: str) -> Path | None:
    """The converted model of a run's folder or of one of its steps; None for what is neither."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file() or not (folder / "config.yaml").is_file():
        return None
    step_config, weights = locate(folder)
    step = step_config.parent
    out = step.parent / "hf" / step.name
    if (out / "config.json").is_file():
        return out
    out.parent.mkdir(exist_ok=True)
    try:
        return convert(step_config, weights, out)
    except CheckpointError:
        with contextlib.suppress(OSError):
            if (out / "config.json").is_file():  # another command converted it meanwhile
                return out
        raise
