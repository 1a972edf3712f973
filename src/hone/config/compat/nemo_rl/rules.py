"""What may become of upstream's keys that Hone does not have. See `upstream.py` and `megatron.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Switch:
    """Whether a section of upstream's is in use: a key with its default, and a key that overrules."""

    key: str
    default: bool = False
    on: tuple[Any, ...] = (True,)
    unless: str | None = None


MEGATRON = Switch("policy.megatron_cfg.enabled")
DTENSOR = Switch("policy.dtensor_cfg.enabled", default=True, unless="policy.megatron_cfg.enabled")
LORA = Switch("policy.lora.enabled")
Accept = Callable[[Any, Callable[[str], Any]], bool]


@dataclass(frozen=True)
class Rule:
    """What becomes of upstream's key.

    `off`: inert while that switch is off, else the next rule is asked. `only`: accepted with these values (or
    where the function, given the value and a way to look at our keys, says so), refused by name with others.
    `at`: inert with these values, else the next rule is asked.
    None of them: always inert. `reason` completes "ignored KEY: …" or "KEY=VALUE: …".
    """

    pattern: str
    reason: str
    off: Switch | None = None
    only: tuple[Any, ...] | Accept | None = None
    at: tuple[Any, ...] | None = None


def swapped(text: str) -> str:
    """A key of the policy's as the value model has it."""
    return text.replace("policy.", "value.")


def of_value(switch: Switch) -> Switch:
    """The same switch of the value model's section."""
    return replace(
        switch, key=swapped(switch.key), unless=None if switch.unless is None else swapped(switch.unless)
    )


def also_of_value(rules: list[Rule]) -> list[Rule]:
    """What holds for keys of the policy, for those of the value model."""
    return [
        replace(
            rule,
            pattern=swapped(rule.pattern),
            reason=swapped(rule.reason),
            off=None if rule.off is None else of_value(rule.off),
            only=_asking_value(rule.only) if callable(rule.only) else rule.only,
        )
        for rule in rules
        if rule.pattern.startswith("policy.")
    ]


def _asking_value(accept: Accept) -> Accept:
    return lambda value, ours: accept(value, lambda key: ours(swapped(key)))


def inert(reason: str, *patterns: str) -> list[Rule]:
    """Keys that change nothing here."""
    return [Rule(pattern, reason) for pattern in patterns]


def neutral(pattern: str, values: tuple[Any, ...] | Accept, reason: str) -> Rule:
    """A key that only these values may have."""
    return Rule(pattern, reason, only=values)


def section(pattern: str, switch: Switch) -> Rule:
    """Keys that are inert while their section is off."""
    return Rule(pattern, f"{switch.key} is off", off=switch)


NONE = (None,)
OFF = (False, None)
EMPTY: tuple[Any, ...] = (None, {}, [])


def matches(pattern: str, path: tuple[str, ...]) -> bool:
    """Whether a rule's pattern covers the path."""
    parts = pattern.split(".")
    if parts[-1] == "**":
        parts = parts[:-1]
        if len(path) <= len(parts):
            return False
        path = path[: len(parts)]
    return len(parts) == len(path) and all(
        part in ("*", name) for part, name in zip(parts, path, strict=True)
    )
