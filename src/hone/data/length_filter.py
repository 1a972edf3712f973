"""Which rows are too long, told without encoding all of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from hone.data.chat import Encoder
from hone.data.datasets import Dataset
from hone.data.formats import PromptText
from hone.data.rows import Row
from hone.errors import ConfigError, DataError
from hone.types import Message

T = TypeVar("T")
_CHUNK = 1024
_AHEAD = 4
"""Chunks that are read while the tokens of earlier ones are counted."""
_PARALLEL = "TOKENIZERS_PARALLELISM"
_MARGIN = 16
"""Tokens of slack for what tokenising in datasets and a template's special cases may add."""


class LengthScreen:
    """Tells cheaply which texts are surely shorter than `limit` tokens, so that few have to be encoded to know.

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
            except (ConfigError, DataError):
                self.around += limit  # a template that wants more than this message says so at a real row

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

    def fit_tokenised(self, contents: Sequence[str | Sequence[Message]]) -> list[bool | None]:
        """The same by the number of tokens, for many together; False for what is surely not shorter, None for what only
        encoding tells."""
        plain = [c if isinstance(c, str) else "\n".join(str(m["content"]) for m in c) for c in contents]
        return [
            self._judged(content, count)
            for content, count in zip(contents, self.encoder.count_tokens(plain), strict=True)
        ]

    def _judged(self, content: str | Sequence[Message], count: int) -> bool | None:
        if isinstance(content, str):
            short, asked = count + _MARGIN < self.limit, True
            least = count - _MARGIN
        else:
            plain = all(len(m) == 2 for m in content)
            short = plain and count + self.around * len(content) < self.limit
            asked = plain and all(map(_is_kept, content))
            least = count - _MARGIN * len(content)
        return True if short else False if asked and least >= self.limit else None


def _is_kept(message: Message) -> bool:
    """Whether a template writes all of a message: some leave out an assistant's thoughts, and white space around."""
    return message["role"] in ("system", "user") and message["content"] == message["content"].strip()


@dataclass
class Screened:
    """What is known of a dataset's rows that are not surely short enough, in order."""

    unsure: list[tuple[int, Row]] = field(default_factory=list)
    """Rows that have to be encoded to know."""
    long: list[tuple[int, Row]] = field(default_factory=list)
    """Rows that are surely too long."""

    @property
    def all(self) -> list[tuple[int, Row]]:
        """Both."""
        return sorted([*self.unsure, *self.long], key=lambda pair: pair[0])


_Read = list[tuple[int, Row, str | Sequence[Message]]]


def screen_rows(
    dataset: Dataset, screen: LengthScreen, read: Callable[[Row], str | Sequence[Message] | None]
) -> Screened:
    """Read every row, and tell which of them may be too long.

    `read` gives the text in question; None: only encoding tells. The first row is always among the unsure ones: it
    shows whether the template works at all. Tokens are counted on all cores while the next rows are read. Rows for
    which `read` raises DataError are refused (`Dataset.refuse`).
    """
    found = Screened()
    waiting: deque[tuple[_Read, Future[list[bool | None]]]] = deque()
    with all_cores(), ThreadPoolExecutor(1) as pool:
        for chunk in batches(dataset.kept(), _CHUNK):
            left = _undecided(dataset, screen, read, chunk, found)
            waiting.append((left, pool.submit(screen.fit_tokenised, [content for _, _, content in left])))
            if len(waiting) > _AHEAD:
                _settle(*waiting.popleft(), found)
        while waiting:
            _settle(*waiting.popleft(), found)
    found.unsure.sort(key=lambda pair: pair[0])
    return found


def _undecided(
    dataset: Dataset,
    screen: LengthScreen,
    read: Callable[[Row], str | Sequence[Message] | None],
    chunk: Sequence[tuple[int, Row]],
    found: Screened,
) -> _Read:
    """The rows that their bytes do not decide; those that only encoding tells of go into `found`."""
    left: _Read = []
    for row, columns in chunk:
        try:
            content = read(columns)
        except DataError as error:
            dataset.refuse(row, error)
            continue
        if content is None or not found.unsure:
            found.unsure.append((row, columns))
        elif not screen.fits(content):
            left.append((row, columns, content))
    return left


def _settle(left: _Read, counted: Future[list[bool | None]], found: Screened) -> None:
    for (row, columns, _), fits in zip(left, counted.result(), strict=True):
        if fits is None:
            found.unsure.append((row, columns))
        elif not fits:
            found.long.append((row, columns))


@contextmanager
def all_cores() -> Iterator[None]:
    """Let tokenizers use all cores. Otherwise the command forbids it, since a process that forks meanwhile may hang."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "true"
    try:
        yield
    finally:
        os.environ.pop(_PARALLEL)
        if before is not None:
            os.environ[_PARALLEL] = before


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
