"""The built-in reward functions, by name in `BUILTIN`. They run in reward workers: no torch here.

Each has TRL's signature, reads plain and conversational completions, and takes its options (what a config
entry's `kwargs` may hold) as named arguments. A row without a readable gold answer gets None: "does not
apply".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from hone.rollout.rewards.text import (
    answer_tag,
    as_number,
    boxed,
    gold_answer,
    last_number,
    same_answer,
    text_of,
)

GOLD_COLUMNS = ("answer", "ground_truth", "solution", "expected_answer")
"""Where the gold answer is looked for when the option `column` is not given: the first that the data has."""

_PLAIN_TAIL = 1000  # characters of an untagged completion in which `math` looks for the answer


def answer(completions: Sequence[Any], column: str | None = None, **columns: Any) -> list[float | None]:
    """1 if the last `<answer>…</answer>` equals the gold answer (as a number, or as text), else 0."""
    return [
        None
        if gold is None
        else float((given := answer_tag(text_of(c))) is not None and same_answer(given, gold))
        for c, gold in zip(completions, _golds(column, columns), strict=True)
    ]


def numeric(completions: Sequence[Any], column: str | None = None, **columns: Any) -> list[float | None]:
    """1 if the last number of the completion equals the gold number, else 0. None if the gold has none."""
    rewards: list[float | None] = []
    for completion, gold in zip(completions, _golds(column, columns), strict=True):
        gold_number = None if gold is None else as_number(gold)
        if gold_number is None and gold is not None:
            gold_number = last_number(gold)
        rewards.append(
            None if gold_number is None else float(last_number(text_of(completion)) == gold_number)
        )
    return rewards


def math(completions: Sequence[Any], column: str | None = None, **columns: Any) -> list[float | None]:
    r"""1 if math-verify finds the completion's answer equal to the gold one (LaTeX, sets, intervals, …),
    else 0.

    The answer is the last `<answer>…</answer>`, else the last `\boxed{…}`, else the last expression in the
    text. None where math-verify cannot read the gold. math-verify's own time limits are off, because they
    would turn "took too long" into "wrong"; the worker's limit reports it as a failure.
    """
    from math_verify import parse, verify

    rewards: list[float | None] = []
    for completion, gold in zip(completions, _golds(column, columns), strict=True):
        gold_parsed = parse(_as_latex(gold), parsing_timeout=None) if gold else []
        if not gold_parsed:
            rewards.append(None)
            continue
        text = text_of(completion)
        given = answer_tag(text)
        given = boxed(text) if given is None else given
        target = text[-_PLAIN_TAIL:] if given is None else _as_latex(given)
        rewards.append(float(verify(gold_parsed, parse(target, parsing_timeout=None), timeout_seconds=None)))
    return rewards


def format(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """1 if all of it is `<think>…</think>` then `<answer>…</answer>`, each tag exactly once, else 0."""
    return [float(_well_formed(text_of(c).strip())) for c in completions]


def length(
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    target: int = 100,
    **columns: Any,
) -> list[float | None]:
    """How near the completion's length is to `target` tokens: 0 at the target, falling linearly to -1."""
    return [max(-1.0, -abs(len(ids) - target) / target) for ids in completion_ids]


def reward_model(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    model: str | None = None,
    template: str | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    precision: str = "float32",
    device: str | None = None,
    timeout_s: float = 600.0,
    **columns: Any,
) -> list[float | None]:
    """What a reward model says of the prompt with its completion (see `hone.rollout.rewards.reward_model`).

    It runs in one process, which holds the model, and is given the whole batch; `timeout_s` bounds that call.
    """
    return [*_held(model, template, batch_size, max_length, precision, device).score(prompts, completions)]


def _prepare_model(model: str | None = None, timeout_s: float = 600.0, **options: Any) -> None:
    """Load the model when the run starts, not when the first completion is scored."""
    settings = {
        "template": None,
        "batch_size": 16,
        "max_length": None,
        "precision": "float32",
        "device": None,
    }
    _held(model, *(settings | options).values())


@functools.cache
def _held(model: str | None, *options: Any) -> Any:
    """The one model of this process."""
    from hone.errors import HoneError
    from hone.rollout.rewards.load import Unusable
    from hone.rollout.rewards.reward_model import RewardModel

    if model is None:
        raise Unusable("needs kwargs.model: the name or folder of a reward model")
    names = ("template", "batch_size", "max_length", "precision", "device")
    try:
        return RewardModel(model, **dict(zip(names, options, strict=True)))
    except HoneError as error:
        raise Unusable(f"cannot be used: {error}") from error


BUILTIN: dict[str, Callable[..., list[float | None]]] = {
    "answer": answer,
    "format": format,
    "length": length,
    "math": math,
    "numeric": numeric,
    "reward_model": reward_model,
}
"""What a config entry may name without a path."""

for _function in (answer, numeric, math):
    _function.any_of_columns = GOLD_COLUMNS  # type: ignore[attr-defined]  # checked before any completion is scored
reward_model.prepare = _prepare_model  # type: ignore[attr-defined]  # called once, when the function is loaded
reward_model.alone = True  # type: ignore[attr-defined]  # one process, not each worker of the pool


def _golds(column: str | None, columns: dict[str, Any]) -> list[str | None]:
    """The gold answer of each row, from `column` or from the first of GOLD_COLUMNS that has a value there."""
    names = [column] if column else [name for name in GOLD_COLUMNS if name in columns]
    if not names or names[0] not in columns:
        raise LookupError(
            f"no gold column: needs {column or ' or '.join(GOLD_COLUMNS)}, has {sorted(columns)}"
        )
    rows = zip(*(columns[name] for name in names), strict=True)
    return [gold_answer(next((value for value in row if value is not None), None)) for row in rows]


def _as_latex(text: str) -> str:
    r"""math-verify reads LaTeX only inside an environment: give bare LaTeX one."""
    return (
        text if "$" in text or r"\boxed" in text or r"\(" in text or r"\[" in text else rf"\boxed{{{text}}}"
    )


def _well_formed(text: str) -> bool:
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags) or not (text.startswith(tags[0]) and text.endswith(tags[3])):
        return False
    return text.partition(tags[1])[2].lstrip().startswith(tags[2])
