"""Overrides on the command line: `key=value`, `+key=value`, `++key=value`, `~key`.

A value is read as YAML: numbers, true/false, null, quoted text, [lists] and {mappings}; anything else is plain text.
`+` and `++` mean the same as no prefix, since the schema defines which keys exist, not a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from hone.config.loading import files
from hone.config.nested import (
    ENTRY_LISTS,
    Path,
    dotted,
    drop,
    get,
    into_entry,
    leaves,
    merge,
    put,
    split_path,
)
from hone.errors import ConfigError

_FORM = re.compile(r"(?P<mark>\+\+|\+|~)?(?P<key>[A-Za-z_][\w.\[\]-]*)(?P<equals>=(?P<value>.*))?", re.DOTALL)

_TIGHT = re.compile(r"(?<=[{,\s])([A-Za-z_][\w.]*):(?=\S)")


@dataclass(frozen=True)
class Override:
    """One setting of the command line; `remove` is `~key`."""

    path: Path
    value: Any = None
    remove: bool = False


def parse_override(text: str) -> Override:
    """Read one override. Raises ConfigError saying what was expected."""
    found = _FORM.fullmatch(text.strip())
    if found is None or (found["equals"] is None and found["mark"] != "~"):
        hint = text.lstrip("-").replace(" ", "=", 1)
        raise ConfigError(
            f"cannot read the override {text!r}: write key=value, such as "
            + (hint if "=" in hint and text.startswith("-") else "policy.train_global_batch_size=64")
        )
    path = split_path(found["key"])
    if found["mark"] == "~":
        return Override(path, remove=True)
    return Override(path, _value(found["value"], text))


def _value(text: str, override: str) -> Any:
    stripped = text.strip()
    if not stripped:
        return ""
    try:
        value = _parsed(stripped)
    except yaml.YAMLError as error:
        if stripped[0] in "[\"'":
            message = f"cannot read the value of {override!r}: a bracket or a quote is not closed"
            raise ConfigError(message) from error
        return text
    starts: dict[Any, str] = {dict: "{", list: "[", str: "\"'"}
    if type(value) in starts and stripped[0] not in starts[type(value)]:
        return text  # "Question: {q}" is a template, "- a" a sentence
    if value is None and stripped not in ("null", "Null", "NULL", "~"):
        return text
    is_template = isinstance(value, dict) and value and ":" not in stripped
    return text if is_template else value  # "{q}"


def _parsed(text: str) -> Any:
    """YAML, in which `{a:1}` also means `{a: 1}`."""
    spaced = _TIGHT.sub(r"\1: ", text) if text[0] in "[{" else text
    if spaced == text:
        return files.parse(text)
    try:
        value = files.parse(text)
    except yaml.YAMLError:
        return files.parse(spaced)
    return files.parse(spaced) if isinstance(value, dict) and None in value.values() else value


def _named_data(tree: dict[str, Any], override: Override) -> Override:
    """`data.train=rows.jsonl` sets the dataset_name of the one entry, or replaces several entries."""
    path, value = override.path, override.value
    if path not in ENTRY_LISTS:
        return override
    if isinstance(value, str):
        held = get(tree, path)
        is_list = isinstance(held, list) and len(held) > 1
        return (
            Override(path, [{"dataset_name": value}]) if is_list else Override((*path, "dataset_name"), value)
        )
    if isinstance(value, list):
        entries = [{"dataset_name": item} if isinstance(item, str) else item for item in value]
        return Override(path, entries)
    return override


def apply_override(tree: dict[str, Any], override: Override) -> list[Path]:
    """Change the tree in place; returns the leaves set. Raises ConfigError for an index outside a list."""
    override = _named_data(tree, override)
    path = into_entry(tree, override.path)
    for length, part in enumerate(path):
        if not isinstance(part, int):
            continue
        items = get(tree, path[:length])
        if not isinstance(items, list) or part >= len(items):
            size = f"has {len(items)} entries" if isinstance(items, list) else "is not a list"
            raise ConfigError(f"{dotted(path)}: {dotted(path[:length])} {size} in this configuration")
    if override.remove:
        drop(tree, path)
        return []
    held = get(tree, path)
    value = merge(held, override.value) if isinstance(override.value, dict) else override.value
    put(tree, path, value)
    return [leaf for leaf, _ in leaves(override.value, path)]
