"""What a user gave: layers of settings, each in the spelling it was written in; and how values are shown."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from hone.config.alias import Spelling
from hone.config.nested import ENTRY_LISTS, MISSING, Path, get, put, split_path


@dataclass(frozen=True)
class Layer:
    """One file of the `defaults:` chain, or the command line: the leaves it sets."""

    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Given:
    """One of our keys as a user gave it."""

    layer: int
    path: Path
    spelling: Spelling | None = None


def with_aliases(tree: dict[str, Any], spellings: dict[str, Spelling]) -> dict[str, Any]:
    """The tree, with each unwritten spelling referring to our key, for interpolations that name it."""
    tree = copy.deepcopy(tree)
    for spelling in spellings.values():
        path = split_path(spelling.path)
        plain = spelling.value is None and spelling.compute is None and path[:2] not in ENTRY_LISTS
        if plain and _is_free(tree, path) and get(tree, split_path(spelling.to[0])) is not MISSING:
            put(tree, path, f"${{{spelling.to[0]}}}")
    return tree


def _is_free(tree: dict[str, Any], path: Path) -> bool:
    above = [get(tree, path[:length]) for length in range(1, len(path))]
    return get(tree, path) is MISSING and all(node is MISSING or isinstance(node, dict) for node in above)


def same(value: Any, other: Any) -> bool:
    """Equal, and not merely as 1 and True are."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def shown(value: Any) -> str:
    """A value as YAML would have it, shortened."""
    text = (
        {True: "true", False: "false", None: "null"}.get(value)
        if isinstance(value, bool | None)
        else str(value)
    )
    assert text is not None
    return text if len(text) <= 80 else f"{text[:77]}…"
