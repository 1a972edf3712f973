"""One batch while it is scored: requests, rewards as they arrive, and failures with their causes."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.errors import RewardError
from hone.rollout.rewards.resolve import RewardSpec
from hone.rollout.workers.failure_budget import FailureBudget

NO_FUNCTION_APPLIES = "no reward function applies: all returned None"


@dataclass
class Scored:
    """The scores of one completion. `reward` is None where scoring failed; `failure` is the cause."""

    rewards: dict[str, float | None] = field(default_factory=dict)
    """By function; None if the function does not apply or failed."""
    reward: float | None = None
    """The sum of weight x reward over the functions that apply."""
    failure: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Values that functions reported with `log_extra`, by column."""
    weights: dict[str, float] = field(default_factory=dict, compare=False)
    """The weight of each function in the sum: the same for all completions of a batch."""


@dataclass(frozen=True)
class TrainingProgress:
    """The training step at which a batch is scored. Functions receive it, and weights may depend on it."""

    step: int | None = None
    """Optimizer steps done; None outside training."""
    max_steps: int | None = None

    def state(self) -> dict[str, Any]:
        """The attributes of `trainer_state`."""
        return {"global_step": self.step or 0, "max_steps": -1 if self.max_steps is None else self.max_steps}


@dataclass
class Tally:
    """What functions reported by `log_metric`, and how often they were retried and killed."""

    reported: dict[str, list[float]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def drain(self) -> dict[str, float]:
        """Means and counts since the last call."""
        means = {name: sum(values) / len(values) for name, values in self.reported.items()}
        counts = {f"workers_{name}": float(self.counts[name]) for name in ("retried", "killed")}
        self.reported.clear()
        self.counts.clear()
        return means | counts


@dataclass(frozen=True)
class Scoring:
    """How a batch is judged and counted."""

    max_failure_fraction: float
    """Share of its completions that may fail."""
    tally: Tally


class ScoringBatch:
    """Completions with their columns, and the rewards received so far."""

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Sequence[Any]],
        scoring: Scoring,
        sources: Sequence[tuple[str, str]] | None = None,
        progress: TrainingProgress | None = None,
    ) -> None:
        """sources: the dataset and the environment of each completion's row."""
        self._specs, self._sources = specs, sources
        self._progress = progress or TrainingProgress()
        self._weights = {spec.name: spec.weight_at(self._progress.step) for spec in specs}
        self._columns = {**columns, "prompts": prompts, "completions": completions}
        self.size = len(completions)
        for name, values in self._columns.items():
            if len(values) != self.size:
                raise ValueError(f"column '{name}' has {len(values)} values for {self.size} completions")
        self._rewards: dict[str, list[float | None]] = {spec.name: [None] * self.size for spec in specs}
        self._extra: list[dict[str, Any]] = [{} for _ in range(self.size)]
        self.tally = scoring.tally
        self._failures = FailureBudget(scoring.max_failure_fraction, self.size)

    def rows(self, spec: RewardSpec) -> list[int]:
        """Indices of the completions that the function scores."""
        if self._sources is None:
            return list(range(self.size))
        return [i for i, source in enumerate(self._sources) if spec.applies(*source)]

    def request(self, spec: RewardSpec, accepts: list[str] | None, indices: Sequence[int]) -> bytes:
        """The pickled call of `spec` on some completions. Raises RewardError for a column that cannot be pickled."""
        names = [name for name in self._columns if accepts is None or name in accepts]
        arguments = {name: [self._columns[name][i] for i in indices] for name in names}
        message = {
            "op": "score",
            "name": spec.name,
            "accepts": accepts,
            "count": len(indices),
            "arguments": arguments,
            "state": self._progress.state(),
        }
        try:
            return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            column = _unpicklable(arguments)
            raise RewardError(f"reward {spec.label}: column '{column}' cannot be pickled: {error}") from error

    def record(self, spec: RewardSpec, indices: Sequence[int], reply: Mapping[str, Any]) -> None:
        """Record what the function returned. A completion fails if its reward is not finite or an exception."""
        for column, values in reply["extra"].items():
            for i, value in zip(indices, values, strict=True):
                self._extra[i][column] = value
        for i, reward in zip(indices, reply["ok"], strict=True):
            if isinstance(reward, dict):
                category = f"reward '{spec.name}': {reward['type']}"
                self.fail(i, f"reward '{spec.name}': {reward['failed']}", category)
            elif reward is None or math.isfinite(reward):
                self._rewards[spec.name][i] = reward
            else:
                self.fail(i, f"reward '{spec.name}' returned {'NaN' if math.isnan(reward) else reward}")

    def fail(self, index: int, cause: str, category: str | None = None, detail: str = "") -> None:
        """Record a failure (see FailureBudget.add). Raises RewardError if too many completions failed."""
        self._failures.add(index, cause, category, detail)
        self._failures.check("completions could not be scored", "rewards.timeout_s")

    def scored(self) -> list[Scored]:
        """All scores, in order, once every function has replied. Raises RewardError if too many failed."""
        counted = [spec.name for spec in self._specs if spec.counts]
        rows = [{name: values[i] for name, values in self._rewards.items()} for i in range(self.size)]
        for i, rewards in enumerate(rows):
            if i not in self._failures.causes and all(rewards[name] is None for name in counted):
                self.fail(i, NO_FUNCTION_APPLIES)
        return [self._one(i, rewards) for i, rewards in enumerate(rows)]

    def _one(self, index: int, rewards: dict[str, float | None]) -> Scored:
        causes, total = self._failures.causes.get(index), None
        if not causes:
            total = math.fsum(self._weights[name] * r for name, r in rewards.items() if r is not None)
        return Scored(rewards, total, "; ".join(causes or ()) or None, self._extra[index], self._weights)


def _unpicklable(arguments: Mapping[str, Any]) -> str:
    for name, values in arguments.items():
        try:
            pickle.dumps(values, protocol=pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
            return name
    return "?"
