"""The datasets of a run: their rows, the format of the rows, and which rows can be drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from hone.data.chat import Encoder
from hone.data.columns import TrackedRow
from hone.data.formats import Format, read_prompt_file
from hone.data.rows import Row, Rows
from hone.data.sources import load_rows
from hone.data.splits import holdout, key_of
from hone.errors import ConfigError, DataError


@dataclass
class Dataset:
    """One dataset of a mixture. `indices` are the rows that can be drawn."""

    label: str
    rows: Rows
    format: Format
    indices: Sequence[int]
    env: str = ""
    weight: float = 1.0
    repeat: int = 1
    columns: dict[str, None] = field(default_factory=dict)
    """Columns that are not empty in every row, in order."""
    columns_read: set[str] = field(default_factory=set)
    """Columns that were read from any row."""
    excluded: dict[int, str] = field(default_factory=dict)
    """Rows that are not drawn, each with the reason."""
    invalid_rows: dict[str, str] | None = None
    """Invalid rows are collected here, reason by location. None: the first one raises its error."""
    digest: str | None = None
    """Hash of the content of all rows; None until all of them were read."""

    @contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """Pass a DataError of the block to `report_invalid`."""
        try:
            yield
        except DataError as error:
            self.report_invalid(row, error)

    def report_invalid(self, row: int, error: DataError) -> None:
        """Raise the error with the row's location in front, or collect it in `invalid_rows`."""
        if self.invalid_rows is None:
            raise DataError(f"{self.rows.location(row)}: {error}") from error
        self.invalid_rows[self.rows.location(row)] = str(error)

    def exclude(self, reasons: Mapping[int, str]) -> None:
        """Exclude these rows, for the reasons given, and all invalid rows. Raises DataError if all are invalid."""
        self.excluded, invalid = dict(reasons), self.invalid_rows or {}
        if reasons or invalid:
            gone = {i for i in self.indices if i in reasons or (invalid and self.rows.location(i) in invalid)}
            self.indices = [i for i in self.indices if i not in gone]
        if not self.indices and not reasons:
            raise DataError(f"{self.rows.name}: every row is invalid")

    def indexed_rows(self) -> Iterator[tuple[int, Row]]:
        """(index, row) of the rows that can be drawn. One pass over the file, cheaper than reading row by row."""
        kept = set(self.indices)
        rows = ((i, row) for i, row in enumerate(self.rows) if i in kept)
        return rows if self.digest is not None else self._hashed(rows)

    def _hashed(self, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
        content = hashlib.blake2b(digest_size=16)
        for i, row in rows:
            content.update(_ENCODER.encode(row).encode())
            yield i, row
        self.digest = content.hexdigest()

    def tracked(self, row: Row) -> TrackedRow:
        """The row, wrapped to record which of its columns are read."""
        self.columns |= dict.fromkeys(column for column, value in row.items() if value is not None)
        return TrackedRow(row, self.columns_read)

    @property
    def unread(self) -> list[str]:
        """Columns that training does not use."""
        return [column for column in self.columns if column not in self.columns_read]


def encoder_of(config: Any, tokenizer: Any, *, reserve: int = 0, only_unmask_final: bool = False) -> Encoder:
    """The encoder of a run's training samples, by `config.data` and `config.policy`, with room for `reserve` more
    tokens after each sample."""
    return Encoder(
        tokenizer,
        max_length=min(config.data.max_input_seq_length, config.policy.max_total_sequence_length) - reserve,
        only_unmask_final=only_unmask_final,
        add_bos=config.data.add_bos,
        add_eos=config.data.add_eos,
        template_kwargs=config.policy.tokenizer.chat_template_kwargs or {},
    )


def load_datasets(
    data: Any, seed: int, *, chat: bool, invalid_rows: dict[str, str] | None = None
) -> tuple[list[Dataset], list[Dataset]]:
    """The training and the validation datasets of a `data` section. Rows that `split_validation_size` sets aside are
    a validation dataset. Raises DataError or ConfigError for a dataset that cannot be read."""
    if not data.train:
        raise ConfigError(
            "data.train is not set: give data.train.dataset_name=… (a file, a folder, a hub name)"
        )
    training: list[Dataset] = []
    validation: list[Dataset] = []
    for entry in data.train:
        dataset = load_dataset(entry, "train", chat=chat, invalid_rows=invalid_rows)
        if entry.split_validation_size:
            split_seed = entry.seed if entry.seed is not None else seed
            try:
                kept, held = holdout(len(dataset.rows), entry.split_validation_size, split_seed)
            except DataError as error:
                raise DataError(f"data.train, {dataset.rows.name}: {error}") from error
            validation.append(replace(dataset, indices=held, columns={}, columns_read=set(), excluded={}))
            dataset.indices = kept
        training.append(dataset)
    for entry in data.validation or []:
        validation.append(load_dataset(entry, "validation", chat=chat, invalid_rows=invalid_rows))
    for datasets in (training, validation):
        _make_labels_unique(datasets)
    return training, validation


def load_dataset(entry: Any, role: str, *, chat: bool, invalid_rows: dict[str, str] | None = None) -> Dataset:
    """The dataset of one entry. With `invalid_rows`, invalid rows are collected there (`Dataset.report_invalid`)."""
    key = key_of(role)
    if entry.dataset_name is None:
        raise ConfigError(f"{key}.dataset_name is not set: give a file, a folder or a hub name")
    rows = load_rows(entry, role=role)
    return Dataset(
        label=_label(entry.dataset_name),
        rows=rows,
        format=Format(
            chat=chat,
            prompt_template=entry.prompt_template,
            input_key=entry.input_key,
            output_key=entry.output_key,
            prompt_text=read_prompt_file(entry.prompt_file, f"{key}.prompt_file"),
            system_prompt=read_prompt_file(entry.system_prompt_file, f"{key}.system_prompt_file"),
            chosen_key=getattr(entry, "chosen_key", None),
            rejected_key=getattr(entry, "rejected_key", None),
        ),
        indices=range(len(rows)),
        env=entry.env_name or "",
        weight=getattr(entry, "weight", 1.0),
        repeat=getattr(entry, "repeat", 1),
        invalid_rows=invalid_rows,
    )


def _type_name(value: Any) -> str:
    """What the digest holds for a value that JSON cannot write: the text of an object may contain its address."""
    return type(value).__name__


_ENCODER = json.JSONEncoder(default=_type_name)


def _label(name: str) -> str:
    """A short name for ids: the stem of a file's name, or a hub name unchanged."""
    path = PurePath(name.rstrip("/"))
    return path.name.split(".")[0] if path.suffix or path.is_absolute() or "://" in name else name


def _make_labels_unique(datasets: list[Dataset]) -> None:
    seen: dict[str, int] = {}
    for dataset in datasets:
        seen[dataset.label] = seen.get(dataset.label, 0) + 1
        if seen[dataset.label] > 1:
            dataset.label += f"#{seen[dataset.label]}"
