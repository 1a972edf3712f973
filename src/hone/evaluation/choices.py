"""Log-likelihood tasks: the choice whose text a model finds likeliest.

`acc`: the choice with the largest sum of token log-probabilities; `acc_norm`: with the largest sum divided by the
choice's number of characters (both as lm-evaluation-harness defines them); `mc2`: the probability of the true choices,
normalised over all choices (Lin et al. 2022, arXiv 2109.07958).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hone.data.chat import Rendered
from hone.data.formats import PromptText
from hone.data.rows import Row, Rows
from hone.errors import DataError
from hone.evaluation.suite_prompts import PromptWriter
from hone.types import Completion, Group, LogprobModel, Prompt, Rollout, Sample

PROBLEMS_AT_ONCE = 64


@dataclass(frozen=True)
class ChoiceProblem:
    """One problem: a sequence for each choice, whose targets are the tokens of the choice."""

    prompt: Prompt
    """Its tokens are those of the longest sequence, so that lengths are checked as those of prompts are."""
    choices: tuple[str, ...]
    true: tuple[bool, ...]
    """Which choices are right: one, or several (`mc2`)."""
    samples: tuple[Sample, ...]


def choice_problems(writer: PromptWriter, rows: Rows) -> list[ChoiceProblem]:
    """The problems of a log-likelihood suite. Raises DataError for a row whose label is not one of its choices."""
    return [_problem(writer, f"{writer.suite.name}:{i}", row) for i, row in enumerate(rows)]


def _problem(writer: PromptWriter, name: str, row: Row) -> ChoiceProblem:
    suite = writer.suite
    choices = [str(choice) for choice in suite.value(suite.choices, row)]
    label = suite.value(suite.label, row)
    true = (
        [bool(x) for x in label]
        if isinstance(label, list | tuple)
        else [i == label for i in range(len(choices))]
    )
    if len(true) != len(choices) or not any(true):
        raise DataError(f"{name}: the label {label} is not one of its {len(choices)} choices")
    encoded, contents, texts = [], [], []
    for choice in choices:
        content = writer.content(row, choice=choice)
        texts.append(suite.render(suite.continuation, row, choice=choice))
        contents.append(content)
        encoded.append(_encode(writer, content, texts[-1]))
    shared = all(tokens[:start] == encoded[0][0][: encoded[0][1]] for tokens, start in encoded)
    samples = [
        Sample(
            f"{name}/{i}",
            torch.tensor(tokens),
            torch.arange(len(tokens)) >= start,
            group=name if shared else "",
            prefix=start if shared else 0,
        )
        for i, (tokens, start) in enumerate(encoded)
    ]
    longest = max((tokens for tokens, _ in encoded), key=len)
    columns = {**row, "gold": " | ".join(c for c, right in zip(choices, true, strict=True) if right)}
    prompt = Prompt(name, tuple(longest), contents[0], columns, suite.name)
    return ChoiceProblem(prompt, tuple(text.lstrip() for text in texts), tuple(true), tuple(samples))


def _encode(writer: PromptWriter, content: Any, continuation: str) -> tuple[list[int], int]:
    """The tokens of prompt and continuation, and where the continuation's begin. Both are tokenised together; white
    space at the end of the prompt belongs to the continuation, as tokenizers merge it with the next word."""
    if isinstance(content, str):
        rest = content[len(content.rstrip()) :]
        content, continuation = content.rstrip(), rest + continuation
    assert writer.encoder is not None
    context = writer.encoder.render_prompt(PromptText(content))
    whole = Rendered(context.text + continuation, [], plain=context.plain)
    before, tokens = writer.encoder.encode_prompts([context, whole])
    if not before:
        raise DataError(f"suite {writer.suite.name}: the text before a choice has no token")
    return tokens, min(len(before), len(tokens) - 1)


async def score_choices(problems: Sequence[ChoiceProblem], model: LogprobModel) -> list[Group]:
    """A group of one rollout for each problem, whose text is the likeliest choice and whose rewards are the metrics."""
    samples = [sample for problem in problems for sample in problem.samples]
    sums = iter([float(logprobs_T.sum()) for logprobs_T in await model.forward(samples)])
    return [_group(problem, [next(sums) for _ in problem.samples]) for problem in problems]


def _group(problem: ChoiceProblem, sums_C: Sequence[float]) -> Group:
    metrics, best = choice_metrics(sums_C, [len(choice) for choice in problem.choices], problem.true)
    empty = Completion.of_version((), (), "stop", 0)
    extra = {
        "choices": list(problem.choices),
        "logprobs": [round(value, 6) for value in sums_C],
        "extracted": {"acc": problem.choices[best["acc"]], "acc_norm": problem.choices[best["acc_norm"]]},
    }
    rollout = Rollout(problem.prompt, empty, problem.choices[best["acc"]], rewards=dict(metrics), extra=extra)
    return Group(problem.prompt.id, [rollout])


def choice_metrics(
    sums_C: Sequence[float], lengths_C: Sequence[int], true_C: Sequence[bool]
) -> tuple[Mapping[str, float], Mapping[str, int]]:
    """The metrics of one problem, from the log-likelihood and the number of characters of each choice, and the choice
    that `acc` and `acc_norm` take (the first of equal ones)."""
    normed = [value / max(1, length) for value, length in zip(sums_C, lengths_C, strict=True)]
    best = {"acc": sums_C.index(max(sums_C)), "acc_norm": normed.index(max(normed))}
    metrics = {name: float(true_C[choice]) for name, choice in best.items()}
    if sum(true_C) > 1:
        most = max(sums_C)
        weights = [math.exp(value - most) for value in sums_C]
        metrics["mc2"] = math.fsum(w for w, right in zip(weights, true_C, strict=True) if right) / math.fsum(
            weights
        )
    return metrics, best
