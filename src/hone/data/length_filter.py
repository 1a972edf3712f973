"""Find the rows that are too long without encoding every row."""

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
"""Chunks that are read ahead while the tokens of earlier ones are counted."""
_PARALLEL = "TOKENIZERS_PARALLELISM"
_MARGIN = 16
"""Slack in tokens for tokenising in parts and for a template's special cases."""


class LengthEstimator:
    """Cheap bounds on the number of tokens of texts, so that few must be encoded to compare them with `limit`.

    A text has at most as many tokens as bytes. If this bound does not decide, the contents are tokenised without the
    template; the template's own tokens are measured once and bounded from above.
    """

    def __init__(self, encoder: Encoder, limit: int) -> None:
        self.encoder, self.limit = encoder, limit
        self.around = _MARGIN
        if encoder.chat:
            try:
                probe = encoder.render_prompt(PromptText([{"role": "user", "content": "x"}]))
                self.around += len(encoder.encode_prompts([probe])[0])
            except (ConfigError, DataError):
                self.around += limit  # the template refuses this message; a real row will show why

    def surely_shorter(self, content: str | Sequence[Message]) -> bool:
        """Whether the number of bytes shows that the text or conversation is shorter than the limit."""
        if isinstance(content, str):
            return len(content.encode()) + _MARGIN < self.limit
        size = 0
        for message in content:
            if len(message) > 2 or not isinstance(message["content"], str):
                return False
            size += len(message["content"].encode()) + self.around
        return size < self.limit

    def compare_tokens(self, contents: Sequence[str | Sequence[Message]]) -> list[bool | None]:
        """Whether each content is shorter than the limit, by counting tokens. None: it must be encoded to know."""
        plain = [c if isinstance(c, str) else "\n".join(str(m["content"]) for m in c) for c in contents]
        return [
            self._compare(content, count)
            for content, count in zip(contents, self.encoder.count_tokens(plain), strict=True)
        ]

    def _compare(self, content: str | Sequence[Message], count: int) -> bool | None:
        if isinstance(content, str):
            most, least = count + _MARGIN, count - _MARGIN
        elif all(len(m) == 2 for m in content):
            most = count + self.around * len(content)
            least = count - _MARGIN * len(content) if all(map(_is_written, content)) else 0
        else:
            return None
        return True if most < self.limit else False if least >= self.limit else None


def _is_written(message: Message) -> bool:
    """Whether every template writes all of a message: some leave out an assistant's reasoning, or outer white space."""
    return message["role"] in ("system", "user") and message["content"] == message["content"].strip()


@dataclass
class LengthCheck:
    """The rows of a dataset that may be too long, in order."""

    uncertain: list[tuple[int, Row]] = field(default_factory=list)
    """Rows that must be encoded to know."""
    too_long: list[tuple[int, Row]] = field(default_factory=list)
    """Rows that are certainly too long."""

    @property
    def all(self) -> list[tuple[int, Row]]:
        """Both lists, in the order of rows."""
        return sorted([*self.uncertain, *self.too_long], key=lambda pair: pair[0])


_Undecided = list[tuple[int, Row, str | Sequence[Message]]]


def check_lengths(
    dataset: Dataset, estimator: LengthEstimator, read: Callable[[Row], str | Sequence[Message] | None]
) -> LengthCheck:
    """Read every row and find those that may be too long.

    `read` returns the text whose length counts, or None if the row must be encoded to know. The first row always
    counts as uncertain: encoding it shows whether the template works. Tokens are counted on all cores while the next
    rows are read. A row for which `read` raises DataError is invalid (`Dataset.report_invalid`).
    """
    found = LengthCheck()
    waiting: deque[tuple[_Undecided, Future[list[bool | None]]]] = deque()
    with parallel_tokenizers(), ThreadPoolExecutor(1) as pool:
        for chunk in batched(dataset.indexed_rows(), _CHUNK):
            left = _undecided(dataset, estimator, read, chunk, found)
            waiting.append((left, pool.submit(estimator.compare_tokens, [content for _, _, content in left])))
            if len(waiting) > _AHEAD:
                _collect(*waiting.popleft(), found)
        while waiting:
            _collect(*waiting.popleft(), found)
    found.uncertain.sort(key=lambda pair: pair[0])
    return found


def _undecided(
    dataset: Dataset,
    estimator: LengthEstimator,
    read: Callable[[Row], str | Sequence[Message] | None],
    chunk: Sequence[tuple[int, Row]],
    found: LengthCheck,
) -> _Undecided:
    """The rows that the number of bytes does not decide. Rows that must be encoded are added to `found`."""
    left: _Undecided = []
    for row, columns in chunk:
        with dataset.reading(row):
            content = read(columns)
            if content is None or not found.uncertain:
                found.uncertain.append((row, columns))
            elif not estimator.surely_shorter(content):
                left.append((row, columns, content))
    return left


def _collect(left: _Undecided, counted: Future[list[bool | None]], found: LengthCheck) -> None:
    for (row, columns, _), shorter in zip(left, counted.result(), strict=True):
        if shorter is None:
            found.uncertain.append((row, columns))
        elif not shorter:
            found.too_long.append((row, columns))


@contextmanager
def parallel_tokenizers() -> Iterator[None]:
    """Let tokenizers use all cores in the block. Elsewhere this is turned off: a fork while their threads run may
    hang."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "true"
    try:
        yield
    finally:
        os.environ.pop(_PARALLEL)
        if before is not None:
            os.environ[_PARALLEL] = before


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
