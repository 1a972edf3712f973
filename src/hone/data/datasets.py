"""The datasets of a run: their rows, how to read them, and which of them can be drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from pathlib import PurePath
from typing import Any

from hone.data.chat import Encoder
from hone.data.columns import Reading
from hone.data.formats import Format, read_prompt_file
from hone.data.mixture import Mixture
from hone.data.render_check import FindingLog
from hone.data.rows import Row, Rows
from hone.data.sources import holdout, key_of, load_rows
from hone.errors import CheckpointError, ConfigError, DataError


@dataclass
class Dataset:
    """One dataset of a mixture. `keep` are the indices of its rows that can be drawn."""

    label: str
    rows: Rows
    format: Format
    keep: Sequence[int]
    env: str = ""
    weight: float = 1.0
    repeat: int = 1
    present: dict[str, None] = field(default_factory=dict)
    """Columns that any row has, in order."""
    noted: set[str] = field(default_factory=set)
    """Columns that were read of any row."""
    left_out: dict[int, str] = field(default_factory=dict)
    """Rows that are not drawn, and why."""
    refused: dict[str, str] | None = None
    """Places of rows that a run stops at, and why, where they are gathered; None: the first is raised."""
    digest: str | None = None
    """Of what all rows say, once they have been swept."""

    def refuse(self, row: int, error: DataError) -> None:
        """Raise the error with the place of the row in front; where refused rows are gathered, note it there."""
        if self.refused is None:
            raise DataError(f"{self.rows.where(row)}: {error}") from error
        self.refused[self.rows.where(row)] = str(error)

    def leave_out(self, reasons: Mapping[int, str]) -> None:
        """Draw no more of these rows, for the reasons given, nor of refused ones. Raises DataError where all are
        refused."""
        self.left_out, refused = dict(reasons), self.refused or {}
        if reasons or refused:
            gone = {i for i in self.keep if i in reasons or (refused and self.rows.where(i) in refused)}
            self.keep = [i for i in self.keep if i not in gone]
        if not self.keep and not reasons:
            raise DataError(f"{self.rows.name}: every row is refused")

    def kept(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, row) of the rows that can be drawn; one sweep, which is the cheap way to read them all."""
        keep = set(self.keep)
        rows = ((i, row) for i, row in enumerate(self.rows) if i in keep)
        return rows if self.digest is not None else self._first_sweep(rows)

    def _first_sweep(self, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
        content = hashlib.blake2b(digest_size=16)
        for i, row in rows:
            content.update(_ENCODER.encode(row).encode())
            yield i, row
        self.digest = content.hexdigest()

    def reading(self, row: Row) -> Reading:
        """The row, which notes what is read of it."""
        self.present |= dict.fromkeys(column for column, value in row.items() if value is not None)
        return Reading(row, self.noted)

    @property
    def unread(self) -> list[str]:
        """Columns that training makes nothing of."""
        return [column for column in self.present if column not in self.noted]


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


def load_datasets(
    data: Any, seed: int, *, chat: bool, refused: dict[str, str] | None = None
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
        dataset = load_dataset(entry, "train", chat=chat, refused=refused)
        if entry.split_validation_size:
            split_seed = entry.seed if entry.seed is not None else seed
            try:
                kept, held = holdout(len(dataset.rows), entry.split_validation_size, split_seed)
            except DataError as error:
                raise DataError(f"data.train, {dataset.rows.name}: {error}") from error
            validation.append(replace(dataset, keep=held, present={}, noted=set(), left_out={}))
            dataset.keep = kept
        training.append(dataset)
    validation += [
        load_dataset(entry, "validation", chat=chat, refused=refused) for entry in data.validation or []
    ]
    for datasets in (training, validation):
        _make_labels_unique(datasets)
    return training, validation


def load_dataset(entry: Any, kind: str, *, chat: bool, refused: dict[str, str] | None = None) -> Dataset:
    """One dataset entry; with `refused`, rows that a run stops at are gathered there (`Dataset.refuse`)."""
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
    return Dataset(
        label=_label(entry.dataset_name),
        rows=rows,
        format=reading,
        keep=range(len(rows)),
        env=entry.env_name or "",
        weight=getattr(entry, "weight", 1.0),
        repeat=getattr(entry, "repeat", 1),
        refused=refused,
    )


def _type_name(value: Any) -> str:
    """What a digest has of a value that JSON does not know: objects may say where in memory they are."""
    return type(value).__name__


_ENCODER = json.JSONEncoder(default=_type_name)


class ResumableDataset:
    """Training rows in a resumable order: what prompts and supervised data have in common."""

    counts: dict[str, int]
    _validation: Sequence[Dataset]

    def __init__(
        self,
        training: Sequence[Dataset],
        *,
        shuffle: bool,
        seed: int,
        max_epochs: int | None,
        may_change: bool = False,
    ) -> None:
        """`may_change`: a run may go on with other rows than it began with."""
        self._training, self.max_epochs, self.may_change = training, max_epochs, may_change
        lengths = [len(dataset.keep) for dataset in training]
        self._order = Mixture(lengths, _mixture_weights(training), shuffle, seed, max_epochs)

    @cached_property
    def finding_log(self) -> FindingLog:
        """What the rendering of rows does not say as the rows do."""
        return FindingLog()

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

    def position(self) -> dict[str, Any]:
        """Where the drawing stands, and of what rows."""
        return {"order": self._order.state_dict(), "content": [dataset.digest for dataset in self._training]}

    def go_to(self, state: Mapping[str, Any]) -> None:
        """Draw on from there. Raises CheckpointError when the rows are others than then."""
        self._order.load_state_dict(state["order"])
        content = state.get("content", [None] * len(self._training))  # which older checkpoints do not have
        for dataset, then in zip(self._training, content, strict=True):
            if then not in (None, dataset.digest) and not self.may_change:
                raise CheckpointError(
                    f"the checkpoint was written with other data: {dataset.rows.name} has as many rows as then, but "
                    "their content differs. Bring the old file back, start a new run in another "
                    "checkpointing.checkpoint_dir, or set checkpointing.allow_config_change=true to go on with these "
                    "rows"
                )

    @property
    def training_datasets(self) -> Sequence[Dataset]:
        """The datasets that are drawn from."""
        return self._training

    @property
    def validation_datasets(self) -> Sequence[Dataset]:
        """The held-out datasets."""
        return self._validation

    def first(self, n: int) -> list[tuple[Dataset, int]]:
        """The datasets and rows of the first n draws of a run; nothing is drawn by it."""
        return [(self._training[d], self._training[d].keep[i]) for d, i, _ in self._from_the_start().next(n)]

    def _from_the_start(self) -> Mixture:
        """The order of this run, of which nothing is drawn yet."""
        order = self._order
        return Mixture(
            order.lengths, _mixture_weights(self._training), order.shuffle, order.seed, order.max_epochs
        )

    def unread_columns(self) -> list[str]:
        """A sentence for each dataset that has columns of which training makes nothing."""
        told = []
        for dataset in self._training:
            if names := dataset.unread:
                more = f" and {len(names) - 20} more" if len(names) > 20 else ""
                told.append(f"{dataset.rows.name}: columns that are not read: {', '.join(names[:20])}{more}")
        return told

    def _not_all_in_vain(self, longest: int | None) -> None:
        """Raise DataError where all rows were drawn, and nothing could be learned from any."""
        counts = self.counts
        if counts["excluded"] == counts["drawn"] >= self.num_rows:
            names = ", ".join(dataset.rows.name for dataset in self._training)
            raise DataError(
                f"none of the {self.num_rows} rows of {names} can be learned from: within "
                f"policy.max_total_sequence_length={longest} tokens nothing of their answers is left, or both "
                "answers of every pair are the same"
            )

    def total_steps(self, batch: int) -> int:
        """Steps until the epochs are over; the last batch may be smaller. Batches run over epoch borders."""
        assert self.max_epochs is not None, "a run without a number of epochs has no total"
        return ceil(self.max_epochs * self.num_rows / batch)


def _mixture_weights(datasets: Sequence[Dataset]) -> list[float] | None:
    """The weights of a mixture; None for one dataset, where they mean nothing."""
    return [p.weight for p in datasets] if len(datasets) > 1 else None


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
