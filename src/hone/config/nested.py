"""Plain nested dicts and lists: paths, leaves, merging. A path is a tuple of keys and list indices."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from hone.errors import ConfigError

Path = tuple[str | int, ...]
MISSING: Any = object()
ENTRY_LISTS: tuple[Path, ...] = (("data", "train"), ("data", "validation"))
"""Lists whose entries are sections with keys of their own."""


def dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def split_path(text: str) -> Path:
    """`data.train.0.weight` or `data.train[0].weight` -> ("data", "train", 0, "weight")."""
    parts = [part for part in re.split(r"[.\[\]]+", text) if part]
    return tuple(int(part) if part.isdigit() else part for part in parts)


def without_indices(path: Path) -> tuple[str, ...]:
    """The path without list indices, as tables of keys have it."""
    return tuple(part for part in path if isinstance(part, str))


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All (path, value) pairs. An empty mapping is a value, and so is a list, unless its entries are sections."""
    if isinstance(tree, dict) and (tree or not path):
        for key, value in tree.items():
            yield from leaves(value, (*path, str(key)))
    elif (
        isinstance(tree, list)
        and path in ENTRY_LISTS
        and tree
        and all(isinstance(item, dict) for item in tree)
    ):
        for index, item in enumerate(tree):
            yield from leaves(item, (*path, index))
    else:
        yield path, tree


def with_entries(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with each dataset given as text made an entry: `data.train: rows.jsonl` is its dataset_name."""
    for head in ENTRY_LISTS:
        value = get(tree, head)
        if isinstance(value, str):
            put(tree, head, {"dataset_name": value})
        elif isinstance(value, list) and any(isinstance(item, str) for item in value):
            put(tree, head, [{"dataset_name": item} if isinstance(item, str) else item for item in value])
    return tree


def into_entry(tree: Any, path: Path) -> Path:
    """The path of `data.train.KEY` within the list of datasets, if the tree has a list of one dataset there.

    Raises ConfigError when the list has several.
    """
    for head in ENTRY_LISTS:
        entries = get(tree, head)
        if path[: len(head)] != head or len(path) == len(head) or not isinstance(entries, list):
            continue
        if isinstance(path[len(head)], int):
            continue
        if len(entries) != 1:
            raise ConfigError(
                f"{dotted(path)}: {dotted(head)} is a list of {len(entries)} datasets; say which, as in "
                f"{dotted(head)}.0.{dotted(path[len(head) :])}"
            )
        return (*head, 0, *path[len(head) :])
    return path


def get(tree: Any, path: Path, default: Any = MISSING) -> Any:
    """The value at `path`, or the default."""
    for part in path:
        is_index = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if not is_index and not (isinstance(tree, dict) and part in tree):
            return default
        tree = tree[part]
    return tree


def put(tree: Any, path: Path, value: Any) -> None:
    """Set the value at `path`. Missing mappings on the way are created, and replace values that are no container."""
    for index, part in enumerate(path[:-1]):
        wanted = list if isinstance(path[index + 1], int) else dict
        child: Any = get(tree, (part,))
        if not isinstance(child, wanted):
            child = tree[part] = {}
        tree = child
    tree[path[-1]] = value


def drop(tree: Any, path: Path) -> None:
    """Remove the value at `path` if it is there."""
    parent = get(tree, path[:-1])
    if parent is not MISSING and get(parent, path[-1:]) is not MISSING:
        del parent[path[-1]]


def merge(lower: Any, upper: Any) -> Any:
    """A new tree: mappings are merged key by key; any other value of `upper` replaces that of `lower`."""
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return copy.deepcopy(upper)
    merged = {key: copy.deepcopy(value) for key, value in lower.items() if key not in upper}
    merged.update({key: merge(lower.get(key), value) for key, value in upper.items()})
    return {key: merged[key] for key in [*lower, *(key for key in upper if key not in lower)]}


def escape(value: Any) -> Any:
    """Escape each literal `${`, so that loading the tree as a configuration restores it."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape(item) for item in value]
    if isinstance(value, str) and "${" in value:
        return re.sub(r"(\\*)\$\{", lambda found: found.group(1) * 2 + "\\${", value)
    return value


def same(value: Any, other: Any) -> bool:
    """Whether two values are equal and both or neither are booleans (1 == True in Python)."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def shown(value: Any) -> str:
    """A value as YAML writes it, at most 80 characters."""
    text = (
        {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)
    )
    return text if len(text) <= 80 else f"{text[:77]}…"
