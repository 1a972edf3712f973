"""A length that nobody gave follows the model's context, where the model's config.json is on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from hone.config.dependent_defaults.settings import Adjustment, Settings
from hone.config.schema import EvalConfig


def context(s: Settings) -> Iterator[Adjustment]:
    """GPT-2 has 1024 positions: a default of 2048 is not held against who names it."""
    if isinstance(s.config, EvalConfig):
        model, longest, changed = "generation.model_name", "generation.max_model_len", {}
    else:
        model, longest = "policy.model_name", "policy.max_total_sequence_length"
        changed = s["policy.hf_config_overrides"]
    if not s.given(model):
        return
    limit = changed.get("max_position_embeddings") or positions(s[model])
    if isinstance(limit, int) and 2 <= limit < s[longest]:
        yield Adjustment(longest, limit, model)


def positions(name: str) -> int | None:
    """Positions that a model was made for: of a folder, or of the hub's cache; None where its config says nothing."""
    for folder in (Path(name).expanduser(), *_cached(name)):
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        text = config.get("text_config", config) if isinstance(config, dict) else {}
        found = (
            text.get("max_position_embeddings", text.get("n_positions")) if isinstance(text, dict) else None
        )
        return found if isinstance(found, int) else None
    return None


def _cached(name: str) -> list[Path]:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    try:
        return sorted((hub / f"models--{name.replace('/', '--')}" / "snapshots").iterdir())
    except (OSError, ValueError):
        return []
