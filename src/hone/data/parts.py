"""The datasets of a run: their rows, how to read them, and which of them can be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import PurePath
from typing import Any, TypeVar

from hone.data.chat import Encoder
from hone.data.cursor import Mixture
from hone.data.formats import Format, PromptText, read_prompt_file
from hone.data.rows import Row, Rows
from hone.data.sources import holdout, key_of, load_rows
from hone.errors import ConfigError, DataError
from hone.types import Message

T = TypeVar("T")
_CHUNK = 1024
_MARGIN = 16
"""Tokens of slack for what tokenising in parts and a template's special cases may add."""


@dataclass
class Part:
    """One dataset of a mixture. `keep` are the indices of its rows that can be drawn."""

    label: str
    rows: Rows
    format: Format
    keep: Sequence[int]
    env: str = ""
    weight: float = 1.0
    repeat: int = 1

    def at(self, row: int, error: DataError) -> DataError:
        """The error with the place of the row in front."""
        return DataError(f"{self.rows.where(row)}: {error}")

    def kept(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, row) of the rows that can be drawn; one sweep, which is the cheap way to read them all."""
        keep = set(self.keep)
        return ((i, row) for i, row in enumerate(self.rows) if i in keep)


def encoder_of(config: Any, tokenizer: Any, *, closing: int = 0, only_unmask_final: bool = False) -> Encoder:
    """How a run encodes texts to learn from: what `config.data` and `config.policy` say, with room for `closing` tokens
    behind each."""
    return Encoder(
        tokenizer,
        max_length=min(config.data.max_input_seq_length, config.policy.max_total_sequence_length) - closing,
        only_unmask_final=only_unmask_final,
        add_bos=config.data.add_bos,
        add_eos=config.data.add_eos,
        template_kwargs=config.policy.tokenizer.chat_template_kwargs or {},
    )


def load_parts(data: Any, seed: int, *, chat: bool) -> tuple[list[Part], list[Part]]:
    """The training and the validation datasets of a `data` section; validation also holds what is set aside
    by
    `split_validation_size`. Raises DataError and ConfigError for what cannot be read."""
    if not data.train:
        raise ConfigError(
            "data.train is not set: give data.train.dataset_name=… (a file, a folder, a hub name)"
        )
    training: list[Part] = []
    validation: list[Part] = []
    for entry in data.train:
        part = load_part(entry, "train", chat=chat)
        if entry.split_validation_size:
            split_seed = entry.seed if entry.seed is not None else seed
            try:
                kept, held = holdout(len(part.rows), entry.split_validation_size, split_seed)
            except DataError as error:
                raise DataError(f"data.train, {part.rows.name}: {error}") from error
            validation.append(same_dataset(part, held))
            part.keep = kept
        training.append(part)
    validation += [load_part(entry, "validation", chat=chat) for entry in data.validation or []]
    for parts in (training, validation):
        _make_labels_unique(parts)
    return training, validation


def load_part(entry: Any, kind: str, *, chat: bool) -> Part:
    """One dataset entry."""
    key = key_of(kind)
    if entry.dataset_name is None:
        raise ConfigError(f"{key}.dataset_name is not set: give a file, a folder or a hub name")
    rows = load_rows(entry, kind=kind)
    reading = Format(
        chat=chat,
        prompt_template=entry.prompt_template,
        input_key=entry.input_key,
        output_key=entry.output_key,
        prompt_text=read_prompt_file(entry.prompt_file, f"{key}.prompt_file"),
        system_prompt=read_prompt_file(entry.system_prompt_file, f"{key}.system_prompt_file"),
        chosen_key=getattr(entry, "chosen_key", None),
        rejected_key=getattr(entry, "rejected_key", None),
    )
    return Part(
        label=_label(entry.dataset_name),
        rows=rows,
        format=reading,
        keep=range(len(rows)),
        env=entry.env_name or "",
        weight=getattr(entry, "weight", 1.0),
        repeat=getattr(entry, "repeat", 1),
    )


def same_dataset(part: Part, keep: Sequence[int]) -> Part:
    """Other rows of the same dataset."""
    return Part(part.label, part.rows, part.format, keep, part.env, part.weight, part.repeat)


class Drawn:
    """Training rows in a resumable order: what prompts and supervised data have in common."""

    def __init__(self, training: Sequence[Part], *, shuffle: bool, seed: int, max_epochs: int | None) -> None:
        self.max_epochs = max_epochs
        lengths = [len(part.keep) for part in training]
        self._order = Mixture(lengths, weights_of(training), shuffle, seed, max_epochs)

    @property
    def num_rows(self) -> int:
        """Training rows that are drawn: all but those held out or left out."""
        return self._order.epoch_length

    @property
    def epoch(self) -> int:
        """Whole epochs drawn."""
        return self._order.epoch

    @property
    def over(self) -> bool:
        """Whether every row of every epoch was drawn."""
        return self.max_epochs is not None and self._order.draws >= self.max_epochs * self.num_rows

    def total_steps(self, batch: int) -> int:
        """Steps until the epochs are over; the last batch may be smaller. Batches run over epoch borders."""
        assert self.max_epochs is not None, "a run without a number of epochs has no total"
        return ceil(self.max_epochs * self.num_rows / batch)


def weights_of(parts: Sequence[Part]) -> list[float] | None:
    """The weights of a mixture; None for one dataset, where they mean nothing."""
    return [p.weight for p in parts] if len(parts) > 1 else None


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
            except DataError:  # a template that wants more than this message says so at a real row
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


def _label(name: str) -> str:
    """A short name for ids: a file's stem, a hub name as it is."""
    path = PurePath(name.rstrip("/"))
    return path.name.split(".")[0] if path.suffix or path.is_absolute() or "://" in name else name


def _make_labels_unique(parts: list[Part]) -> None:
    seen: dict[str, int] = {}
    for part in parts:
        seen[part.label] = seen.get(part.label, 0) + 1
        if seen[part.label] > 1:
            part.label += f"#{seen[part.label]}"
