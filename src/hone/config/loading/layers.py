"""The user's layers of settings, under the names as written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hone.config.alias import Alias
from hone.config.nested import ENTRY_LISTS, MISSING, Path, get, put, split_path


@dataclass(frozen=True)
class Layer:
    """One file of the `defaults:` chain, or the command line: the leaves it sets."""

    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class GivenKey:
    """One of our keys as the user gave it: its layer, path and alias."""

    layer: int
    path: Path
    alias: Alias | None = None


def with_aliases(tree: dict[str, Any], aliases: Mapping[str, Alias]) -> dict[str, Any]:
    """The tree with every unused alias set to a reference to our key, for interpolations that name the alias."""
    tree = copy.deepcopy(tree)
    for alias in aliases.values():
        path = split_path(alias.path)
        plain = alias.value is None and alias.compute is None and path[:2] not in ENTRY_LISTS
        if plain and _is_free(tree, path) and get(tree, split_path(alias.to[0])) is not MISSING:
            put(tree, path, f"${{{alias.to[0]}}}")
    return tree


def _is_free(tree: dict[str, Any], path: Path) -> bool:
    above = [get(tree, path[:length]) for length in range(1, len(path))]
    return get(tree, path) is MISSING and all(node is MISSING or isinstance(node, dict) for node in above)
