"""What rules for dependent defaults read (`Settings`) and return (`Adjustment`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hone.config.nested import Path, get, split_path
from hone.config.schema.roots import own_section


class Adjustment(NamedTuple):
    """A setting that was not given, its new value, and the given setting that is the cause."""

    key: str
    value: Any
    cause: str


@dataclass(frozen=True)
class Settings:
    """The current settings of a run, and which of them were given."""

    config: Any
    paths: frozenset[Path]
    base: dict[str, Any]
    """The values of recipe, preset and schema."""
    adjusted: frozenset[str] = frozenset()
    """Keys that were adjusted already."""

    @functools.cached_property
    def section(self) -> str:
        """The algorithm's own section."""
        return own_section(self.config)

    def __getitem__(self, key: str) -> Any:
        value = self.config
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def given(self, key: str) -> bool:
        """Whether the user gave it, under any accepted name."""
        return split_path(key) in self.paths

    def is_fixed(self, key: str) -> bool:
        """Whether it was given, or adjusted to a given setting."""
        return self.given(key) or key in self.adjusted

    def given_below(self, key: str) -> list[str]:
        """The given keys of a section."""
        head = split_path(key)
        return [".".join(map(str, path)) for path in self.paths if path[: len(head)] == head != path]

    def default(self, key: str) -> Any:
        """Its value before any adjustment."""
        return get(self.base, split_path(key), None)

    def schema_default(self, key: str) -> Any:
        """The schema's default, whatever the recipe's value is."""
        *parts, name = key.split(".")
        owner = self.config
        for part in parts:
            owner = getattr(owner, part)
        return type(owner).model_fields[name].get_default(call_default_factory=True)


Rule = Callable[[Settings], Iterator[Adjustment]]


def models(s: Settings) -> tuple[str, ...]:
    """The sections of the models that are trained."""
    return ("policy", "value") if getattr(s.config, "critic", None) is not None else ("policy",)


def nearest_multiple(value: int, unit: int) -> int:
    """The multiple of `unit` nearest to the value, at least `unit`."""
    return max(unit, round(value / unit) * unit)


def divisor(whole: int, most: int, of: int = 1) -> int | None:
    """The largest divisor of `whole` up to `most` that is a multiple of `of`; else the smallest above it; else
    None."""
    fitting = [size for size in range(of, whole + 1, of) if whole % size == 0]
    return max((size for size in fitting if size <= most), default=min(fitting, default=None))
