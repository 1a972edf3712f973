"""From a config entry {name, path, weight, kwargs} to a RewardSpec that a worker can load.

Users' modules are never imported here: importing them may hang, crash or claim a GPU. `RewardPool.start`
has a worker do it, before any model is loaded. What can be known without importing is checked here.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hone.errors import RewardError
from hone.rollout.rewards.functions import BUILTIN
from hone.rollout.rewards.load import PASSED

_KEYS = ("name", "path", "weight", "kwargs")


@dataclass(frozen=True)
class RewardSpec:
    """A reward function by where it is found; picklable."""

    name: str
    """Names it in metrics and messages; unique in a run."""
    target: str
    """A built-in's name, `pkg.module.function`, or `/abs/path/file.py:function`."""
    weight: float = 1.0
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`name`, with the place where it is defined when the name does not say it."""
        return f"'{self.name}'" if self.target == self.name else f"'{self.name}' ({self.target})"

    @property
    def alone(self) -> bool:
        """Whether it holds something so large that one process runs it, on whole batches."""
        return getattr(BUILTIN.get(self.target), "alone", False)


def resolve(entry: str | Mapping[str, Any] | Any) -> RewardSpec:
    """One entry of `rewards.functions`: a name, a mapping, or an object with those attributes.

    Raises RewardError for an unknown name, a missing file, options a built-in does not have, a bad weight.
    """
    fields = _fields(entry)
    target = fields.get("path") or fields.get("name")
    if not target:
        raise RewardError(f"a reward function needs a `name` or a `path`: got {fields}")
    target = _target(str(target))
    name = fields.get("name") if fields.get("path") else None
    spec = RewardSpec(
        name=str(name or target.replace(":", ".").rpartition(".")[2]),
        target=target,
        weight=_weight(fields.get("weight"), target),
        kwargs=dict(fields.get("kwargs") or {}),
    )
    reserved = sorted(set(spec.kwargs) & set(PASSED))
    if reserved:
        raise RewardError(f"reward {spec.label}: kwargs may not set {', '.join(reserved)}: Hone passes them")
    if target in BUILTIN:
        _check_builtin_options(spec)
    return spec


def resolve_all(entries: Iterable[Any]) -> list[RewardSpec]:
    """Every entry of `rewards.functions`. Raises RewardError when two share a name or no weight counts."""
    specs = [resolve(entry) for entry in entries]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise RewardError(
                f"two reward functions are called '{name}': give one `path: {name}` and its own `name`"
            )
    if not any(spec.weight for spec in specs):
        raise RewardError("no reward function has a weight other than 0: list one under rewards.functions")
    return specs


def _fields(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, Mapping):
        unknown = sorted(set(entry) - set(_KEYS))
        if unknown:
            raise RewardError(
                f"a reward function has no key {', '.join(unknown)}: it takes {', '.join(_KEYS)}"
            )
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


def _weight(weight: Any, target: str) -> float:
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise RewardError(f"reward '{target}': weight must be a finite number, not {weight!r}")
    return float(weight)


def _check_builtin_options(spec: RewardSpec) -> None:
    """A built-in takes any column as **columns: without this, a mistyped option would vanish."""
    parameters = inspect.signature(BUILTIN[spec.target]).parameters.values()
    options = {p.name for p in parameters if p.default is not p.empty}
    unknown = sorted(set(spec.kwargs) - options)
    if unknown:
        takes = ", ".join(sorted(options)) or "none"
        raise RewardError(f"reward {spec.label} has no option {', '.join(unknown)}; its options: {takes}")
