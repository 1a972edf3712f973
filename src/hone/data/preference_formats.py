"""Formats of preference rows: a prompt with a better and a worse answer, or with one answer and a label or score.

| columns | meaning |
|---|---|
| `prompt`, `chosen`, `rejected` | all text, taken literally; or messages (TRL's explicit prompt) |
| `chosen`, `rejected` | text or messages that begin with the same prompt (TRL's implicit prompt, Tulu 3, HH-RLHF) |
| `question` (`instruction`, `query` …), or `conversations`, beside them | the prompt, as a user's message |
| `context`, `response1`, `response2`, `overall_preference` | HelpSteer3; a negative preference is for the first |
| `context`, `completions` | NeMo RL's PreferenceDataset: each completion has a `rank`, lowest best |
| `prompt`, `completion`, `label` or `kto_tag` | one answer; true if it is desirable (TRL's unpaired preference) |
| any columns of supervised training, and `label` | the same: `messages`, `instruction` and `output` … |
| `prompt`, `completion`, `score` | one answer and a number: how good it is |

`input_key`, `chosen_key` and `rejected_key` name columns (NeMo RL's BinaryPreferenceDataset). As in SFT, text in such a
column is a user's message or the assistant's answer; `system` and `history` are read as in SFT, too. `margin`, or the
difference of `chosen_score` and `rejected_score` (or `score_chosen` …), is by how much the better answer is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hone.data import columns
from hone.data.assistant_spans import common_length
from hone.data.formats import Example, Format
from hone.errors import DataError
from hone.types import Message

REASONS = ("identical", "tie", "prompts_differ", "null_prompt", "empty_prompt", "truncated")
"""Why a row is excluded: both responses are the same; neither is preferred; the responses begin with no common prompt
and there is no column for one, or it is null; the prompt is empty; truncation leaves nothing of a response."""
_ASSISTANT, _HUMAN = "\n\nAssistant:", "\n\nHuman:"
LABEL_COLUMNS = ("label", "kto_tag")
SCORE_COLUMNS = (("chosen_score", "rejected_score"), ("score_chosen", "score_rejected"))
CONVERSATIONS = ("conversations", "messages")
PAIRS = "pairs ('chosen' and 'rejected')"
LABELS = "single answers with a 'label'"
SCORES = "single answers with a 'score'"


class UnusableRow(DataError):
    """A well-formed row that cannot be trained on; such rows are counted by `reason`."""

    def __init__(self, reason: str, text: str = "") -> None:
        assert reason in REASONS
        self.reason = reason
        super().__init__(text or reason.replace("_", " "))


@dataclass(frozen=True)
class PreferenceRow:
    """The content of a row. `rejected` is None for a single answer, which has a label (`desirable`) or a `score`."""

    chosen: Example
    rejected: Example | None = None
    desirable: bool = True
    margin: float = 0.0
    score: float | None = None

    @property
    def kind(self) -> str:
        """PAIRS, LABELS or SCORES."""
        if self.rejected is not None:
            return PAIRS
        return LABELS if self.score is None else SCORES

    @property
    def responses(self) -> list[Example]:
        """Both answers, or the single one."""
        return [self.chosen] if self.rejected is None else [self.chosen, self.rejected]


def read(row: Mapping[str, Any], form: Format) -> PreferenceRow:
    """Read a row. Raises UnusableRow, or DataError naming its columns and the ones that are accepted."""
    if form.chosen_key or form.rejected_key or form.input_key:
        return _named(row, form)
    if columns.has(row, "chosen", "rejected"):
        return _pair(row, form, _prompt_column(row, form), row["chosen"], row["rejected"])
    if columns.has(row, "context", "response1", "response2", "overall_preference"):
        return _helpsteer(row, form)
    if columns.has(row, "context", "completions"):
        return _ranked(row, form)
    for label in LABEL_COLUMNS:
        if columns.has(row, label) and (answer := _single(row, form)):
            return PreferenceRow(
                answer, desirable=columns.boolean(row, label, "whether the answer is desirable")
            )
    if columns.has(row, "prompt", "completion", "score"):
        score = columns.number(row, "score", "how good the answer is")
        return PreferenceRow(
            _response(row, form, _prompt(row["prompt"]), _answer(row["completion"])), score=score
        )
    raise DataError(
        f"it has the columns {columns.listed(row)}, and no set of columns that is a preference: 'chosen' and "
        "'rejected' (with or without 'prompt'); 'prompt', 'completion' and 'label' (or 'score'); 'context' and "
        "'completions'; 'context', 'response1', 'response2' and 'overall_preference'. Or name the columns: "
        "data.train.input_key, chosen_key and rejected_key"
    )


def _named(row: Mapping[str, Any], form: Format) -> PreferenceRow:
    names = (form.input_key or "prompt", form.chosen_key or "chosen", form.rejected_key or "rejected")
    if missing := [name for name in names[1:] if row.get(name) is None]:
        raise DataError(columns.no_column(row, missing))
    if form.input_key and row.get(form.input_key) is None:
        raise DataError(columns.no_column(row, [form.input_key]))
    prompt, chosen, rejected = (row[name] if columns.has(row, name) else None for name in names)
    return _pair(row, form, _as_question(row, form, prompt), chosen, rejected)


def _as_question(row: Mapping[str, Any], form: Format, question: Any) -> Any:
    """A text as a user's message, after the row's history."""
    if not isinstance(question, str) or not question.strip():
        return question
    if form.chat:
        return [*columns.history(row), {"role": "user", "content": question}]
    return f"{question}\n" if form.literal(row) else question


def _prompt_column(row: Mapping[str, Any], form: Format) -> Any:
    """The prompt of a row with `chosen` and `rejected`; None if these begin with the prompt."""
    if columns.has(row, "prompt"):
        return row["prompt"]
    for answer in map(_answer, (row["chosen"], row["rejected"])):
        if answer.startswith(_HUMAN) if isinstance(answer, str) else any(m["role"] == "user" for m in answer):
            return None
    for column in columns.QUESTIONS:
        if columns.has(row, column):
            return _as_question(row, form, columns.question(row, column))
    for column in CONVERSATIONS:
        if columns.has(row, column):
            asked = columns.messages(row, column)
            while asked and asked[-1]["role"] == "assistant":
                asked = asked[:-1]
            return asked or None
    return None


def _helpsteer(row: Mapping[str, Any], form: Format) -> PreferenceRow:
    preference = columns.number(row, "overall_preference", "which answer is better")
    if not preference:
        raise UnusableRow("tie")
    responses = (row["response1"], row["response2"])
    chosen, rejected = responses if preference < 0 else responses[::-1]
    return _pair(row, form, row["context"], chosen, rejected, margin=abs(preference))


def _ranked(row: Mapping[str, Any], form: Format) -> PreferenceRow:
    ranked = sorted(row["completions"], key=lambda entry: entry["rank"])
    if len(ranked) < 2:
        raise DataError("column 'completions' needs two completions, each with a 'rank' and a 'completion'")
    if ranked[0]["rank"] == ranked[-1]["rank"]:
        raise UnusableRow("tie")
    return _pair(row, form, row["context"], ranked[0]["completion"], ranked[-1]["completion"])


def _single(row: Mapping[str, Any], form: Format) -> Example | None:
    """A prompt and its only answer; None if the row has none."""
    if columns.has(row, "prompt", "completion"):
        return _response(row, form, _prompt(row["prompt"]), _answer(row["completion"]))
    if any(columns.has(row, *pair) for pair in columns.PAIRS):
        return form.supervised(row)
    for column in CONVERSATIONS:
        if columns.has(row, column):
            example = form.supervised(row)
            last = max(i for i, m in enumerate(example.messages) if m["role"] == "assistant")
            return replace(example, num_prompt_messages=last)
    return None


def _pair(
    row: Mapping[str, Any],
    form: Format,
    prompt: Any,
    chosen: Any,
    rejected: Any,
    *,
    margin: float | None = None,
) -> PreferenceRow:
    chosen, rejected = _answer(chosen), _answer(rejected)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError("the chosen and the rejected answer must both be text, or both be lists of messages")
    if chosen == rejected:
        raise UnusableRow("identical")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            prompt, chosen, rejected = _split_text(row, chosen, rejected)
    elif not isinstance(chosen, str) and not isinstance(rejected, str):
        prompt, chosen, rejected = _split_messages(row, prompt, chosen, rejected)
    prompt = _prompt(prompt)
    return PreferenceRow(
        _response(row, form, prompt, chosen),
        _response(row, form, prompt, rejected),
        margin=_margin(row) if margin is None else margin,
    )


def _response(
    row: Mapping[str, Any], form: Format, prompt: str | list[Message], answer: str | list[Message]
) -> Example:
    if isinstance(prompt, str) and isinstance(answer, str):
        if form.literal(row):
            return Example(prompt=prompt, completion=answer)
        return form.pair(row, prompt, answer)
    if isinstance(prompt, str):
        prompt = [*columns.history(row), {"role": "user", "content": prompt}]
    messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    return form.conversation(row, prompt, messages)


def _answer(value: Any) -> str | list[Message]:
    if isinstance(value, str):
        return value
    return columns.messages({"answer": [value] if isinstance(value, Mapping) else value}, "answer")


def _prompt(value: Any) -> str | list[Message]:
    """The prompt as text or messages. Raises UnusableRow if it is empty."""
    prompt = value if isinstance(value, str) or not value else columns.messages({"prompt": value}, "prompt")
    asked = prompt if isinstance(prompt, str) else "".join(str(m["content"]) for m in prompt or ())
    if not asked.strip():
        raise UnusableRow("empty_prompt")
    return prompt


def _split_text(row: Mapping[str, Any], chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that two texts begin with, and the rest of each text.

    A dialogue of HH-RLHF is split after the last `Assistant:` that both have. Any other text is split before the white
    space in front of the first word that differs, so that no response begins within a word.
    """
    shared = chosen[: common_length(chosen, rejected)]
    if (null := _nothing_shared(row)).reason == "null_prompt" and not chosen.startswith(_HUMAN):
        raise null  # there is a column for the prompt: a common beginning is not the prompt
    if chosen.startswith(_HUMAN):
        at = shared.rfind(_ASSISTANT)
        at = at + len(_ASSISTANT) if at >= 0 else 0
    else:
        at = len(shared)
        if not all(text[at:] and not text[at].isalnum() for text in (chosen, rejected)):
            at = max((i for i, letter in enumerate(shared) if letter.isspace()), default=0)
        at = len(shared[:at].rstrip())
    if not at:
        raise _nothing_shared(row)
    return shared[:at], chosen[at:], rejected[at:]


