"""Data of supervised training: batches of samples in a resumable order, and the held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hone.data import row_preview
from hone.data.chat import Encoded, Rendered
from hone.data.datasets import Dataset, encoder_of, load_datasets
from hone.data.finding_log import ConversationKinds
from hone.data.formats import Example
from hone.data.length_filter import LengthCheck, LengthEstimator, batched, check_lengths, parallel_tokenizers
from hone.data.resumable import BATCH, DrawSettings, LabelledData
from hone.data.rows import Row
from hone.errors import DataError
from hone.types import Message, Sample


def build_supervised(
    config: Any, tokenizer: Any, invalid_rows: dict[str, str] | None = None
) -> SupervisedData:
    """The data of a supervised run, from `config.data`, `config.algorithm` and `config.policy`.

    Every row's columns are checked here. Raises DataError naming an invalid row, ConfigError naming the key. With
    `invalid_rows` the invalid rows are collected there instead (reason by location).
    """
    encoder = encoder_of(config, tokenizer, only_unmask_final=config.algorithm.only_unmask_final)
    training, validation = load_datasets(
        config.data, config.algorithm.seed, chat=encoder.chat, invalid_rows=invalid_rows
    )
    return SupervisedData(training, validation, encoder, DrawSettings.of(config))


@dataclass(frozen=True)
class EncodedExample:
    """An encoded row, in small arrays."""

    tokens: np.ndarray
    mask: np.ndarray
    truncated: bool
    altered: bool

    @classmethod
    def of(cls, e: Encoded) -> EncodedExample:
        tokens, mask = np.array(e.tokens, dtype=np.int32), np.array(e.mask, dtype=bool)
        return cls(tokens, mask, e.truncated, bool(e.findings))

    def samples(self, name: str) -> list[Sample]:
        """The row as one sample; no sample if it has no target."""
        if not self.mask.any():
            return []
        tokens = torch.from_numpy(self.tokens.astype(np.int64))
        return [Sample(name, tokens, torch.from_numpy(self.mask.copy()))]

    def __len__(self) -> int:
        return len(self.tokens)


class SupervisedData(LabelledData[EncodedExample]):
    """Batches of training samples, and the validation samples.

    A row without any target left (its prompt alone fills the maximum length) is excluded and counted: of the data,
    `counts` has `rows`, `excluded_rows` and `validation_rows`.
    """

    preview_of = staticmethod(row_preview.of_example)

    def _check_rows(self) -> None:
        for number, dataset in enumerate(self.training_datasets):
            self.counts["excluded_rows"] += self._exclude(number, dataset)
        for dataset in self.validation_datasets:
            self._encode(dataset, self._check(dataset).uncertain[:1])
            dataset.exclude({})
        self.counts["validation_rows"] = sum(len(dataset.indices) for dataset in self.validation_datasets)

    def _check(self, dataset: Dataset) -> LengthCheck:
        """Read all rows and find those that may be too long."""
        assert self.encoder.max_length is not None
        kinds, read = ConversationKinds(), dataset.format.supervised
        estimator = LengthEstimator(self.encoder, self.encoder.max_length)
        return check_lengths(dataset, estimator, lambda row: self._context(read(dataset.tracked(row)), kinds))

    def _context(self, example: Example, kinds: ConversationKinds) -> str | Sequence[Message] | None:
        """The text before the first target. None if the row must be encoded to know its length or whether it has a
        target, and for the first conversation of its kind."""
        if example.tools or example.template_kwargs or not (example.messages or example.completion):
            return None
        if kinds.is_new(example.messages):
            return None
        if not example.messages:
            return example.prompt
        if not (turns := example.trained):
            return None
        return example.messages[: turns[-1] if self.encoder.only_unmask_final else turns[0]]

    def _exclude(self, number: int, dataset: Dataset) -> int:
        """Exclude the training rows that have no target left, and return their number. Raises DataError if no row is
        left."""
        checked = self._check(dataset)
        excluded = {row for row, _ in checked.too_long}
        for chunk in batched(checked.uncertain, BATCH):
            with parallel_tokenizers():
                encoded = self._encode(dataset, chunk)
            excluded |= {row for row, e in encoded.items() if not e.mask.any()}
            self._remember({(number, row): e for row, e in encoded.items() if e.mask.any()})
        longest = self.encoder.max_length
        dataset.exclude(dict.fromkeys(sorted(excluded), f"no target within {longest} tokens"))
        if not dataset.indices:
            raise DataError(
                f"no row of {dataset.rows.name} has a token to train on within {longest} tokens: raise "
                "policy.max_total_sequence_length (and data.max_input_seq_length)"
            )
        return len(excluded)

    def _encode(self, dataset: Dataset, rows: Sequence[tuple[int, Row]]) -> dict[int, EncodedExample]:
        rendered: dict[int, Rendered] = {}
        for row, columns in rows:
            with dataset.reading(row):
                rendered[row] = self.encoder.render(dataset.format.supervised(columns))
                self.finding_log.add(dataset.rows.location(row), rendered[row].findings)
        encoded = self.encoder.tokenize(list(rendered.values()))
        return {row: EncodedExample.of(e) for row, e in zip(rendered, encoded, strict=True)}
