"""Training rows in a resumable order, and held-out rows: the base classes of all kinds of data.

Rows are checked before the first step, but rendered and tokenised when they are first drawn, so that a run starts
quickly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from hone.data.chat import Encoder
from hone.data.datasets import Dataset
from hone.data.finding_log import FindingLog
from hone.data.length_filter import batched
from hone.data.mixture import Draw, Mixture
from hone.data.row_preview import RowPreview
from hone.data.rows import Row
from hone.errors import CheckpointError, DataError
from hone.types import Sample

BATCH = 256
"""Rows that are tokenised together."""
_CACHED_TOKENS = 1 << 26
"""Encoded rows are cached up to this many tokens (5 bytes each), so that later epochs need no encoding."""


@dataclass(frozen=True)
class DrawSettings:
    """The order in which rows are drawn, and the number of epochs."""

    shuffle: bool = True
    seed: int = 0
    max_epochs: int | None = None
    may_change: bool = False
    """Whether a run may resume with other rows than it began with."""

    @classmethod
    def of(cls, config: Any) -> DrawSettings:
        """The settings of a run, from `config.data` and the algorithm's section."""
        settings, may_change = config.algorithm, config.checkpointing.allow_config_change
        return cls(config.data.shuffle, settings.seed, settings.max_num_epochs, may_change)


