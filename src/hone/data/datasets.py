"""The datasets of a run: their rows, how to read them, and which of them can be drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """One dataset of a mixture. `indices` are those of its rows that can be drawn."""

    label: str
    rows: Rows
    format: Format
    indices: Sequence[int]
    env: str = ""
    weight: float = 1.0
    repeat: int = 1
    columns: dict[str, None] = field(default_factory=dict)
    """Columns that hold something in any row, in order."""
    columns_read: set[str] = field(default_factory=set)
    """Columns that were read of any row."""
    excluded: dict[int, str] = field(default_factory=dict)
    """Rows that are not drawn, and why."""
    invalid_rows: dict[str, str] | None = None
    """Where rows that stop a run are collected: their locations, and why. None: the first is raised."""
    digest: str | None = None
    """Hash of the content of all rows, once they have all been read."""

    def report_invalid(self, row: int, error: DataError) -> None:
        """Raise the error with the row's location in front; where invalid rows are collected, add it there."""
        if self.invalid_rows is None:
            raise DataError(f"{self.rows.location(row)}: {error}") from error
        self.invalid_rows[self.rows.location(row)] = str(error)

    def exclude(self, reasons: Mapping[int, str]) -> None:
        """Draw none of these rows, for the reasons given, nor invalid ones. Raises DataError where all are invalid."""
        self.excluded, invalid = dict(reasons), self.invalid_rows or {}
        if reasons or invalid:
            gone = {i for i in self.indices if i in reasons or (invalid and self.rows.location(i) in invalid)}
            self.indices = [i for i in self.indices if i not in gone]
        if not self.indices and not reasons:
            raise DataError(f"{self.rows.name}: every row is refused")

    def indexed_rows(self) -> Iterator[tuple[int, Row]]:
        """(index, row) of the rows that can be drawn; one pass, which is the cheap way to read them all."""
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
        """The row, which notes which of its columns are read."""
        self.columns |= dict.fromkeys(column for column, value in row.items() if value is not None)
        return TrackedRow(row, self.columns_read)

    @property
    def unread(self) -> list[str]:
        """Columns that training does not use."""
        return [column for column in self.columns if column not in self.columns_read]


def encoder_of(config: Any, tokenizer: Any, *, reserve: int = 0, only_unmask_final: bool = False) -> Encoder:
    """How a run encodes texts to learn from, by `config.data` and `config.policy`, with room for `reserve` more tokens
    behind each."""
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
    """The training and the validation datasets of a `data` section; validation also holds what is set aside by
    `split_validation_size`. Raises DataError and ConfigError for what cannot be read."""
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
    """One dataset entry; with `invalid_rows`, rows that stop a run are collected there (`Dataset.report_invalid`)."""
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
    """What a digest has of a value that JSON does not know: objects may say where in memory they are."""
    return type(value).__name__


_ENCODER = json.JSONEncoder(default=_type_name)


def _label(name: str) -> str:
    """A short name for ids: a file's stem, a hub name as it is."""
    path = PurePath(name.rstrip("/"))
    return path.name.split(".")[0] if path.suffix or path.is_absolute() or "://" in name else name


def _make_labels_unique(datasets: list[Dataset]) -> None:
    seen: dict[str, int] = {}
    for dataset in datasets:
        seen[dataset.label] = seen.get(dataset.label, 0) + 1
        if seen[dataset.label] > 1:
            dataset.label += f"#{seen[dataset.label]}"
