"""All keys with their defaults and meanings, for `hone config COMMAND [KEY]` and docs/configuration.md."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from itertools import groupby, pairwise

from pydantic import BaseModel

from hone.config import dialects, keys
from hone.config.loading import files
from hone.config.nested import dotted, split_path
from hone.config.schema import ROOTS
from hone.config.schema.base import derived_expression
from hone.errors import ConfigError

Row = tuple[str, str, str]
"""A key, its default, its meaning."""


def description(owner: type[BaseModel], name: str) -> str:
    """What a key means: the docstring under it, in the class that last defines it.

    Read from the source on demand: pydantic's `use_attribute_docstrings` parses all of it at import.
    """
    defined = next(base for base in owner.__mro__ if name in inspect.get_annotations(base))
    return _docstrings(defined.__module__).get(f"{defined.__name__}.{name}", "")


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """The docstrings under annotated attributes of a module's classes, as `Class.attribute`."""
    found = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        body = node.body if isinstance(node, ast.ClassDef) else []
        for field, text in pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    found[f"{node.name}.{name}"] = " ".join(doc.split())  # type: ignore[attr-defined]
    return found


def rows(algorithm: str) -> list[Row]:
    """Every key of a command, its default as YAML writes it, and its meaning, in the schema's order."""
    found = []
    for key, field, owner in keys.all_keys(ROOTS[algorithm]):
        name = key.rpartition(".")[2]
        default = derived_expression(owner, name)
        if default is None:
            value = field.get_default(call_default_factory=True)
            default = files.dump([value]).strip()[2:] if not isinstance(value, list | dict) else str(value)
        found.append((key, default, description(owner, name)))
    return found


def markdown_table(algorithm: str) -> str:
    """A Markdown table of every key of a command, by section."""
    lines: list[str] = []
    for section, entries in groupby(rows(algorithm), key=lambda row: row[0].partition(".")[0]):
        lines += ["", f"### {algorithm}: `{section}`", "", "| key | default | meaning |", "|---|---|---|"]
        for key, default, meaning in entries:
            escaped = meaning.replace("|", "\\|")
            lines.append(f"| `{key}` | `{default}` | {escaped} |")
    return "\n".join(lines).lstrip("\n") + "\n"


def explained(algorithm: str, wanted: str | None) -> str:
    """The settings at or below a key, or an alias of it; None: all settings. Raises ConfigError for an unknown key,
    naming the nearest."""
    known = rows(algorithm)
    if found := known if wanted is None else _below(known, wanted):
        return _text(found)
    assert wanted is not None
    if (alias := dialects.aliases(algorithm).get(wanted)) is not None:
        read = [_text(_at(known, key)) for key in alias.to]
        return f"{wanted} is read as {', '.join(alias.to)}\n\n" + "\n\n".join(read)
    raise ConfigError(keys.unknown(algorithm, split_path(wanted), dialects.aliases(algorithm)))


def _below(known: list[Row], wanted: str) -> list[Row]:
    return [row for row in known if row[0] == wanted or row[0].startswith(f"{wanted}.")]


def _at(known: list[Row], key: str) -> list[Row]:
    """The row of a key, or of the mapping that it is in."""
    path = split_path(key)
    return next((row for n in range(len(path), 0, -1) if (row := _below(known, dotted(path[:n])))), [])


def _text(found: list[Row]) -> str:
    return "\n\n".join(f"{key}\n    default: {default}\n    {meaning}" for key, default, meaning in found)
