"""The search space: `KEY=log(1e-6, 1e-3)` and the like, parsed, checked, and turned into overrides.

log(a, b)        a number, its logarithm uniform       logint(a, b)    the same, whole numbers
uniform(a, b)    a number                              int(a, b[, s])  a whole number, every s-th from a on
choice(x, ...)   one of these: numbers, texts, true, false, null, [lists]
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import yaml

from hone.config.loading import files
from hone.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import Trial

KINDS = ("log", "logint", "uniform", "int", "choice")
_FORM = re.compile(r"\s*(\w+)\((.*)\)\s*", re.DOTALL)
_EXAMPLE = "write log(1e-6, 1e-3), logint(8, 512), uniform(0, 0.1), int(1, 8) or choice(8, 16, 32)"


def is_range(text: str) -> bool:
    """Whether the text after `key=` is a range rather than a value."""
    found = _FORM.fullmatch(text)
    return found is not None and found[1] in KINDS


@dataclass(frozen=True)
class Parameter:
    """One key, and the values that it may take: `values` of a choice, else the ends (and step) of a range."""

    key: str
    kind: str
    values: tuple[Any, ...]

    def suggest(self, trial: Trial) -> Any:
        """This trial's value."""
        if self.kind == "choice":
            return self.values[trial.suggest_categorical(self.key, list(range(len(self.values))))]
        low, high, *step = self.values
        if self.kind in ("int", "logint"):
            return trial.suggest_int(
                self.key, low, high, step=step[0] if step else 1, log=self.kind == "logint"
            )
        return trial.suggest_float(self.key, low, high, log=self.kind == "log")

    def value(self, stored: Any) -> Any:
        """The value of what Optuna stores, which for a choice is its index."""
        return self.values[int(stored)] if self.kind == "choice" else stored

    @property
    def stored(self) -> tuple[Any, ...] | None:
        """All values that Optuna may store, if they can be enumerated."""
        if self.kind == "choice":
            return tuple(range(len(self.values)))
        return (
            tuple(range(self.values[0], self.values[1] + 1, (*self.values, 1)[2]))
            if self.kind == "int"
            else None
        )

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values to check in place of all: every choice, or both ends of a range."""
        return self.values if self.kind == "choice" else self.values[:2]

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(format_value, self.values))})"


def parameter(key: str, text: str) -> Parameter:
    """Parse `key=text`. Raises ConfigError if it is no range, or an empty one."""
    found = _FORM.fullmatch(text)
    if found is None or found[1] not in KINDS:
        raise ConfigError(f"{key}={text} is not a range: {_EXAMPLE}")
    kind = found[1]
    try:
        values = tuple(files.parse(f"[{found[2]}]"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text} cannot be read: {_EXAMPLE}") from error
    made = Parameter(key, kind, values)
    if problem := _problem(made):
        raise ConfigError(f"{key}={text}: {problem}")
    if kind in ("log", "uniform"):
        return Parameter(key, kind, tuple(map(float, values)))
    return made


def _problem(made: Parameter) -> str | None:
    values = made.values
    if made.kind == "choice":
        if not values:
            return "there is nothing to choose from"
        twice = len({format_value(value) for value in values}) < len(values)
        return "a choice stands there twice" if twice else None
    if len(values) != 2 and not (made.kind == "int" and len(values) == 3):
        return f"{made.kind} has two ends, such as {made.kind}(1, 8)"
    whole = made.kind in ("int", "logint")
    kinds = (int,) if whole else (int, float)
    if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
        return f"the ends of {made.kind} are {'whole ' if whole else ''}numbers"
    if values[0] >= values[1]:
        swapped = ", ".join(map(format_value, (values[1], values[0])))
        return f"the range is empty: its low end comes first, so {made.kind}({swapped})?"
    if made.kind in ("log", "logint") and values[0] <= 0:
        return "a logarithm begins above 0"
    return "a step is at least 1" if len(values) == 3 and values[2] < 1 else None


def format_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, str) and files.parse(value) == value:
        return value
    return json.dumps(value)


def override(key: str, value: Any) -> str:
    """`key=value`."""
    return f"{key}={format_value(value)}"


def grid(parameters: Sequence[Parameter], most: int) -> list[dict[str, Any]] | None:
    """Every combination, as Optuna stores it; None if there are more than `most`."""
    columns = [p.stored for p in parameters]
    counted = [column for column in columns if column is not None]
    if len(counted) < len(columns) or prod(map(len, counted)) > most:
        return None
    return [dict(zip((p.key for p in parameters), row, strict=True)) for row in product(*counted)]
