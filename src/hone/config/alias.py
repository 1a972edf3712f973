"""The parts of a configuration dialect: aliases of Hone's settings, and rules for keys that Hone does not have.

A dialect is a package of `hone.config.compat`. It offers `aliases(algorithm) -> Iterable[Alias]`,
`rules(algorithm) -> Iterable[KeyRule]`, `REPLACEMENTS`, a mapping from refused names to what to write in their place,
and optionally `REWARD_ENVIRONMENTS` (`dialects.reward_environments`). `hone.config.dialects` finds the installed
packages; nothing else knows them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Translate = Callable[[Any], Any]
"""Translates a value. Raises ValueError with the reason why it cannot."""
Accept = Callable[[Any, Callable[[str], Any]], bool]
"""Whether a value is accepted, given a function that looks up our keys."""


@dataclass(frozen=True)
class Switch:
    """Whether a section is in use: by the value of `key` (one of `on`), unless the key `unless` is true."""

    key: str
    default: bool = False
    on: tuple[Any, ...] = (True,)
    unless: str | None = None


@dataclass(frozen=True)
class Context:
    """What a computed alias can read."""

    section: str
    """The command's own section."""
    ours: Callable[[str], Any]
    """The current value of one of our keys, defaults included; None for a key that does not exist."""
    written: Callable[[str], Any]
    """The value of a key as the user spelled it, or MISSING."""
    given: Callable[[str], bool]
    """Whether the user gave our key, under any name, in the same layer or a later one."""


Compute = Callable[[Any, Context], dict[str, Any]]
"""Our keys with the values to set. Raises ValueError with the reason why it cannot, or NoEffect."""


class NoEffect(Exception):
    """A computed alias sets nothing, given the other settings; the text says why."""


@dataclass(frozen=True)
class Alias:
    """Another name, `path`, of our keys `to`; or our own key, whose values have other names.

    `value` translates the value. `compute` derives the values from other keys as well, and `to` then tells the reader
    what it sets. `beats` names keys that are not read when this one is given; `when`: accepted only in that case.
    """

    path: str
    to: tuple[str, ...]
    value: Translate | None = None
    beats: tuple[str, ...] = ()
    when: Switch | None = None
    compute: Compute | None = None


@dataclass(frozen=True)
class KeyRule:
    """How a key that Hone does not have is treated.

    `while_off`: ignored while that switch is off, otherwise the next rule decides. `ignored_at`: ignored with these
    values, otherwise the next rule decides. `allowed`: accepted with these values, refused with others. If none of
    them is set, the key is always ignored. `reason` completes "ignored KEY: …" or "KEY=VALUE: …".
    """

    pattern: str
    reason: str
    while_off: Switch | None = None
    allowed: tuple[Any, ...] | Accept | None = None
    ignored_at: tuple[Any, ...] | None = None

    def matches(self, path: tuple[str, ...]) -> bool:
        """Whether the pattern covers the path: `*` is any one part, a last `**` one or more."""
        parts = self.pattern.split(".")
        if parts[-1] == "**":
            parts = parts[:-1]
            if len(path) <= len(parts):
                return False
            path = path[: len(parts)]
        return len(parts) == len(path) and all(
            part in ("*", name) for part, name in zip(parts, path, strict=True)
        )


def ignored(reason: str, *patterns: str) -> list[KeyRule]:
    """Keys that have no effect in Hone."""
    return [KeyRule(pattern, reason) for pattern in patterns]


def allowed(pattern: str, values: tuple[Any, ...] | Accept, reason: str) -> KeyRule:
    """A key that may have these values only."""
    return KeyRule(pattern, reason, allowed=values)


def only(values: tuple[Any, ...], reasons: Mapping[str, str], head: str = "") -> list[KeyRule]:
    """Keys below `head` that may have these values only, each with its reason."""
    return [KeyRule(f"{head}{pattern}", reason, allowed=values) for pattern, reason in reasons.items()]


def choice(what: str, meanings: dict[Any, Any]) -> Translate:
    """A translation of one of several names, in upper or lower case."""

    def translate(value: Any) -> Any:
        key = value.lower() if isinstance(value, str) else value
        if isinstance(key, bool) or key not in meanings:
            raise ValueError(f"{what} {', '.join(str(name) for name in meanings)}")
        return meanings[key]

    return translate


def count(value: Any, what: str) -> int:
    """The value, if it is a whole number of at least 1. Raises ValueError, which names `what` is counted."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"expected a number of {what}, at least 1")
    return value
