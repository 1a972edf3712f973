"""Users' own metrics: functions that are called once, with lists that their parameters' names choose."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hone.config.metric_names import last_name
from hone.errors import ConfigError, DataError
from hone.user_code import MissingCodeError, find


@dataclass(frozen=True)
class Metric:
    """A function, the parameters it takes, and those without a default."""

    name: str
    function: Callable[..., Any]
    takes: tuple[str, ...]
    needs: tuple[str, ...]


def load(targets: Sequence[str], key: str) -> list[Metric]:
    """Import the functions. Raises ConfigError that names the setting `key`."""
    found = []
    for target in targets:
        named = f"{key}={target}"
        try:
            function = find(target)
        except MissingCodeError as error:
            raise ConfigError(f"{named}: {error}") from error
        except Exception as error:  # whatever the user's module raises while it is imported
            raise ConfigError(f"{named} cannot be imported: {type(error).__name__}: {error}") from error
        if not callable(function):
            raise ConfigError(f"{named} is a {type(function).__name__}: a metric is a function")
        parameters = inspect.signature(function).parameters.values()
        takes = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        needs = tuple(p.name for p in parameters if p.name in takes and p.default is p.empty)
        found.append(Metric(last_name(target), function, takes, needs))
    names = [metric.name for metric in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{key}: two functions are called {', '.join(twice)}: give one another name")
    return found


def check(metrics: Sequence[Metric], available: Sequence[str], key: str) -> None:
    """Raise ConfigError for a function with a parameter that is not in `available`."""
    for metric in metrics:
        if missing := [name for name in metric.needs if name not in available]:
            raise ConfigError(
                f"{key}: {metric.name} takes {', '.join(missing)}, which is not there; there are {', '.join(available)}"
            )


def measure(metrics: Sequence[Metric], lists: Mapping[str, list[Any]]) -> dict[str, float]:
    """The value of each function. Raises DataError for one that fails or returns no number."""
    values = {}
    for metric in metrics:
        try:
            value = float(metric.function(**{name: lists[name] for name in metric.takes if name in lists}))
        except Exception as error:  # whatever the user's code raises
            raise DataError(f"the metric {metric.name} failed: {type(error).__name__}: {error}") from error
        values[metric.name] = value if math.isfinite(value) else math.nan
    return values
