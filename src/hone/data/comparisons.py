"""Formats of preference rows: a prompt with a better and a worse answer, or one answer and whether (or how) good it is.

| columns | meaning |
|---|---|
| `prompt`, `chosen`, `rejected` | all text, taken literally; or messages (TRL's explicit prompt) |
| `chosen`, `rejected` | both sides whole, text or messages: the prompt is what they have in common (TRL's implicit
  prompt; Tulu 3, whose `prompt` repeats the first message; HH-RLHF's `\\n\\nHuman:` dialogues) |
| `context`, `response1`, `response2`, `overall_preference` | HelpSteer3; a negative preference is for the first |
| `context`, `completions` | NeMo RL's PreferenceDataset: each completion has a `rank`, lowest best |
| `prompt`, `completion`, `label` | one answer, true where it is desirable (TRL's unpaired preference) |
| `prompt`, `completion`, `score` | one answer and a number that says how good it is |

`input_key`, `chosen_key` and `rejected_key` name columns (NeMo RL's BinaryPreferenceDataset); as in SFT a text that a
key names is what a user said, or the assistant's answer. `margin`, or the difference of `chosen_score` and
`rejected_score`, says by how much the better answer is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hone.data import columns
from hone.data.formats import Example, Format
from hone.data.spans import common_length
from hone.errors import DataError
from hone.types import Message

REASONS = ("identical", "tie", "prompts_differ", "empty_prompt", "truncated")
"""Why a row is left out: both sides are the same; nobody preferred one; no common prompt; nothing asked; a side of
which nothing is left within the longest sequence."""
_ASSISTANT, _HUMAN = "\n\nAssistant:", "\n\nHuman:"


PAIRS = "pairs ('chosen' and 'rejected')"
LABELS = "single answers with a 'label'"
SCORES = "single answers with a 'score'"


class Unusable(DataError):
    """A row that is well formed, and that nothing can be learned from: counted, by `reason`."""

    def __init__(self, reason: str) -> None:
        assert reason in REASONS
        self.reason = reason
        super().__init__(reason.replace("_", " "))


@dataclass(frozen=True)
class Comparison:
    """What a row says. `rejected` is None for one answer alone, which `desirable` judges, or `score`."""

    chosen: Example
    rejected: Example | None = None
    desirable: bool = True
    margin: float = 0.0
    score: float | None = None

    @property
    def kind(self) -> str:
        """What its dataset consists of."""
        if self.rejected is not None:
            return PAIRS
        return LABELS if self.score is None else SCORES

    @property
    def sides(self) -> list[Example]:
        """Both answers, or the one."""
        return [self.chosen] if self.rejected is None else [self.chosen, self.rejected]


def read(row: Mapping[str, Any], form: Format) -> Comparison:
    """Read a row. Raises Unusable, or DataError naming its columns and those that would do."""
    if form.chosen_key or form.rejected_key or form.input_key:
        return _named(row, form)
    if columns.has(row, "chosen", "rejected"):
        return _pair(row, form, row.get("prompt"), row["chosen"], row["rejected"])
    if columns.has(row, "context", "response1", "response2", "overall_preference"):
        return _helpsteer(row, form)
    if columns.has(row, "context", "completions"):
        return _ranked(row, form)
    if columns.has(row, "prompt", "completion", "label"):
        return _rated(row, form)
    if columns.has(row, "prompt", "completion", "score"):
        return _scored(row, form)
    raise DataError(
        f"it has the columns {columns.listed(row)}, and none of what comparisons are read from: 'chosen' and "
        "'rejected' (with or without 'prompt'); 'prompt', 'completion' and 'label' (or 'score'); 'context' and "
        "'completions'; 'context', 'response1', 'response2' and 'overall_preference'. Or name the columns: "
        "data.train.input_key, chosen_key and rejected_key"
    )


def _named(row: Mapping[str, Any], form: Format) -> Comparison:
    names = (form.input_key or "prompt", form.chosen_key or "chosen", form.rejected_key or "rejected")
    prompt, chosen, rejected = (row.get(name) for name in names)
    if missing := [name for name in names[1:] if row.get(name) is None]:
        raise DataError(columns.no_column(row, missing))
    if form.input_key and prompt is None:
        raise DataError(columns.no_column(row, [form.input_key]))
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}] if form.chat else f"{prompt}\n"
    return _pair(row, form, prompt, chosen, rejected)


def _helpsteer(row: Mapping[str, Any], form: Format) -> Comparison:
    preference = row["overall_preference"]
    if not preference:
        raise Unusable("tie")
    sides = (row["response1"], row["response2"])
    chosen, rejected = sides if preference < 0 else sides[::-1]
    return _pair(row, form, row["context"], chosen, rejected, margin=abs(float(preference)))


def _ranked(row: Mapping[str, Any], form: Format) -> Comparison:
    ranked = sorted(row["completions"], key=lambda entry: entry["rank"])
    if len(ranked) < 2:
        raise DataError("column 'completions' needs two completions, each with a 'rank' and a 'completion'")
    if ranked[0]["rank"] == ranked[-1]["rank"]:
        raise Unusable("tie")
    return _pair(row, form, row["context"], ranked[0]["completion"], ranked[-1]["completion"])


def _rated(row: Mapping[str, Any], form: Format) -> Comparison:
    if not isinstance(row["label"], bool | int) or row["label"] not in (0, 1):
        raise DataError(
            f"column 'label' says whether the answer is desirable: true or false, not {row['label']!r}"
        )
    prompt = _prompt(row["prompt"])
    return Comparison(_side(row, form, prompt, _answer(row["completion"])), desirable=bool(row["label"]))


def _scored(row: Mapping[str, Any], form: Format) -> Comparison:
    score = row["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(f"column 'score' says how good the answer is: a finite number, not {score!r}")
    return Comparison(
        _side(row, form, _prompt(row["prompt"]), _answer(row["completion"])), score=float(score)
    )


def _pair(
    row: Mapping[str, Any],
    form: Format,
    prompt: Any,
    chosen: Any,
    rejected: Any,
    *,
    margin: float | None = None,
) -> Comparison:
    chosen, rejected = _answer(chosen), _answer(rejected)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError("the chosen and the rejected answer must both be text, or both be lists of messages")
    if chosen == rejected:
        raise Unusable("identical")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            prompt, chosen, rejected = _split_text(chosen, rejected)
    elif not isinstance(chosen, str) and not isinstance(rejected, str):
        prompt, chosen, rejected = _split_messages(prompt, chosen, rejected)
    prompt = _prompt(prompt)
    return Comparison(
        _side(row, form, prompt, chosen),
        _side(row, form, prompt, rejected),
        margin=_margin(row) if margin is None else margin,
    )


def _side(
    row: Mapping[str, Any], form: Format, prompt: str | list[Message], answer: str | list[Message]
) -> Example:
    if isinstance(prompt, str) and isinstance(answer, str):
        if form.system_prompt is None and form.prompt_text is None:
            return Example(prompt=prompt, completion=answer)
        return form.pair(row, prompt, answer)
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    return form.conversation(row, asked, said)


def _answer(value: Any) -> str | list[Message]:
    if isinstance(value, str):
        return value
    return columns.messages({"answer": [value] if isinstance(value, Mapping) else value}, "answer")


def _prompt(value: Any) -> str | list[Message]:
    """The prompt as text or messages. Raises Unusable where it asks nothing."""
    prompt = value if isinstance(value, str) or not value else columns.messages({"prompt": value}, "prompt")
    asked = prompt if isinstance(prompt, str) else "".join(str(m["content"]) for m in prompt or ())
    if not asked.strip():
        raise Unusable("empty_prompt")
    return prompt


def _split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that two texts begin with, and what follows it in each.

    A dialogue of HH-RLHF is split after the last `Assistant:` that both have. Any other text before the white space in
    front of the first word that differs, so that neither side begins within a word.
    """
    shared = chosen[: common_length(chosen, rejected)]
    if chosen.startswith(_HUMAN):
        at = shared.rfind(_ASSISTANT)
        at = at + len(_ASSISTANT) if at >= 0 else 0
    else:
        at = len(shared)
        if not all(text[at:] and not text[at].isalnum() for text in (chosen, rejected)):
            at = max((i for i, letter in enumerate(shared) if letter.isspace()), default=0)
        at = len(shared[:at].rstrip())
    if not at:
        raise Unusable("prompts_differ")
    return shared[:at], chosen[at:], rejected[at:]


def _split_messages(
    prompt: Any, chosen: list[Message], rejected: list[Message]
) -> tuple[Any, list[Message], list[Message]]:
    """The messages that both sides begin with, and the rest of each. A prompt that is given as messages, and that the
    sides do not repeat, is the prompt."""
    if prompt is not None and not isinstance(prompt, str):
        asked = columns.messages({"prompt": prompt}, "prompt")
        if chosen[: len(asked)] != asked or rejected[: len(asked)] != asked:
            return asked, chosen, rejected
    elif isinstance(prompt, str) and all(m["role"] == "assistant" for m in (*chosen, *rejected)):
        return prompt, chosen, rejected
    shared = common_length(chosen, rejected)
    while shared and chosen[shared - 1]["role"] == "assistant":  # one side goes on where the other ends
        shared -= 1
    if not any(m["role"] != "system" for m in chosen[:shared]):
        raise Unusable("prompts_differ")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _margin(row: Mapping[str, Any]) -> float:
    if isinstance(row.get("margin"), int | float):
        return float(row["margin"])
    scores: Sequence[Any] = (row.get("chosen_score"), row.get("rejected_score"))
    if all(isinstance(score, int | float) for score in scores):
        return float(scores[0]) - float(scores[1])
    return 0.0
