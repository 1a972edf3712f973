"""Plain nested dicts and lists: paths, leaves, merging. A path is a tuple of keys and of places in lists."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from hone.errors import ConfigError

Path = tuple[str | int, ...]
MISSING: Any = object()
ENTRY_LISTS: tuple[Path, ...] = (("data", "train"), ("data", "validation"))
"""Where a list holds sections, whose keys are looked at one by one."""


def dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def split_path(text: str) -> Path:
    """`data.train.0.weight` or `data.train[0].weight` -> ("data", "train", 0, "weight")."""
    parts = [part for part in re.split(r"[.\[\]]+", text) if part]
    return tuple(int(part) if part.isdigit() else part for part in parts)


def without_places(path: Path) -> tuple[str, ...]:
    """The path with list places left out, as the tables of keys know it."""
    return tuple(part for part in path if isinstance(part, str))


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All (path, value) pairs; an empty mapping is a value, and so is a list unless it holds sections."""
    if isinstance(tree, dict) and (tree or not path):
        for key, value in tree.items():
            yield from leaves(value, (*path, str(key)))
    elif (
        isinstance(tree, list)
        and path in ENTRY_LISTS
        and tree
        and all(isinstance(item, dict) for item in tree)
    ):
        for place, item in enumerate(tree):
            yield from leaves(item, (*path, place))
    else:
        yield path, tree


def with_entries(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree, in which a dataset that is a text is its entry: `data.train: rows.jsonl` names it."""
    for head in ENTRY_LISTS:
        value = get(tree, head)
        if isinstance(value, str):
            put(tree, head, {"dataset_name": value})
        elif isinstance(value, list) and any(isinstance(item, str) for item in value):
            put(tree, head, [{"dataset_name": item} if isinstance(item, str) else item for item in value])
    return tree


def into_entry(tree: Any, path: Path) -> Path:
    """`data.train.KEY` where the tree has a list of one dataset there means that dataset.

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
        is_place = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if not is_place and not (isinstance(tree, dict) and part in tree):
            return default
        tree = tree[part]
    return tree


def put(tree: Any, path: Path, value: Any) -> None:
    """Set the value at `path`; mappings on the way are made, and replace anything that is not a container."""
    for place, part in enumerate(path[:-1]):
        wanted = list if isinstance(path[place + 1], int) else dict
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
    """A new tree: mappings are merged key by key, everything else of `upper` replaces."""
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return copy.deepcopy(upper)
    merged = {key: copy.deepcopy(value) for key, value in lower.items() if key not in upper}
    merged.update({key: merge(lower.get(key), value) for key, value in upper.items()})
    return {key: merged[key] for key in [*lower, *(key for key in upper if key not in lower)]}


def escape(value: Any) -> Any:
    """Write literal `${` so that reading the tree as a configuration gives it back."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape(item) for item in value]
    if isinstance(value, str) and "${" in value:
        return re.sub(r"(\\*)\$\{", lambda found: found.group(1) * 2 + "\\${", value)
    return value


def same(value: Any, other: Any) -> bool:
    """Equal, and not merely as 1 and True are."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def shown(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    text = (
        {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)
    )
    return text if len(text) <= 80 else f"{text[:77]}…"
