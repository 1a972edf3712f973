"""Single rows as they are tokenised and masked, for people to look at before a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.data import preference_formats
from hone.data.chat import Encoded, Encoder
from hone.data.datasets import Dataset
from hone.data.preference_formats import Unusable
from hone.data.preference_samples import CHOSEN, REJECTED, StoredSides
from hone.errors import DataError
from hone.registry import rows_of

_SHOWN = ("prompt", "messages", "conversations")
"""Columns that the tokens of a prompt show."""
_WINDOW = 8
"""Tokens before one that are decoded with it: what it reads like may depend on them."""


@dataclass(frozen=True)
class Piece:
    """Tokens that make up whole characters: mostly one."""

    text: str
    ids: tuple[int, ...]
    target: bool
    special: bool


@dataclass(frozen=True)
class Side:
    """One token sequence of a row. `name` is empty where a row has one."""

    name: str
    pieces: list[Piece]
    num_tokens: int
    num_targets: int
    truncated: bool = False
    findings: list[str] = field(default_factory=list)
    """What the rendering does not say as the row does."""


@dataclass(frozen=True)
class Look:
    """A row as training has it. `left_out` says why it is not trained on; empty where it is."""

    where: str
    sides: list[Side]
    left_out: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Columns that are used beside the texts."""


def supervised(encoder: Encoder, dataset: Dataset, row: int) -> Look:
    """A row of SFT."""
    encoded = encoder.encode(dataset.format.supervised(dataset.rows[row]))
    reason = "" if encoded.has_target else "nothing of it is learned from"
    return Look(dataset.rows.where(row), [_side(encoder, "", encoded)], reason)


def compared(encoder: Encoder, dataset: Dataset, row: int) -> Look:
    """A row of comparisons."""
    where = dataset.rows.where(row)
    try:
        comparison = preference_formats.read(dataset.rows[row], dataset.format)
    except Unusable as error:
        return Look(where, [], str(error))
    encoded = [encoder.encode(side) for side in comparison.sides]
    single = CHOSEN if comparison.desirable else REJECTED
    if comparison.score is not None:
        single = "answer"
    names = [CHOSEN, REJECTED] if len(encoded) == 2 else [single]
    sides = [_side(encoder, name, side) for name, side in zip(names, encoded, strict=True)]
    facts = {"margin": comparison.margin, "score": comparison.score}
    try:
        StoredSides.of(comparison, encoded)
        reason = ""
    except Unusable as error:
        reason = str(error)
    return Look(where, sides, reason, {name: value for name, value in facts.items() if value})


def asked(encoder: Encoder, dataset: Dataset, row: int) -> Look:
    """A row of RL or evaluation: its prompt, which the model goes on from, and what reward functions get."""
    columns = dataset.rows[row]
    rendered = encoder.render_prompt(dataset.format.prompt(columns))
    (tokens,) = encoder.encode_prompts([rendered])
    encoded = Encoded(tokens, [False] * len(tokens), findings=rendered.findings)
    return Look(
        dataset.rows.where(row),
        [_side(encoder, "", encoded)],
        dataset.left_out.get(row, ""),
        {name: value for name, value in columns.items() if value is not None and name not in _SHOWN},
    )


LOOKS = {"examples": supervised, "comparisons": compared, "prompts": asked}


def look(kind: str, encoder: Encoder, dataset: Dataset, row: int) -> Look | None:
    """A row as a run of that kind has it; None for one that it refuses (`Dataset.refuse`)."""
    try:
        return LOOKS[rows_of(kind)](encoder, dataset, row)
    except DataError as error:
        dataset.refuse(row, error)
        return None


def _side(encoder: Encoder, name: str, encoded: Encoded) -> Side:
    return Side(
        name,
        pieces(encoder.tokenizer, encoded.tokens, encoded.mask),
        len(encoded.tokens),
        sum(encoded.mask),
        encoded.truncated,
        [str(finding) for finding in encoded.findings],
    )


def pieces(tokenizer: Any, tokens: Sequence[int], mask: Sequence[bool]) -> list[Piece]:
    """Tokens as text, one by one; those that only together are a character stay together."""
    specials = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    found: list[Piece] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        before = tokens[max(0, start - _WINDOW) : start]
        text = _decoded(tokenizer, [*before, *tokens[start:end]])[len(_decoded(tokenizer, before)) :]
        whole = end == len(tokens) or mask[end] != mask[start] or end - start == 4
        if text.endswith("\ufffd") and not whole:
            continue
        ids = tuple(tokens[start:end])
        found.append(Piece(text, ids, bool(mask[start]), ids[0] in specials))
        start = end
    return found


def _decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    if not tokens:
        return ""
    return tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
