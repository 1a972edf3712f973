"""The numbers of a suite: means with intervals, pass@k and cons@k for several k, counts of what went wrong."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from hone.endpoint_completion import length_of
from hone.evaluation.metrics import comparable, majority_at_k, pass_at_k
from hone.evaluation.statistics import Estimate, estimate
from hone.evaluation.suite import Suite
from hone.types import Group


def suite_report(suite: Suite, groups: Sequence[Group], k: int) -> dict[str, Any]:
    """The report of one suite. `metrics` has each metric's mean over problems with its 95% interval
    (`hone.evaluation.statistics.estimate`); with several answers to a problem `pass@k` and, where answers can be
    compared, `cons@k` of each extractor for k = 1, 2, 4, … up to all answers, and for the `k` that was asked for."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    count = len(groups[0].rollouts)
    names = list(dict.fromkeys(name for rollout in rollouts for name in rollout.rewards))
    metrics = {name: _described(estimate(_values(groups, name))) for name in names}
    report = {
        "suite": suite.name,
        "version": suite.version,
        "dataset": suite.name,
        "metric": suite.metric,
        "score": metrics[suite.metric]["mean"],
        "prompts": len(groups),
        "tests_per_prompt": count,
        "failed": sum(rollout.failure is not None for rollout in rollouts),
        "truncated": sum(rollout.completion.finish == "length" for rollout in rollouts),
        "metrics": metrics,
    }
    if suite.kind == "loglikelihood":
        return report
    lengths = [length for rollout in rollouts if (length := length_of(rollout.completion)) is not None]
    extracted = {
        name: sum(rollout.extra["extracted"].get(name) is None for rollout in rollouts)
        for name in suite.extraction
    }
    report |= {
        "mean_completion_length": sum(lengths) / len(lengths) if lengths else None,
        "no_answer": extracted,
    }
    if count > 1:
        report["samples"] = {
            name: _several(suite, groups, name, _sizes(count, k)) for name in suite.extraction
        }
    return report


def _sizes(count: int, k: int) -> list[int]:
    """1, 2, 4, …, all answers, and k."""
    return sorted({*(2**i for i in range(count.bit_length())), min(k, count), count})


def _values(groups: Sequence[Group], name: str) -> list[list[float]]:
    return [[rollout.rewards.get(name) or 0.0 for rollout in group.rollouts] for group in groups]


def _several(suite: Suite, groups: Sequence[Group], name: str, sizes: Sequence[int]) -> dict[str, Any]:
    """pass@k and cons@k by one extractor."""
    right = [[value >= 1 for value in values] for values in _values(groups, name)]
    found: dict[str, Any] = {
        f"pass@{k}": _described(estimate([[pass_at_k(len(row), sum(row), k)] for row in right]))
        for k in sizes
    }
    if suite.kind == "code" or suite.grader == "instructions":  # programs are not voted on
        return found
    votes = [[_vote(rollout.extra["extracted"].get(name)) for rollout in group.rollouts] for group in groups]
    for k in sizes:
        chunks = [[majority_at_k(v, r, k)] for v, r in zip(votes, right, strict=True)]
        found[f"cons@{k}"] = _described(estimate(chunks))
    return found


def _vote(answer: str | None) -> Hashable | None:
    return None if answer is None else comparable(answer)


def _described(found: Estimate) -> dict[str, float]:
    names = ("mean", "stderr", "low", "high")
    return {name: round(getattr(found, name), 6) for name in names}


def report_line(report: dict[str, Any]) -> str:
    """One suite's result, for people."""
    metrics = report["metrics"]
    main = metrics[report["metric"]]
    others = ", ".join(
        f"{name} {found['mean']:.4f}" for name, found in metrics.items() if name != report["metric"]
    )
    counts = f"{report['failed']} failed, {report['truncated']} truncated"
    if report.get("left_out"):
        counts += f", {report['left_out']} left out"
    if (found := report.get("contamination")) and found["contaminated"]:
        clean = (
            ""
            if found["clean_score"] is None
            else f", {report['metric']} without them {found['clean_score']:.4f}"
        )
        counts += f"; {found['contaminated']} problems are in {found['data']}{clean}"
    return (
        f"{report['suite']} (version {report['version']}): {report['metric']} = {main['mean']:.4f} "
        f"[{main['low']:.4f}, {main['high']:.4f}]{'; ' + others if others else ''}; {report['prompts']} problems x "
        f"{report['tests_per_prompt']} ({counts})"
    )
