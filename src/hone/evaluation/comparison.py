"""Compares models problem by problem, from the samples that their evaluations wrote.

Models are compared on the problems that both answered, by the mean score of a problem's answers, with a paired test
(`hone.evaluation.statistics.paired_test`). Where several comparisons are made, p-values are adjusted by Holm's method
(Holm 1979), which bounds the chance of any false find by 5%.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hone.errors import DataError
from hone.evaluation.statistics import Estimate, PairedTest, estimate, paired_test
from hone.files import read_json_object


@dataclass(frozen=True)
class Scores:
    """One model's scores on one suite, or on one file."""

    metric: str
    version: int | None
    values: Mapping[str, tuple[float, ...]]
    """The scores of each problem's answers, by the problem's id."""
    golds: Mapping[str, str] = field(default_factory=dict)
    """The right answer of each problem, by which a change of the data is noticed."""
    answers: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    """The prompt and the first answer of each problem."""


@dataclass(frozen=True)
class Comparison:
    """A model against the baseline on one suite."""

    suite: str
    metric: str
    model: str
    baseline: Estimate
    other: Estimate
    test: PairedTest
    p_adjusted: float
    """By Holm's method, over all comparisons that were made together."""
    gained: list[str]
    """Ids of problems on which the model scores higher."""
    lost: list[str]
    unpaired: int
    """Problems that only one of the two answered; they are left out."""

    @property
    def differs(self) -> bool:
        """Whether the difference is significant at the 5% level, all comparisons together."""
        return self.p_adjusted < 0.05

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        test = self.test
        return {
            "suite": self.suite,
            "metric": self.metric,
            "model": self.model,
            "baseline_score": self.baseline.mean,
            "score": self.other.mean,
            "difference": test.difference,
            "difference_interval": [test.low, test.high],
            "problems": self.other.problems,
            "unpaired": self.unpaired,
            "method": test.method,
            "p_value": test.p_value,
            "p_holm": self.p_adjusted,
            "differs": self.differs,
            "gained": self.gained,
            "lost": self.lost,
        }


def is_results(path: Path) -> bool:
    """Whether a folder holds results of `hone eval`."""
    return (path / "report.json").is_file() and (
        (path / "samples.jsonl").is_file() or any(path.glob("*/samples.jsonl"))
    )


def read_results(path: Path) -> dict[str, Scores]:
    """The scores in a folder of results, by suite (or by data set). Raises DataError for damaged files."""
    report = read_json_object(path / "report.json")
    if "suites" not in report:
        return {str(report.get("suite") or report.get("dataset")): _scores(path, report)}
    return {name: _scores(path / name, one) for name, one in report["suites"].items()}


def _scores(path: Path, report: Mapping[str, Any]) -> Scores:
    metric = str(report["metric"]) if "suite" in report else "reward"
    values: dict[str, list[float]] = {}
    golds: dict[str, str] = {}
    answers: dict[str, tuple[Any, str]] = {}
    file = path / "samples.jsonl"
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                value = record["rewards"].get(metric) if "suite" in report else record["reward"]
                values.setdefault(record["group"], []).append(float(value or 0.0))
                golds.setdefault(record["group"], str(record.get("answer")))
                answers.setdefault(record["group"], (record.get("prompt"), str(record.get("completion"))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not a file of samples of hone eval: {error}") from error
    if not values:
        raise DataError(f"{file} has no samples")
    return Scores(metric, report.get("version"), {key: tuple(v) for key, v in values.items()}, golds, answers)


def compare(baseline: Mapping[str, Scores], others: Mapping[str, Mapping[str, Scores]]) -> list[Comparison]:
    """Each of the other models against the baseline, on the suites that both have. Raises DataError for models without
    a common suite, for versions of a suite that differ, and for data that differs."""
    found = []
    for model, results in others.items():
        common = [name for name in baseline if name in results]
        if not common:
            raise DataError(
                f"{model} was evaluated on {', '.join(results)}, and the baseline on {', '.join(baseline)}: there is "
                "nothing that both have"
            )
        found += [_compared(name, model, baseline[name], results[name]) for name in common]
    adjusted = holm([comparison.test.p_value for comparison in found])
    return [Comparison(**{**vars(one), "p_adjusted": p}) for one, p in zip(found, adjusted, strict=True)]


def _compared(suite: str, model: str, a: Scores, b: Scores) -> Comparison:
    if (a.metric, a.version) != (b.metric, b.version):
        raise DataError(
            f"{suite}: {model} has {b.metric} of version {b.version}, the baseline {a.metric} of version {a.version}, "
            "which are different numbers: evaluate both with one version of Hone"
        )
    common = [key for key in a.values if key in b.values]
    if not common:
        raise DataError(f"{suite}: {model} and the baseline have no problem in common")
    if changed := [key for key in common if a.golds.get(key) != b.golds.get(key)]:
        raise DataError(
            f"{suite}: the right answer of {changed[0]} differs between the two: the data is not the same"
        )
    first, second = [a.values[key] for key in common], [b.values[key] for key in common]
    means_a, means_b = [_mean(values) for values in first], [_mean(values) for values in second]
    pairs = list(zip(common, means_a, means_b, strict=True))
    return Comparison(
        suite,
        a.metric,
        model,
        estimate(first),
        estimate(second),
        paired_test(means_a, means_b),
        1.0,
        [key for key, x, y in pairs if y > x],
        [key for key, x, y in pairs if y < x],
        len(a.values.keys() ^ b.values.keys()),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, in their order."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
