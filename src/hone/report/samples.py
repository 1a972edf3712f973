"""Which rollouts a page holds, the histograms of their rewards, and the causes of failures, from some of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from hone.report.run_view import Record, RunView

EACH = 4
"""Best, worst and failed rollouts of a step."""
GROUPS = 3
"""Whole groups of a step."""
MEMBERS = 16
"""Rollouts of a group that is shown whole."""
BINS = 10
DISTINCT = 8
"""Up to so many different rewards have a bar each; more are put into bins."""


@dataclass
class Gathered:
    """Rollouts of some steps of a run."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    """`step`, `count`, and the indices in `records` of the `best`, the `worst`, the `failed`, and of whole `groups`."""
    records: list[Record] = field(default_factory=list)
    prompts: dict[str, Any] = field(default_factory=dict)
    """Of each group in `records`."""
    rewards: dict[str, list[list[float]]] = field(default_factory=dict)
    """By function, all values of each step."""
    causes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def spaced(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, evenly spaced, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def gather(view: RunView, what: str, most: int) -> Gathered:
    """The rollouts (or validation samples) of at most `most` steps: all are counted, a few are kept."""
    found = Gathered()
    for step in spaced(list(view.samples.get(what, {})), most):
        records = view.read(what, step)
        if not records:
            continue
        number = len(found.steps)
        for record in records:
            _count(found, record, number)
        found.steps.append({"step": step, "count": len(records), **_chosen(found, records, what)})
    for values in found.rewards.values():
        values += [[] for _ in range(len(found.steps) - len(values))]
    return found


def _count(found: Gathered, record: Record, number: int) -> None:
    scores = {"reward": record.get("reward"), **(record.get("rewards") or {})}
    if len(record.get("rewards") or {}) == 1 and record.get("reward") in scores.values():
        scores = {"reward": record.get("reward")}
    for name, value in scores.items():
        values = found.rewards.setdefault(name, [])
        values += [[] for _ in range(number + 1 - len(values))]
        if isinstance(value, int | float):
            values[number].append(float(value))
    for key in ("failure", "excluded"):
        if record.get(key):
            cause = str(record[key]).split(":")[0][:80] if key == "failure" else f"excluded: {record[key]}"
            found.causes[cause] += 1
            found.examples.setdefault(cause, str(record[key])[:300])


def _chosen(found: Gathered, records: list[Record], what: str) -> dict[str, Any]:
    """Indices in `found.records` of what is shown of a step."""
    kept: dict[int, int] = {}

    def keep(indices: Iterable[int]) -> list[int]:
        for index in indices:
            if index not in kept:
                kept[index] = len(found.records)
                found.records.append(records[index])
                found.prompts.setdefault(str(records[index].get("group")), records[index].get("prompt"))
        return [kept[index] for index in indices]

    ranked = ranking(records)
    chosen: dict[str, Any] = {
        "best": keep(varied(ranked, records, EACH)),
        "worst": keep(varied(ranked[::-1], records, EACH)),
        "failed": keep(failures(records)[:EACH]),
    }
    if what == "validation" or not ranked:  # the same prompts at every step
        chosen["first"] = keep(range(min(2 * EACH, len(records))))
    chosen["groups"] = [keep(members[:MEMBERS]) for members in mixed_groups(records)[:GROUPS]]
    return chosen


def ranking(records: Sequence[Record]) -> list[int]:
    """Indices of the records that have a reward, the highest first; of equal rewards, the highest advantage first."""
    scored = [i for i, record in enumerate(records) if isinstance(record.get("reward"), int | float)]
    return sorted(scored, key=lambda i: (-records[i]["reward"], -(records[i].get("advantage") or 0), i))


def failures(records: Sequence[Record]) -> list[int]:
    """Indices of the records that failed or were left out."""
    return [i for i, record in enumerate(records) if record.get("failure") or record.get("excluded")]


def varied(ranked: Sequence[int], records: Sequence[Record], most: int) -> list[int]:
    """The first `most`, in rounds that take one of each group: eight right answers to one easy question say little."""
    seen: Counter[str] = Counter()
    rounds = []
    for index in ranked:
        group = str(records[index].get("group"))
        rounds.append((seen[group], index))
        seen[group] += 1
    return [index for _, index in sorted(rounds, key=itemgetter(0))[:most]]


def mixed_groups(records: Sequence[Record]) -> list[list[int]]:
    """Groups of several rollouts as indices in `records`, those with the largest spread of rewards first."""
    members: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        members.setdefault(str(record.get("group")), []).append(index)
    groups = [group for group in members.values() if len(group) > 1]
    return sorted(groups, key=lambda group: -_spread([records[i].get("reward") for i in group]))


def _spread(rewards: Sequence[Any]) -> float:
    values = [float(value) for value in rewards if isinstance(value, int | float)]
    mean = sum(values) / len(values) if values else 0.0
    return sum((value - mean) ** 2 for value in values)


def histograms(found: Gathered) -> list[dict[str, Any]]:
    """For each reward: the bins from low to high, and the number of values of each step in each bin."""
    drawn = []
    for name, by_step in found.rewards.items():
        values = sorted(value for step in by_step for value in step)
        if not values:
            continue
        distinct = sorted({round(value, 6) for value in values})
        if len(distinct) <= DISTINCT:
            labels = [f"{value:g}" for value in distinct]
            counts = [[sum(round(v, 6) == value for v in step) for value in distinct] for step in by_step]
        else:
            low, width = values[0], (values[-1] - values[0]) / BINS
            labels = [f"{low + i * width:.3g} to {low + (i + 1) * width:.3g}" for i in range(BINS)]
            counts = [[0] * BINS for _ in by_step]
            for row, step in zip(counts, by_step, strict=True):
                for value in step:
                    row[min(BINS - 1, int((value - low) / width))] += 1
        drawn.append({"name": name, "bins": labels, "counts": counts})
    return drawn
