"""`hone config KIND [KEY]`: settings, one above the other, with their defaults and what they mean."""

from __future__ import annotations

import re

from hone.config import dialects, keys
from hone.config.nested import dotted, split_path
from hone.config.reference_table import markdown_table
from hone.errors import ConfigError


def explained(algorithm: str, wanted: str | None) -> str:
    """The settings at or below a key (all for None), also by an accepted spelling of it. Raises ConfigError for no
    such key, naming the nearest."""
    rows = re.findall(r"^\| `(.+?)` \| `(.*?)` \| (.*) \|$", markdown_table(algorithm), flags=re.MULTILINE)
    if wanted is None:
        return _text(rows)
    if found := _below(rows, wanted):
        return _text(found)
    if (alias := dialects.aliases(algorithm).get(wanted)) is not None:
        read = [_text(_at(rows, key)) for key in alias.to]
        return f"{wanted} is read as {', '.join(alias.to)}\n\n" + "\n\n".join(read)
    raise ConfigError(keys.unknown(algorithm, split_path(wanted), dialects.aliases(algorithm)))


Row = tuple[str, str, str]


def _below(rows: list[Row], wanted: str) -> list[Row]:
    return [row for row in rows if row[0] == wanted or row[0].startswith(f"{wanted}.")]


def _at(rows: list[Row], key: str) -> list[Row]:
    """The row of a key, or of the mapping that it is in."""
    path = split_path(key)
    return next((row for n in range(len(path), 0, -1) if (row := _below(rows, dotted(path[:n])))), [])


def _text(rows: list[Row]) -> str:
    text = "\n\n".join(f"{key}\n    default: {default}\n    {about}" for key, default, about in rows)
    return text.replace("\\|", "|")  # a bar within a cell of the table
