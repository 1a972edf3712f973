"""Infer the command that a configuration is for, before it is loaded."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from hone.config.loading.files import chain
from hone.errors import ConfigError
from hone.registry import specs

EVALUATION = ("eval", "generation")
"""Top-level sections that only an evaluation has."""


def infer_algorithm(config: str | None, overrides: Sequence[str]) -> str:
    """The command that a configuration is for, from its top-level sections; by default the registry's first.

    Online algorithms come first, those later in the registry before earlier ones, since their configurations may have
    sections of others. A file that cannot be read counts as empty: loading it reports the error.
    """
    names = {re.split(r"[.=\[]", text.lstrip("+~"), maxsplit=1)[0] for text in overrides}
    if config is not None:
        with contextlib.suppress(ConfigError):
            names |= {str(name) for _, tree in chain(Path(config)) for name in tree}
    found = [spec for spec in specs().values() if names & {spec.section, *spec.sections}]
    online = [spec.name for spec in reversed(found) if spec.loop == "online"]
    evaluation = ["eval"] if names & {*EVALUATION} else []
    return next(iter((*online, *evaluation, *(spec.name for spec in found))), next(iter(specs())))
