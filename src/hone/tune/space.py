"""The search space: ranges such as `KEY=log(1e-6, 1e-3)` are parsed, checked, and turned into overrides.

log(a, b)        a float, log-uniform                  logint(a, b)    an integer, log-uniform
uniform(a, b)    a float, uniform                      int(a, b[, s])  an integer, uniform: a, a + s, a + 2s, …
choice(x, ...)   one of these: numbers, strings, true, false, null, [lists]
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

DISTRIBUTIONS = ("log", "logint", "uniform", "int", "choice")
_FORM = re.compile(r"\s*(\w+)\((.*)\)\s*", re.DOTALL)
_EXAMPLE = "write log(1e-6, 1e-3), logint(8, 512), uniform(0, 0.1), int(1, 8) or choice(8, 16, 32)"


def is_range(text: str) -> bool:
    """Whether the text after `key=` is a range rather than a value."""
    found = _FORM.fullmatch(text)
    return found is not None and found[1] in DISTRIBUTIONS


@dataclass(frozen=True)
class Parameter:
    """One key and its distribution: `values` are the choices, else the ends of the range (and the step)."""

    key: str
    distribution: str
    values: tuple[Any, ...]

    def suggest(self, trial: Trial) -> Any:
        """This trial's value."""
        if self.distribution == "choice":
            return self.values[trial.suggest_categorical(self.key, list(range(len(self.values))))]
        low, high, step = (*self.values, 1)[:3]
        log = self.distribution in ("log", "logint")
        if self.distribution in ("int", "logint"):
            return trial.suggest_int(self.key, low, high, step=step, log=log)
        return trial.suggest_float(self.key, low, high, log=log)

    def value(self, stored: Any) -> Any:
        """The value for what Optuna stores: for a choice, that is its index."""
        return self.values[int(stored)] if self.distribution == "choice" else stored

    @property
    def stored(self) -> tuple[Any, ...] | None:
        """All values that Optuna may store; None if they cannot be enumerated."""
        if self.distribution == "choice":
            return tuple(range(len(self.values)))
        low, high, step = (*self.values, 1)[:3]
        return tuple(range(low, high + 1, step)) if self.distribution == "int" else None

    @property
    def probes(self) -> tuple[Any, ...]:
        """The values that are checked: every choice, or both ends of a range."""
        return self.values if self.distribution == "choice" else self.values[:2]

    def __str__(self) -> str:
        return f"{self.distribution}({', '.join(map(format_value, self.values))})"


def parameter(key: str, text: str) -> Parameter:
    """Parse `key=text`. Raises ConfigError for text that is not a range, and for an empty range."""
    found = _FORM.fullmatch(text)
    if found is None or found[1] not in DISTRIBUTIONS:
        raise ConfigError(f"{key}={text} is not a range: {_EXAMPLE}")
    try:
        values = tuple(files.parse(f"[{found[2]}]"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={text} cannot be read: {_EXAMPLE}") from error
    if problem := _problem(found[1], values):
        raise ConfigError(f"{key}={text}: {problem}")
    return Parameter(key, found[1], tuple(map(float, values)) if found[1] in ("log", "uniform") else values)


def _problem(distribution: str, values: tuple[Any, ...]) -> str | None:
    if distribution == "choice":
        if not values:
            return "there is nothing to choose from"
        return "a choice is given twice" if len({*map(format_value, values)}) < len(values) else None
    if len(values) != 2 and not (distribution == "int" and len(values) == 3):
        return f"{distribution} has two ends, such as {distribution}(1, 8)"
    whole = distribution in ("int", "logint")
    numeric = (int,) if whole else (int, float)
    if not all(isinstance(value, numeric) and not isinstance(value, bool) for value in values):
        return f"the ends of {distribution} are {'whole ' if whole else ''}numbers"
    if values[0] >= values[1]:
        swapped = ", ".join(map(format_value, (values[1], values[0])))
        return f"the range is empty: its low end comes first, so {distribution}({swapped})?"
    if distribution in ("log", "logint") and values[0] <= 0:
        return "the low end of a logarithmic range must be above 0"
    return "the step must be at least 1" if len(values) == 3 and values[2] < 1 else None


def format_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, str) and files.parse(value) == value:
        return value
    return json.dumps(value)


def override(key: str, value: Any) -> str:
    """`key=value`."""
    return f"{key}={format_value(value)}"


def grid(parameters: Sequence[Parameter], limit: int) -> list[dict[str, Any]] | None:
    """Every combination, as Optuna stores it; None if there are more than `limit`."""
    columns = [p.stored for p in parameters]
    finite = [column for column in columns if column is not None]
    if len(finite) < len(columns) or prod(map(len, finite)) > limit:
        return None
    return [dict(zip((p.key for p in parameters), row, strict=True)) for row in product(*finite)]
