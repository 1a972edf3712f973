"""`hone config COMMAND [KEY]`: settings with their defaults and meanings."""

from __future__ import annotations

from hone.config import dialects, keys
from hone.config.nested import dotted, split_path
from hone.config.reference_table import Row, rows
from hone.errors import ConfigError


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