def _split_messages(
    row: Mapping[str, Any], prompt: Any, chosen: list[Message], rejected: list[Message]
) -> tuple[Any, list[Message], list[Message]]:
    """The messages that both responses begin with, and the rest of each. A prompt given as messages that the responses
    do not repeat is kept as it is."""
    if prompt is not None and not isinstance(prompt, str):
        asked = columns.messages({"prompt": prompt}, "prompt")
        if chosen[: len(asked)] != asked or rejected[: len(asked)] != asked:
            return asked, chosen, rejected
    elif isinstance(prompt, str) and all(m["role"] == "assistant" for m in (*chosen, *rejected)):
        return prompt, chosen, rejected
    shared = common_length(chosen, rejected)
    while shared and chosen[shared - 1]["role"] == "assistant":  # one response continues where the other ends
        shared -= 1
    if not any(m["role"] != "system" for m in chosen[:shared]):
        raise _nothing_shared(row)
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _nothing_shared(row: Mapping[str, Any]) -> UnusableRow:
    """The error for responses without a common prompt."""
    for column in ("prompt", *columns.QUESTIONS, *CONVERSATIONS):
        if row.get(column, "") is None:
            return UnusableRow("null_prompt", f"without a prompt ('{column}' is null)")
    return UnusableRow("prompts_differ")


def _margin(row: Mapping[str, Any]) -> float:
    if columns.has(row, "margin"):
        return columns.number(row, "margin", "by how much the better answer is better")
    for better, worse in SCORE_COLUMNS:
        if columns.has(row, better, worse):
            meaning = "how good an answer is"
            return columns.number(row, better, meaning) - columns.number(row, worse, meaning)
    return 0.0
