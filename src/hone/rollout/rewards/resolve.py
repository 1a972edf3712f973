"""From an entry of `rewards.functions` to a RewardSpec that a worker can load.

Users' modules are not imported here, since an import may hang, crash or allocate a GPU: a worker imports them
(`RewardPool.start`) before any model is loaded. Everything that needs no import is checked here.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from hone.config.metric_names import reward_name
from hone.config.schedule import Between, points, value_at
from hone.errors import HoneError, RewardError
from hone.rollout.rewards.function_signature import PASSED
from hone.rollout.rewards.functions.builtin import BUILTIN
from hone.rollout.workers.worker_protocol import Unusable

_KEYS = ("name", "path", "weight", "weight_schedule", "kwargs", "datasets", "envs")


@dataclass(frozen=True)
class RewardSpec:
    """A reward function, identified by its location. Picklable."""

    name: str
    """Its name in metrics and messages; unique in a run."""
    target: str
    """A built-in's name, `pkg.module.function`, or `/abs/path/file.py:function`."""
    weight: float = 1.0
    """The weight, or the first weight of a schedule."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[tuple[int, float], ...] = ()
    """(step, weight) points of a schedule; empty for a constant weight."""
    between: Between = "linear"
    datasets: tuple[str, ...] | None = None
    envs: tuple[str, ...] | None = None

    def weight_at(self, step: int | None) -> float:
        """The weight after `step` optimizer steps; None: at the end."""
        return value_at(self.weights, step, self.between) if self.weights else self.weight

    @property
    def counts(self) -> bool:
        """Whether its weight is ever other than 0."""
        return bool(self.weight) or any(value for _, value in self.weights)

    def applies(self, dataset: str, env: str) -> bool:
        """Whether it scores rows of this dataset and environment."""
        labels = {dataset, dataset.rpartition("#")[0]}  # the second dataset of one name is NAME#2
        in_datasets = self.datasets is None or not labels.isdisjoint(self.datasets)
        return in_datasets and (self.envs is None or env in self.envs)

    @property
    def judges(self) -> bool:
        """Whether it decides if an answer is correct. Other functions grade it or check its format."""
        return getattr(BUILTIN.get(self.target), "judges", True)

    @property
    def label(self) -> str:
        """Its name in messages, with its location if that differs."""
        return f"'{self.name}'" if self.target == self.name else f"'{self.name}' ({self.target})"

    @property
    def alone(self) -> bool:
        """Whether it runs in one process of its own, on whole batches (it holds a model, or mostly waits)."""
        return getattr(BUILTIN.get(self.target), "alone", False)


def resolve(entry: str | Mapping[str, Any] | Any) -> RewardSpec:
    """One entry of `rewards.functions`: a name, a mapping, or an object with those attributes.

    Raises RewardError for an unknown name, a missing file, an unknown option of a built-in, a bad weight.
    """
    fields = _fields(entry)
    target = fields.get("path") or fields.get("name")
    if not target:
        raise RewardError(f"a reward function needs a `name` or a `path`: got {fields}")
    target = _target(str(target))
    between = fields.get("weight_schedule")
    if between not in (None, "linear", "step"):
        raise RewardError(f"reward '{target}': weight_schedule={between}: choose linear or step")
    try:
        weight = fields.get("weight")
        weights = points(1.0 if weight is None else weight)
    except ValueError as error:
        raise RewardError(f"reward '{target}': weight: {error}") from error
    spec = RewardSpec(
        name=reward_name(fields.get("name"), fields.get("path")),
        target=target,
        weight=weights[0][1],
        kwargs=dict(fields.get("kwargs") or {}),
        weights=weights if len(weights) > 1 else (),
        between=between or "linear",
        datasets=_names(fields.get("datasets"), "datasets", target),
        envs=_names(fields.get("envs"), "envs", target),
    )
    if reserved := sorted(set(spec.kwargs) & set(PASSED)):
        raise RewardError(f"reward {spec.label}: kwargs may not set {', '.join(reserved)}: Hone passes them")
    if target in BUILTIN:
        _check_builtin_options(spec)
    return spec


def resolve_all(entries: Iterable[Any]) -> list[RewardSpec]:
    """Every entry of `rewards.functions`. Raises RewardError if two share a name or all weights are 0."""
    specs = [resolve(entry) for entry in entries]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise RewardError(f"two reward functions are called '{name}': give one a `name` of its own")
    if not any(spec.counts for spec in specs):
        raise RewardError("no reward function has a weight other than 0: list one under rewards.functions")
    return specs


def _fields(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, Mapping):
        if unknown := ", ".join(sorted(set(entry) - set(_KEYS))):
            raise RewardError(f"a reward function has no key {unknown}: its keys are {', '.join(_KEYS)}")
        return dict(entry)
    return {key: getattr(entry, key, None) for key in _KEYS}


def _target(target: str) -> str:
    """The target made absolute; raises RewardError when it cannot name a function."""
    file, colon, function = target.rpartition(":")
    if colon:
        path = Path(file).expanduser().resolve()
        if not function.isidentifier() or path.suffix != ".py":
            raise RewardError(f"reward '{target}' is not `path/to/file.py:function`")
        if not path.is_file():
            raise RewardError(f"reward '{target}': there is no file {path}")
        return f"{path}:{function}"
    if target in BUILTIN:
        return target
    if target.endswith(".py"):
        raise RewardError(f"reward '{target}' names a file but no function in it: write {target}:function")
    if "." not in target or not all(part.isidentifier() for part in target.split(".")):
        near = difflib.get_close_matches(target, BUILTIN, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise RewardError(
            f"there is no reward function '{target}'; {hint}Built in: {', '.join(sorted(BUILTIN))}. "
            "Your own: `pkg.module.function` or `path/to/file.py:function`"
        )
    return target


def _names(names: Any, key: str, target: str) -> tuple[str, ...] | None:
    """Names of datasets or environments, and the stems of file names among them."""
    if names is None:
        return None
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise RewardError(f"reward '{target}': {key} must be a list of names, or null for all: got {names!r}")
    files = [PurePath(name) for name in names if PurePath(name).suffix or name.startswith("/")]
    return (*dict.fromkeys([*names, *sorted({file.name.split(".")[0] for file in files})]),)


def _check_builtin_options(spec: RewardSpec) -> None:
    """Check kwargs: a built-in takes any name as **columns, so a mistyped option would have no effect."""
    parameters = inspect.signature(BUILTIN[spec.target]).parameters.values()
    options = {p.name for p in parameters if p.default is not p.empty} - set(PASSED)
    if unknown := sorted(set(spec.kwargs) - options):
        takes = ", ".join(sorted(options)) or "none"
        raise RewardError(f"reward {spec.label} has no option {', '.join(unknown)}; its options: {takes}")
    for name, value in spec.kwargs.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RewardError(f"reward {spec.label}: {name}={value} is not a finite number")
    check = getattr(BUILTIN[spec.target], "check", None)
    try:
        if check is not None:
            check(**spec.kwargs)
    except (Unusable, HoneError) as error:
        raise RewardError(f"reward {spec.label}: {error}") from error
    except (TypeError, ValueError) as error:
        raise RewardError(f"reward {spec.label}: a wrong type in {dict(spec.kwargs)}: {error}") from error
