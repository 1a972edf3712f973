"""The settings that rules look at, and what a rule says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hone.config.kinds import section_of
from hone.config.nested import MISSING, Path, get, split_path


class Follow(NamedTuple):
    """A setting that was not given, what it becomes, and the given one that it follows."""

    key: str
    value: Any
    after: str


@dataclass(frozen=True)
class Settings:
    """The settings of a run as they stand, and which of them were given."""

    algorithm: str
    config: Any
    paths: frozenset[Path]
    base: dict[str, Any]
    """What a recipe, a preset and the schema say."""
    moved: frozenset[str] = frozenset()
    """Keys that follow something already."""

    @property
    def section(self) -> str:
        """The run's own section."""
        return section_of(self.algorithm)

    def __getitem__(self, key: str) -> Any:
        value = self.config
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def given(self, key: str) -> bool:
        """Whether the user gave it, in any spelling."""
        return split_path(key) in self.paths

    def stands(self, key: str) -> bool:
        """Whether it was given, or follows something that was."""
        return self.given(key) or key in self.moved

    def below(self, key: str) -> list[str]:
        """The given keys of a section."""
        head = split_path(key)
        return [".".join(map(str, path)) for path in self.paths if path[: len(head)] == head != path]

    def default(self, key: str) -> Any:
        """What it was before anything followed."""
        value = get(self.base, split_path(key))
        return None if value is MISSING else value

    def schema_default(self, key: str) -> Any:
        """What the schema says, whatever a recipe does."""
        *parts, name = key.split(".")
        owner = self.config
        for part in parts:
            owner = getattr(owner, part)
        return type(owner).model_fields[name].get_default(call_default_factory=True)


Rule = Callable[[Settings], Iterator[Follow]]


def models(s: Settings) -> tuple[str, ...]:
    """The sections of the models that are trained."""
    return ("policy", "value") if getattr(s.config, "critic", None) is not None else ("policy",)


def nearest_multiple(value: int, unit: int) -> int:
    """The multiple of `unit` that is nearest to the value; at least one."""
    return max(unit, round(value / unit) * unit)


def divisor(whole: int, most: int, of: int = 1) -> int | None:
    """The largest divisor of `whole` up to `most` that is a multiple of `of`; else the smallest above it; else None."""
    fitting = [size for size in range(of, whole + 1, of) if whole % size == 0]
    return max((size for size in fitting if size <= most), default=min(fitting, default=None))
