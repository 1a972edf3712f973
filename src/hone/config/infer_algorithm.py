"""Which command a configuration is for, before it is loaded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from hone.config.loading.files import chain
from hone.errors import ConfigError

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
"""Top-level sections that only one command has."""


def infer_algorithm(config: str | None, overrides: Sequence[str]) -> str:
    """The command that a configuration is for, from its top-level sections; "sft" when nothing says.

    What cannot be read counts as empty: loading it is what reports the error.
    """
    names = {re.split(r"[.=\[]", text.lstrip("+~"), maxsplit=1)[0] for text in overrides}
    if config is not None:
        with contextlib.suppress(ConfigError):
            names |= {str(name) for _, tree in chain(Path(config)) for name in tree}
    found = {SECTIONS[name] for name in names if name in SECTIONS}
    return next(
        (name for name in ("distill", "ppo", "grpo", "eval", "dpo", "rm", "sft") if name in found), "sft"
    )
