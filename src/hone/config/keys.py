"""Walk the schema: its keys, their fields and defaults, and the nearest key to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hone.config import dialects
from hone.config.nested import Path, dotted, without_indices
from hone.config.schema import ROOTS
from hone.config.schema.base import derived_expression


def submodel(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section model that a field holds, and whether the field is a list of them; (None, False) for a plain
    value."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return submodel(get_args(annotation)[0])
    if origin in (Union, UnionType):
        found = [submodel(part) for part in get_args(annotation)]
        return next((item for item in found if item[0] is not None), (None, False))
    if origin is list:
        return submodel(get_args(annotation)[0])[0], True
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return (annotation, False) if is_model else (None, False)


@dataclass(frozen=True)
class Found:
    """What a path refers to. The first `known` parts are in the schema; `model` is the section of the last of them."""

    what: Literal["section", "key", "unknown"]
    known: int
    model: type[BaseModel]
    field: FieldInfo | None = None


def find(root: type[BaseModel], path: Path) -> Found:
    """Follow `path` through the schema; list indices may be left out."""
    model, field = root, None
    for depth, part in enumerate(path):
        if isinstance(part, int):
            continue
        if part not in model.model_fields:
            if not named_entry(model, path, depth):
                return Found("unknown", depth, model)
            model, field = model.named_entries, None  # type: ignore[attr-defined]
            continue
        field = model.model_fields[part]
        inner, is_list = submodel(field.annotation)
        if inner is None or (is_list and depth == len(path) - 1):
            return Found("key", depth + 1, model, field)
        model = inner
    return Found("section", len(path), model, field)


def named_entry(model: type[BaseModel], path: Path, depth: int, below: Path = ()) -> bool:
    """Whether the part of `path` at `depth` is a user-defined name of a section in `model`, such as `puzzle` in
    env.puzzle.path. `below` is the path of `model`."""
    if len(path) < depth + 2 or path[: len(below)] != below or not hasattr(model, "named_entries"):
        return False
    name = path[depth]
    return isinstance(name, str) and name not in {*model.model_fields, *dialects.reward_environments()}


def derived_text(root: type[BaseModel], path: Path) -> str | None:
    """The interpolation behind the key at `path`, if it is a derived one."""
    found = find(root, path)
    is_field = found.what == "key" and found.known == len(path)  # not an entry of a free mapping
    return derived_expression(found.model, str(path[-1])) if is_field else None


def all_keys(
    root: type[BaseModel], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[str, FieldInfo, type[BaseModel]]]:
    """(dotted key, field, its section) of every leaf, in the schema's order."""
    for name, field in root.model_fields.items():
        inner, is_list = submodel(field.annotation)
        if inner is None or is_list:
            yield ".".join((*prefix, name)), field, root
        if inner is not None:
            yield from all_keys(inner, (*prefix, name))


def defaults(root: type[BaseModel]) -> dict[str, Any]:
    """The schema's defaults as a tree, derived ones as interpolations."""
    tree: dict[str, Any] = {}
    for name, field in root.model_fields.items():
        inner, is_list = submodel(field.annotation)
        if inner is not None and not is_list:
            tree[name] = defaults(inner)
        else:
            expression = derived_expression(root, name)
            tree[name] = expression or field.get_default(call_default_factory=True)
    return tree


def _suggestion(algorithm: str, path: Path, also: Collection[str]) -> Path | None:
    """The valid key that `path` was most likely meant to be; of a short name that is common in the field, such as
    `lr`, the key that it is short for: meaning goes before likeness."""
    root = ROOTS[algorithm]
    valid = [tuple(key.split(".")) for key, _, _ in all_keys(root)]
    typed = without_indices(path)
    in_list = len(typed) < len(path)  # of entries, whose keys no short name is for
    if not in_list and (alias := dialects.aliases(algorithm).get(typed[-1])) is not None:
        by_name = tuple(alias.to[0].split("."))
        own = (typed[0], *by_name[1:])
        return own if len(typed) > 1 and find(root, own).what == "key" else by_name
    same = [key for key in valid if key[-1] == typed[-1]]
    if len(typed) == 1 and same:
        return same[0]
    names = {*valid, *(tuple(key.split(".")) for key in also)}
    meant = _nearest(names, typed)
    if meant is not None:
        return _with_indices(meant, path)
    if same:
        return same[0]
    lasts = list(dict.fromkeys(key[-1] for key in valid))
    alike = difflib.get_close_matches(typed[-1], lasts, 1, 0.8)
    if alike:
        return next(key for key in valid if key[-1] == alike[0])
    near = difflib.get_close_matches(dotted(typed), [dotted(key) for key in valid], 1, 0.75)
    return tuple(near[0].split(".")) if near else None


def _nearest(names: set[tuple[str, ...]], path: tuple[str, ...]) -> tuple[str, ...] | None:
    """`path` with each unknown part replaced by the nearest name at its depth."""
    for depth, part in enumerate(path):
        here = {name[depth] for name in names if name[:depth] == path[:depth] and len(name) > depth}
        if part in here:
            continue
        near = difflib.get_close_matches(part, sorted(here), 1, 0.7)
        if not near:
            return None
        repaired = (*path[:depth], near[0], *path[depth + 1 :])
        is_whole = any(name[: len(repaired)] == repaired for name in names)
        return repaired if is_whole else _nearest(names, repaired) or repaired[: depth + 1]
    return path


def _with_indices(names: tuple[str, ...], path: Path) -> Path:
    """Insert the list indices of `path` again."""
    result: list[str | int] = list(names)
    for position, part in enumerate(path):
        if isinstance(part, int) and position <= len(result):
            result.insert(position, part)
    return tuple(result)


def unknown(algorithm: str, path: Path, also: Collection[str] = ()) -> str:
    """The message for an unknown key. `also`: further accepted names."""
    if (other := dialects.replacements().get(str(without_indices(path)[-1]))) is not None:
        return f"unknown key {dotted(path)}: write {other}"
    meant = _suggestion(algorithm, path, also)
    if meant is not None and meant != path:
        return f"unknown key {dotted(path)}: did you mean {dotted(meant)}?"
    root = ROOTS[algorithm]
    sections = f"; the sections are {', '.join(root.model_fields)}" if find(root, path).known == 0 else ""
    return f"unknown key {dotted(path)}{sections}"
