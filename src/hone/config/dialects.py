"""All accepted names: Hone's own short names, and those of every package that `hone.config.compat` has."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from hone.config import compat, short_names
from hone.config.alias import Alias, KeyRule


@functools.cache
def _dialects() -> tuple[Any, ...]:
    """The packages of `hone.config.compat`, whichever there are."""
    names = sorted(package.name for package in pkgutil.iter_modules(compat.__path__))
    return tuple(importlib.import_module(f"{compat.__name__}.{name}") for name in names)


@functools.cache
def aliases(algorithm: str) -> Mapping[str, Alias]:
    """All aliases that a configuration of this command may use, by path."""
    return {
        alias.path: alias for dialect in (short_names, *_dialects()) for alias in dialect.aliases(algorithm)
    }


@functools.cache
def rules(algorithm: str) -> tuple[KeyRule, ...]:
    """All rules for keys that Hone does not have, in order."""
    return tuple(rule for dialect in _dialects() for rule in dialect.rules(algorithm))


def short(algorithm: str) -> list[Alias]:
    """The aliases that stand at the top level of a configuration, such as `lr`."""
    return [alias for alias in aliases(algorithm).values() if "." not in alias.path]


@functools.cache
def replacements() -> Mapping[str, str]:
    """Names that Hone does not accept, and what to write in their place."""
    return {
        name: text for dialect in (short_names, *_dialects()) for name, text in dialect.REPLACEMENTS.items()
    }


@functools.cache
def reward_environments() -> Mapping[str, str]:
    """Values of `env_name` that are no environment: other projects' names for scoring with a built-in reward
    function."""
    return {
        name: function
        for dialect in _dialects()
        for name, function in getattr(dialect, "REWARD_ENVIRONMENTS", {}).items()
    }