class ResumableDataset(ABC):
    """Training rows in a resumable order. `counts` has the counts of `RUN_COUNTS` for the run so far, and `rows` and
    the counts of a subclass for the data. `finding_log` has the differences between rows and their renderings."""

    RUN_COUNTS: ClassVar[tuple[str, ...]]
    """Counts of the run so far, which a checkpoint keeps."""
    preview_of: Callable[[Encoder, Dataset, int], RowPreview]
    """A row as training has it. Raises DataError for an invalid one."""

    def __init__(
        self,
        training: Sequence[Dataset],
        validation: Sequence[Dataset],
        encoder: Encoder,
        settings: DrawSettings,
    ) -> None:
        self.training_datasets, self.validation_datasets = training, validation
        self.encoder, self.settings = encoder, settings
        self.finding_log = FindingLog()
        self.counts: dict[str, int] = defaultdict(int, dict.fromkeys(("drawn", *self.RUN_COUNTS), 0))
        self.counts["rows"] = sum(len(dataset.indices) for dataset in training)
        self.counts["validation_rows"] = sum(len(dataset.indices) for dataset in validation)
        self._check_rows()
        self._order = self._new_order()

    @abstractmethod
    def _check_rows(self) -> None:
        """Read every row, and exclude unusable ones. Raises DataError for an invalid row, or if no row is left."""

    def _new_order(self) -> Mixture:
        """The order of this run, with nothing drawn yet."""
        datasets, settings = self.training_datasets, self.settings
        lengths = [len(dataset.indices) for dataset in datasets]
        weights = [dataset.weight for dataset in datasets] if len(datasets) > 1 else None
        return Mixture(lengths, weights, settings.shuffle, settings.seed, settings.max_epochs)

    @property
    def num_rows(self) -> int:
        """The number of training rows that can be drawn: not held out and not excluded."""
        return self._order.epoch_length

    @property
    def epoch(self) -> int:
        """Whole epochs drawn."""
        return self._order.epoch

    @property
    def exhausted(self) -> bool:
        """Whether every row of every epoch was drawn."""
        epochs = self.settings.max_epochs
        return epochs is not None and self._order.draws >= epochs * self.num_rows

    def total_steps(self, batch: int) -> int:
        """Steps until the epochs are over; the last batch may be smaller. Batches run over epoch borders."""
        assert self.settings.max_epochs is not None, "a run without a number of epochs has no total"
        return ceil(self.settings.max_epochs * self.num_rows / batch)

    def state_dict(self) -> dict[str, Any]:
        return {
            "order": self._order.state_dict(),
            "content": [dataset.digest for dataset in self.training_datasets],
            "counts": {name: self.counts[name] for name in self.RUN_COUNTS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where the state was taken. Raises CheckpointError if the rows have changed since."""
        self._order.load_state_dict(state["order"])
        content = state.get("content", [None] * len(self.training_datasets))  # older checkpoints have none
        for dataset, then in zip(self.training_datasets, content, strict=True):
            if then not in (None, dataset.digest) and not self.settings.may_change:
                raise CheckpointError(
                    f"the checkpoint was written with other data: {dataset.rows.name} still has as many rows, but "
                    "their content has changed. Restore the old file, start a new run in another "
                    "checkpointing.checkpoint_dir, or set checkpointing.allow_config_change=true to continue with the "
                    "new rows"
                )
        self.counts |= state.get("counts", {})  # older checkpoints of GRPO have none

    def first_rows(self, n: int) -> list[tuple[Dataset, int]]:
        """The datasets and rows of the first n draws of a run, without drawing them."""
        datasets = self.training_datasets
        return [(datasets[d], datasets[d].indices[i]) for d, i, _ in self._new_order().next(n)]

    def preview(self, dataset: Dataset, row: int) -> RowPreview | None:
        """A row as training has it; None for an invalid one (`Dataset.report_invalid`)."""
        with dataset.reading(row):
            return self.preview_of(self.encoder, dataset, row)
        return None

    def unread_columns(self) -> list[str]:
        """A sentence for each dataset that has columns which training does not use."""
        notices = []
        for dataset in self.training_datasets:
            if names := dataset.unread:
                more = f" and {len(names) - 20} more" if len(names) > 20 else ""
                notices.append(f"{dataset.rows.name}: unused columns: {', '.join(names[:20])}{more}")
        return notices

    def _check_learnable(self, longest: int | None) -> None:
        """Raise DataError if all rows were drawn and none had a target."""
        if self.counts["excluded"] == self.counts["drawn"] >= self.num_rows:
            names = ", ".join(dataset.rows.name for dataset in self.training_datasets)
            raise DataError(
                f"none of the {self.num_rows} rows of {names} can be trained on: truncation to "
                f"policy.max_total_sequence_length={longest} tokens removes all of their answers, or both answers of "
                "every pair are the same"
            )


class EncodedRow(Protocol):
    """A row as tokens, in small arrays."""

    @property
    def truncated(self) -> bool: ...
    @property
    def altered(self) -> bool:
        """Whether the rendering leaves out or changes part of the row, or of its targets."""

    def samples(self, name: str) -> list[Sample]:
        """The training samples; none if truncation left no target."""

    def __len__(self) -> int:
        """The number of tokens."""


R = TypeVar("R", bound=EncodedRow)


class LabelledData(ResumableDataset, Generic[R]):
    """Rows that hold their own answers: drawn as samples, encoded once."""

    RUN_COUNTS = ("drawn", "truncated", "excluded", "altered")
    _VALIDATION = ""
    """The prefix of held-out samples' ids."""

    @abstractmethod
    def _encode(self, dataset: Dataset, rows: Sequence[tuple[int, Row]]) -> Mapping[int, R | None]:
        """Render rows one by one and tokenise them together. None for a row without targets; invalid rows are
        missing."""

    def next(self, n: int) -> list[Sample]:
        """The samples of the next n rows; fewer at the end of the last epoch, then none."""
        samples: list[Sample] = []
        while not samples and (draws := self._order.next(n)):
            for name, encoded in self._drawn(draws):
                self.counts["drawn"] += 1
                samples += self._counted(encoded, name, "")
            self._check_learnable(self.encoder.max_length)
        return samples

    @cached_property
    def validation(self) -> list[Sample]:
        """All held-out samples, in order; encoded on first use. `counts` has what was excluded."""
        samples: list[Sample] = []
        for dataset in self.validation_datasets:
            for chunk in batched(dataset.indexed_rows(), BATCH):
                for row, encoded in self._encode(dataset, chunk).items():
                    name = f"{self._VALIDATION}{dataset.label}:{row}"
                    samples += self._counted(encoded, name, "validation_")
        return samples

    def _counted(self, encoded: R | None, name: str, prefix: str) -> list[Sample]:
        samples = encoded.samples(name) if encoded is not None else []
        self.counts[f"{prefix}excluded"] += not samples
        self.counts[f"{prefix}truncated"] += encoded is not None and encoded.truncated
        self.counts[f"{prefix}altered"] += encoded is not None and encoded.altered
        return samples

    def _drawn(self, draws: Sequence[Draw]) -> list[tuple[str, R | None]]:
        """The id and the encoded row of each draw."""
        datasets = self.training_datasets
        rows = [(d, datasets[d].indices[i], epoch) for d, i, epoch in draws]
        encoded = self._encoded({(d, row) for d, row, _ in rows})
        return [(f"{datasets[d].label}:{row}@{epoch}", encoded[d, row]) for d, row, epoch in rows]

    @cached_property
    def _cache(self) -> dict[tuple[int, int], R | None]:
        """Encoded rows by (dataset, row), up to `_CACHED_TOKENS`."""
        return {}

    def _encoded(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], R | None]:
        """The encoded rows of (dataset, row) pairs: from the cache, or encoded together."""
        found = {key: self._cache[key] for key in wanted & self._cache.keys()}
        missing = sorted(wanted - found.keys())
        for d in sorted({d for d, _ in missing}):
            dataset, rows = self.training_datasets[d], [row for at, row in missing if at == d]
            encoded = self._encode(dataset, [(row, dataset.rows[row]) for row in rows])
            new = {(d, row): each for row, each in encoded.items()}
            found |= new
            self._remember(new)
        return found

    def _remember(self, new: Mapping[tuple[int, int], R | None]) -> None:
        if self._cached_tokens < _CACHED_TOKENS:
            self._cache.update(new)
            self._cached_tokens += sum(len(each) for each in new.values() if each is not None)

    _cached_tokens = 0
