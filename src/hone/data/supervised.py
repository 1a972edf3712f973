"""What the supervised loop learns from: batches of samples in a resumable order, and the held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hone.data.chat import Encoded, Encoder, Rendered
from hone.data.datasets import Dataset, ResumableDataset, encoder_of, load_datasets
from hone.data.formats import Example
from hone.data.length_filter import LengthScreen, Screened, all_cores, batches, screen_rows
from hone.data.render_check import ConversationKinds
from hone.data.rows import Row
from hone.errors import DataError
from hone.types import Message, Sample

_CACHED_TOKENS = 1 << 26
"""Encoded rows are remembered up to so many tokens (5 bytes each): later epochs then cost nothing."""
_BATCH = 256
_SO_FAR = ("drawn", "truncated", "excluded", "altered")
"""Counts of the run so far, which a checkpoint keeps."""


def build_supervised(config: Any, tokenizer: Any, refused: dict[str, str] | None = None) -> SupervisedData:
    """The data of an SFT run, from `config.data`, `config.sft` and `config.policy`.

    Every row's columns are checked here; rows are rendered and tokenised when they are first drawn, so that
    the first step comes soon. Raises DataError naming the row (with `refused` rows are gathered there by their places,
    and why), ConfigError naming the key.
    """
    encoder = encoder_of(config, tokenizer, only_unmask_final=config.sft.only_unmask_final)
    training, validation = load_datasets(config.data, config.sft.seed, chat=encoder.chat, refused=refused)
    return SupervisedData(
        training,
        validation,
        encoder,
        shuffle=config.data.shuffle,
        seed=config.sft.seed,
        max_epochs=config.sft.max_num_epochs,
        may_change=config.checkpointing.allow_config_change,
    )


@dataclass(frozen=True)
class _Stored:
    """An encoded row, kept small."""

    tokens: np.ndarray
    mask: np.ndarray
    truncated: bool
    altered: bool
    """The rendering does not say, or train on, all that the row says."""

    @classmethod
    def of(cls, e: Encoded) -> _Stored:
        tokens, mask = np.array(e.tokens, dtype=np.int32), np.array(e.mask, dtype=bool)
        return cls(tokens, mask, e.truncated, bool(e.findings))

    def sample(self, name: str) -> Sample:
        tokens = torch.from_numpy(self.tokens.astype(np.int64))
        return Sample(name, tokens, torch.from_numpy(self.mask.copy()))


class SupervisedData(ResumableDataset):
    """Batches of training samples, and the validation samples.

    A row without any target left (its prompt alone is as long as a sample may be) is excluded and counted.
    `counts` has, for the whole run so far, `drawn`, `truncated`, `excluded` and `altered` samples (whose rendering
    differs from the row: `finding_log` says how); for the data, `rows`, `excluded_rows` and `validation_rows`.
    """

    def __init__(
        self,
        training: list[Dataset],
        validation: list[Dataset],
        encoder: Encoder,
        *,
        shuffle: bool = True,
        seed: int = 0,
        max_epochs: int | None = None,
        may_change: bool = False,
    ) -> None:
        self.encoder = encoder
        self._validation = validation
        self._cache: dict[tuple[int, int], _Stored] = {}
        self._cached_tokens = 0
        self.counts = dict.fromkeys(_SO_FAR, 0)
        self.counts["rows"] = sum(len(p.keep) for p in training)
        self.counts["excluded_rows"] = sum(self._exclude(n, p) for n, p in enumerate(training))
        for dataset in validation:
            self._encode_rows(dataset, self._check(dataset).unsure[:1])
            dataset.leave_out({})
        self.counts["validation_rows"] = sum(len(p.keep) for p in validation)
        super().__init__(training, shuffle=shuffle, seed=seed, max_epochs=max_epochs, may_change=may_change)

    def next(self, n: int) -> list[Sample]:
        """The next n samples; fewer at the end of the last epoch, then none."""
        samples: list[Sample] = []
        while not samples and (draws := self._order.next(n)):
            drawn = [(d, self._training[d].keep[i], epoch) for d, i, epoch in draws]
            stored = self._stored({(d, row) for d, row, _ in drawn})
            for d, row, epoch in drawn:
                self.counts["drawn"] += 1
                self.counts["truncated"] += stored[d, row].truncated
                self.counts["altered"] += stored[d, row].altered
                if stored[d, row].mask.any():
                    samples.append(stored[d, row].sample(f"{self._training[d].label}:{row}@{epoch}"))
                else:
                    self.counts["excluded"] += 1
            self._not_all_in_vain(self.encoder.max_length)
        return samples

    @cached_property
    def validation(self) -> list[Sample]:
        """All held-out samples, in order; encoded when first asked for. `counts` says what was left out."""
        samples: list[Sample] = []
        truncated = 0
        for dataset in self._validation:
            for chunk in batches(dataset.kept(), _BATCH):
                for row, encoded in self._encode_rows(dataset, chunk).items():
                    truncated += encoded.truncated
                    if encoded.has_target:
                        samples.append(_Stored.of(encoded).sample(f"{dataset.label}:{row}"))
        self.counts["validation_truncated"] = truncated
        self.counts["validation_excluded"] = self.counts["validation_rows"] - len(samples)
        return samples

    def state_dict(self) -> dict[str, Any]:
        return self.position() | {"counts": {k: self.counts[k] for k in _SO_FAR}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken. Raises CheckpointError when the data are others."""
        self.go_to(state)
        self.counts |= state["counts"]

    def _check(self, dataset: Dataset) -> Screened:
        """Read all rows, refuse those that lack something; returns those maybe too long."""
        assert self.encoder.max_length is not None
        screen, kinds = LengthScreen(self.encoder, self.encoder.max_length), ConversationKinds()
        read = dataset.format.supervised
        return screen_rows(dataset, screen, lambda row: self._context(read(dataset.reading(row)), kinds))

    def _context(self, example: Example, kinds: ConversationKinds) -> str | Sequence[Message] | None:
        """What comes before the first target; None when only encoding tells, or whether there is a target, and for the
        first row of its kind."""
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
        """Take out the training rows that have no target left. Raises DataError when nothing is left."""
        checked = self._check(dataset)
        excluded = {row for row, _ in checked.long}
        for chunk in batches(checked.unsure, _BATCH):
            with all_cores():
                encoded = self._encode_rows(dataset, chunk)
            excluded |= {row for row, e in encoded.items() if not e.has_target}
            self._remember({(number, row): _Stored.of(e) for row, e in encoded.items() if e.has_target})
        dataset.leave_out(
            dict.fromkeys(sorted(excluded), f"nothing to learn from within {self.encoder.max_length} tokens")
        )
        if not dataset.keep:
            raise DataError(
                f"no row of {dataset.rows.name} has anything to learn within {self.encoder.max_length} tokens: "
                "raise policy.max_total_sequence_length (and data.max_input_seq_length)"
            )
        return len(excluded)

    def _stored(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], _Stored]:
        """The (dataset, row)s encoded: from memory, or together, and then remembered while there is room."""
        found = {key: self._cache[key] for key in wanted & self._cache.keys()}
        missing = sorted(wanted - found.keys())
        for d in sorted({d for d, _ in missing}):
            dataset, rows = self._training[d], [row for at, row in missing if at == d]
            encoded = self._encode_rows(dataset, [(row, dataset.rows[row]) for row in rows])
            new = {(d, row): _Stored.of(e) for row, e in encoded.items()}
            found |= new
            self._remember(new)
        return found

    def _remember(self, new: dict[tuple[int, int], _Stored]) -> None:
        if self._cached_tokens < _CACHED_TOKENS:
            self._cache |= new
            self._cached_tokens += sum(len(s.tokens) for s in new.values())

    def _encode_rows(self, dataset: Dataset, rows: Sequence[tuple[int, Row]]) -> dict[int, Encoded]:
        """Rows rendered one by one and tokenised together; refused ones are not among them."""
        rendered: dict[int, Rendered] = {}
        for row, columns in rows:
            try:
                rendered[row] = self.encoder.render(dataset.format.supervised(columns))
            except DataError as error:
                dataset.refuse(row, error)
                continue
            self.finding_log.add(dataset.rows.where(row), rendered[row].findings)
        return dict(zip(rendered, self.encoder.tokenize(list(rendered.values())), strict=True))
