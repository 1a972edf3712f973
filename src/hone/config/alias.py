"""The parts of a configuration dialect: aliases of Hone's settings, and rules for keys that Hone does not have.

A dialect is a package of `hone.config.compat`. It defines `aliases(algorithm) -> Iterable[Alias]`,
`rules(algorithm) -> Iterable[KeyRule]`, `REPLACEMENTS`, a mapping from refused names to their replacements, and
optionally `REWARD_ENVIRONMENTS` (`dialects.reward_environments`). `hone.config.dialects` finds the installed packages;
no other module knows their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Translate = Callable[[Any], Any]
"""Translates a value. Raises ValueError with the reason if it cannot."""
Accept = Callable[[Any, Callable[[str], Any]], bool]
"""Whether a value is accepted, given a function that looks up Hone's keys."""


@dataclass(frozen=True)
class Switch:
    """Whether a section is in use: the value of `key` is one of `on`, and the key `unless` is not true."""

    key: str
    default: bool = False
    on: tuple[Any, ...] = (True,)
    unless: str | None = None


@dataclass(frozen=True)
class Context:
    """The settings that a computed alias can read."""

    section: str
    """The command's section."""
    ours: Callable[[str], Any]
    """The current value of a Hone key, defaults included; None for a key that does not exist."""
    written: Callable[[str], Any]
    """The value of a key as the user wrote it, or MISSING."""
    given: Callable[[str], bool]
    """Whether the user set the Hone key, under any name, in the same layer or a later one."""


Compute = Callable[[Any, Context], dict[str, Any]]
"""The Hone keys and values to set. Raises ValueError with the reason if it cannot compute them, or NoEffect."""


class NoEffect(Exception):
    """With the other settings, a computed alias sets nothing; the text is the reason."""


@dataclass(frozen=True)
class Alias:
    """Another name, `path`, of the Hone keys `to`; or a Hone key whose values have other names.

    `value` translates the value. `compute` derives the values also from other keys; `to` then documents which keys it
    sets. `beats` names keys that are not read if this one is given. The alias is accepted only under the condition
    `when`.
    """

    path: str
    to: tuple[str, ...]
    value: Translate | None = None
    beats: tuple[str, ...] = ()
    when: Switch | None = None
    compute: Compute | None = None


@dataclass(frozen=True)
class KeyRule:
    """The treatment of a key that Hone does not have.

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
    """A key that may only have these values."""
    return KeyRule(pattern, reason, allowed=values)


def only(values: tuple[Any, ...], reasons: Mapping[str, str], head: str = "") -> list[KeyRule]:
    """Keys below `head` that may only have these values, each with its reason."""
    return [KeyRule(f"{head}{pattern}", reason, allowed=values) for pattern, reason in reasons.items()]


def choice(what: str, meanings: dict[Any, Any]) -> Translate:
    """A translation of names in upper or lower case to their meanings."""

    def translate(value: Any) -> Any:
        key = value.lower() if isinstance(value, str) else value
        if isinstance(key, bool) or key not in meanings:
            raise ValueError(f"{what} {', '.join(str(name) for name in meanings)}")
        return meanings[key]

    return translate


def flag(what: str, on: Any, off: Any) -> Translate:
    """A translation of true and false to two values of one of our keys."""
    translate = choice(what, {"true": on, "false": off})
    return lambda value: translate(str(value).lower())


def count(value: Any, what: str) -> int:
    """The value, if it is an integer of at least 1. Raises ValueError, which names `what` is counted."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"expected a number of {what}, at least 1")
    return value
