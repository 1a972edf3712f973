"""Show single rows as they are tokenised and masked, to inspect them before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.data import preference_formats
from hone.data.chat import Encoded, Encoder
from hone.data.datasets import Dataset
from hone.data.preference_formats import UnusableRow
from hone.data.preference_samples import CHOSEN, REJECTED, EncodedPreference

_SHOWN = ("prompt", "messages", "conversations")
"""Columns that are part of the prompt's tokens."""
_WINDOW = 8
"""Number of preceding tokens that are decoded together with a token: its text may depend on them."""


@dataclass(frozen=True)
class TokenPiece:
    """The tokens of one or more whole characters: usually one token."""

    text: str
    ids: tuple[int, ...]
    target: bool
    special: bool


@dataclass(frozen=True)
class SequencePreview:
    """One token sequence of a row. `name` is empty if the row has only one."""

    name: str
    pieces: list[TokenPiece]
    num_tokens: int
    num_targets: int
    truncated: bool = False
    findings: list[str] = field(default_factory=list)
    """Differences between the row and its rendering."""


@dataclass(frozen=True)
class RowPreview:
    """A row as training has it. `excluded` is the reason why it is not trained on; empty if it is."""

    location: str
    sequences: list[SequencePreview]
    excluded: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    """Columns that are used in addition to the texts."""


def of_example(encoder: Encoder, dataset: Dataset, row: int) -> RowPreview:
    """A row of SFT. This and the following functions raise DataError for an invalid row."""
    encoded = encoder.encode(dataset.format.supervised(dataset.rows[row]))
    reason = "" if encoded.has_target else "it has no target"
    return RowPreview(dataset.rows.location(row), [_sequence(encoder, "", encoded)], reason)


def of_preference(encoder: Encoder, dataset: Dataset, row: int) -> RowPreview:
    """A preference row."""
    location = dataset.rows.location(row)
    try:
        preference = preference_formats.read(dataset.rows[row], dataset.format)
    except UnusableRow as error:
        return RowPreview(location, [], str(error))
    encoded = [encoder.encode(response) for response in preference.responses]
    single = CHOSEN if preference.desirable else REJECTED
    if preference.score is not None:
        single = "answer"
    names = [CHOSEN, REJECTED] if len(encoded) == 2 else [single]
    sequences = [_sequence(encoder, name, each) for name, each in zip(names, encoded, strict=True)]
    values = {"margin": preference.margin, "score": preference.score}
    reason = ""
    try:
        EncodedPreference.of(preference, encoded)
    except UnusableRow as error:
        reason = str(error)
    return RowPreview(location, sequences, reason, {name: value for name, value in values.items() if value})


def of_prompt(encoder: Encoder, dataset: Dataset, row: int) -> RowPreview:
    """A row of RL or evaluation: its prompt, and the columns that reward functions are given."""
    columns = dataset.rows[row]
    rendered = encoder.render_prompt(dataset.format.prompt(columns))
    (tokens,) = encoder.encode_prompts([rendered])
    encoded = Encoded(tokens, [False] * len(tokens), findings=rendered.findings)
    return RowPreview(
        dataset.rows.location(row),
        [_sequence(encoder, "", encoded)],
        dataset.excluded.get(row, ""),
        {name: value for name, value in columns.items() if value is not None and name not in _SHOWN},
    )


def _sequence(encoder: Encoder, name: str, encoded: Encoded) -> SequencePreview:
    return SequencePreview(
        name,
        pieces(encoder.tokenizer, encoded.tokens, encoded.mask),
        len(encoded.tokens),
        sum(encoded.mask),
        encoded.truncated,
        [str(finding) for finding in encoded.findings],
    )


def pieces(tokenizer: Any, tokens: Sequence[int], mask: Sequence[bool]) -> list[TokenPiece]:
    """Tokens as text, one by one; tokens that are a character only together stay together."""
    specials = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    found: list[TokenPiece] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        before = tokens[max(0, start - _WINDOW) : start]
        text = _decoded(tokenizer, [*before, *tokens[start:end]])[len(_decoded(tokenizer, before)) :]
        complete = end == len(tokens) or mask[end] != mask[start] or end - start == 4
        if text.endswith("\ufffd") and not complete:
            continue
        ids = tuple(tokens[start:end])
        found.append(TokenPiece(text, ids, bool(mask[start]), ids[0] in specials))
        start = end
    return found


def _decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    if not tokens:
        return ""
    return tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
