"""Which kind of run a configuration is for, before it is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECTIONS = {
    "grpo": "grpo",
    "loss_fn": "grpo",
    "distillation": "distill",
    "teacher": "distill",
    "ppo": "ppo",
    "value": "ppo",
    "value_loss_fn": "ppo",
    "eval": "eval",
    "generation": "eval",
    "sft": "sft",
    "dpo": "dpo",
    "rm": "rm",
}
"""Top-level sections that only one kind of run has."""


def infer_kind(config: str | None, overrides: Sequence[str]) -> str:
    """The kind of run that a configuration is for, from its top-level sections; "sft" when nothing says.

    What cannot be read counts as empty: loading it is what reports the error.
    """
    names = {re.split(r"[.=\[]", text.lstrip("+~"), maxsplit=1)[0] for text in overrides}
    if config is not None:
        names |= _sections(Path(config), seen=set())
    kinds = {SECTIONS[name] for name in names if name in SECTIONS}
    return next(
        (kind for kind in ("distill", "ppo", "grpo", "eval", "dpo", "rm", "sft") if kind in kinds), "sft"
    )


def _sections(path: Path, seen: set[Path]) -> set[str]:
    """Top-level keys of a file and of the files that it inherits from."""
    import yaml

    if path.resolve() in seen:
        return set()
    seen.add(path.resolve())
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return set()
    if not isinstance(tree, dict):
        return set()
    parents = tree.get("defaults") or []
    for parent in [parents] if isinstance(parents, str) else parents:
        if isinstance(parent, str):
            tree |= dict.fromkeys(_sections(path.parent / parent, seen))
    return {str(name) for name in tree}
