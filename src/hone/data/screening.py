"""Which rows are too long, told without encoding all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from hone.data.chat import Encoder
from hone.data.formats import PromptText
from hone.data.parts import Part
from hone.data.rows import Row
from hone.errors import ConfigError, DataError
from hone.types import Message

T = TypeVar("T")
_CHUNK = 1024
_MARGIN = 16
"""Tokens of slack for what tokenising in parts and a template's special cases may add."""


class LengthScreen:
    """Tells cheaply which texts are surely shorter than `limit` tokens, so that few have to be encoded to
    know.

    No tokenizer makes more tokens of a text than it has bytes; where that does not decide, the contents are
    tokenised without rendering the template, whose share is measured once, generously.
    """

    def __init__(self, encoder: Encoder, limit: int) -> None:
        self.encoder, self.limit = encoder, limit
        self.around = _MARGIN
        if encoder.chat:
            try:
                probe = encoder.render_prompt(PromptText([{"role": "user", "content": "x"}]))
                self.around += len(encoder.encode_prompts([probe])[0])
            except (
                ConfigError,
                DataError,
            ):  # a template that wants more than this message says so at a real row
                self.around += limit

    def fits(self, content: str | Sequence[Message]) -> bool:
        """Whether the text, or the conversation, is surely shorter than the limit: by its bytes."""
        if isinstance(content, str):
            return len(content.encode()) + _MARGIN < self.limit
        size = 0
        for message in content:
            if len(message) > 2 or not isinstance(message["content"], str):
                return False
            size += len(message["content"].encode()) + self.around
        return size < self.limit

    def fit_tokenised(self, contents: Sequence[str | Sequence[Message]]) -> list[bool]:
        """The same by the number of tokens, for many together."""
        plain = [c if isinstance(c, str) else "\n".join(str(m["content"]) for m in c) for c in contents]
        lengths = self.encoder.count_tokens(plain)
        return [
            n + (_MARGIN if isinstance(c, str) else self.around * len(c)) < self.limit
            and (isinstance(c, str) or all(len(m) == 2 for m in c))
            for c, n in zip(contents, lengths, strict=True)
        ]


def unsure_rows(
    part: Part, screen: LengthScreen, read: Callable[[Row], str | Sequence[Message] | None]
) -> list[tuple[int, Row]]:
    """Read every row, and return those that have to be encoded to know whether they are too long.

    `read` gives the text in question; None: only encoding tells. The first row is always among them: it shows
    whether the template works at all. Raises DataError for the first row that `read` refuses.
    """
    unsure: list[tuple[int, Row]] = []
    for chunk in batches(part.kept(), _CHUNK):
        left: list[tuple[int, Row, str | Sequence[Message]]] = []
        for row, columns in chunk:
            try:
                content = read(columns)
            except DataError as error:
                raise part.at(row, error) from error
            if content is None or not (unsure or left):
                unsure.append((row, columns))
            elif not screen.fits(content):
                left.append((row, columns, content))
        fits = screen.fit_tokenised([content for _, _, content in left])
        unsure += [(row, columns) for (row, columns, _), ok in zip(left, fits, strict=True) if not ok]
    return sorted(unsure, key=lambda pair: pair[0])


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
