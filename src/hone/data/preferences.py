"""Preference data: pairs of responses, or single rated ones, in a resumable order, and held-out rows.

A pair is two samples of one `unit`, chosen before rejected, that share their prompt's tokens (`prefix`). DPO and
reward models read the same rows: nothing here depends on the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from hone.data import preference_formats, row_preview
from hone.data.chat import Rendered
from hone.data.datasets import Dataset, encoder_of, load_datasets
from hone.data.finding_log import ConversationKinds
from hone.data.length_filter import LengthEstimator, batched, check_lengths
from hone.data.preference_formats import PAIRS, REASONS, PreferenceRow, UnusableRow
from hone.data.preference_samples import EncodedPreference, with_other_response
from hone.data.resumable import BATCH, DrawSettings, LabelledData
from hone.data.rows import Row
from hone.errors import ConfigError, DataError
from hone.types import Message, Sample

_Exclusions = dict[int, tuple[str, str]]
"""By row: one of REASONS, and its text in messages."""


def build_preferences(
    config: Any, tokenizer: Any, invalid_rows: dict[str, str] | None = None
) -> PreferenceData:
    """The preference data of a run, from `config.data`, `config.policy` and `config.algorithm`.

    Every row is read here. Raises DataError naming an invalid row, ConfigError naming the key. With `invalid_rows` the
    invalid rows are collected there instead (reason by location).
    """
    for name in ("train", "validation"):
        for entry in getattr(config.data, name) or ():
            if entry.prompt_template is not None or entry.output_key is not None:
                raise ConfigError(
                    f"data.{name}: prompt_template and output_key are for rows with one answer, but preference rows "
                    "have two: use input_key, chosen_key and rejected_key"
                )
    # A text that is scored as a whole ends with one more token.
    encoder = encoder_of(config, tokenizer, reserve=int(config.policy.has_scalar_head))
    training, validation = load_datasets(
        config.data, config.algorithm.seed, chat=encoder.chat, invalid_rows=invalid_rows
    )
    return PreferenceData(training, validation, encoder, DrawSettings.of(config))


class PreferenceData(LabelledData[EncodedPreference]):
    """Batches of pairs, or of rated responses, and the validation samples.

    Sequence columns of each sample: `label`, 1 for a chosen or desirable response and -1 otherwise; `margin`, by how
    much the chosen response is better (0 if the row does not say); `score`, if the row has one. Unusable rows are
    excluded and counted: `counts` has, for the data, `rows`, `excluded_rows`, `excluded_REASON`, `desirable`,
    `undesirable` and `validation_rows`.
    """

    kind: str
    """The kind of rows: preference_formats.PAIRS, LABELS or SCORES."""
    paired: bool
    """Whether rows are pairs, not single rated responses."""
    _VALIDATION = "validation/"
    preview_of = staticmethod(row_preview.of_preference)

    def _check_rows(self) -> None:
        self._exclusions: Counter[tuple[str, str]] = Counter()
        kinds: set[str] = set()
        for dataset in self.training_datasets:
            excluded = self._exclude(dataset, "excluded", kinds)
            self._exclusions.update(excluded.values())
        for dataset in self.validation_datasets:
            self._exclude(dataset, "validation_excluded", kinds)
        if len(kinds) > 1:
            raise DataError(
                f"data.train and data.validation have {' and '.join(sorted(kinds))}: a run needs rows of one kind"
            )
        (self.kind,) = kinds
        self.paired = self.kind == PAIRS

    def upcoming(self, n: int) -> Iterator[list[Sample]]:
        """The samples of the first n draws of the run, each row once, in chunks, without drawing them."""
        rows = dict.fromkeys((d, i) for d, i, _ in self._new_order().next(n))
        for chunk in batched(rows, BATCH):
            drawn = self._drawn([(d, i, 0) for d, i in chunk])
            yield [s for name, encoded in drawn if encoded is not None for s in encoded.samples(name)]

    def mismatched(self, samples: Sequence[Sample]) -> list[Sample]:
        """The prompt of each unit with the response of another unit, from which KTO estimates its KL.

        For a training sample, it is the response of the dataset's next row, independent of the batch; for others, that
        of the next unit in `samples`.
        """
        firsts = list({sample.unit: sample for sample in reversed(samples)}.values())[::-1]
        found = []
        for number, sample in enumerate(firsts):
            label, _, rest = sample.unit.rpartition(":")
            other: Sample | None = firsts[(number + 1) % len(firsts)]
            if label in self._next_rows:
                d, following = self._next_rows[label]
                row = following[int(rest.split("@")[0])]
                encoded = self._encoded({(d, row)})[d, row]
                other = encoded.samples("")[0] if encoded is not None else None
            if other is not None:
                found.append(with_other_response(sample, other, self.encoder.max_length))
        return found

    @cached_property
    def _next_rows(self) -> dict[str, tuple[int, dict[int, int]]]:
        """For each dataset its number, and the row after each row."""
        return {
            dataset.label: (
                d,
                dict(zip(dataset.indices, [*dataset.indices[1:], dataset.indices[0]], strict=True)),
            )
            for d, dataset in enumerate(self.training_datasets)
        }

    def excluded_notice(self) -> str:
        """How many rows are excluded and why; empty if there are none."""
        if not self._exclusions:
            return ""
        ordered = sorted(self._exclusions.items(), key=lambda item: REASONS.index(item[0][0]))
        reasons = ", ".join(f"{count} {text}" for (_, text), count in ordered)
        return f"{self.counts['excluded_rows']} of {self.counts['rows']} rows are left out: {reasons}"

    def _exclude(self, dataset: Dataset, counted: str, kinds: set[str]) -> _Exclusions:
        """Exclude unusable rows, and return them with their reasons. Raises DataError if no row is left."""
        excluded = self._read_all(dataset, counted, kinds)
        if dataset.indices:
            self._exclude_truncated(dataset, excluded)
        dataset.exclude({index: text for index, (_, text) in sorted(excluded.items())})
        self.counts[f"{counted}_rows"] += len(excluded)
        for reason, _ in excluded.values():
            self.counts[f"{counted}_{reason}"] += 1
        if not dataset.indices:
            why = ", ".join(f"{count} {text}" for (_, text), count in Counter(excluded.values()).items())
            raise DataError(
                f"no row of {dataset.rows.name} can be trained on ({why}): check its columns; if rows are truncated, "
                f"raise policy.max_total_sequence_length={self.encoder.max_length}"
            )
        return excluded

    def _read_all(self, dataset: Dataset, counted: str, kinds: set[str]) -> _Exclusions:
        """Read every row's columns, set `dataset.indices` to the usable rows, and return the unusable ones."""
        excluded: _Exclusions = {}
        usable = []
        for index, row in dataset.indexed_rows():
            with dataset.reading(index):
                try:
                    preference = preference_formats.read(dataset.tracked(row), dataset.format)
                except UnusableRow as error:
                    excluded[index] = error.reason, str(error)
                    continue
                kinds.add(preference.kind)
                if counted == "excluded":
                    self.counts["desirable" if preference.desirable else "undesirable"] += 1
                usable.append(index)
        dataset.indices = usable
        return excluded

    def _exclude_truncated(self, dataset: Dataset, excluded: _Exclusions) -> None:
        """Add to `excluded` the rows of which truncation leaves no target."""
        assert self.encoder.max_length is not None
        kinds = ConversationKinds()

        def prompt_of(row: Row) -> str | Sequence[Message] | None:
            preference = preference_formats.read(row, dataset.format)
            example = preference.chosen
            messages = [m for response in preference.responses for m in response.messages]
            if example.tools or example.template_kwargs or kinds.is_new(messages):
                return None
            return example.messages[: example.num_prompt_messages] if example.messages else example.prompt

        checked = check_lengths(dataset, LengthEstimator(self.encoder, self.encoder.max_length), prompt_of)
        excluded |= {index: ("truncated", "truncated") for index, _ in checked.too_long}
        for chunk in batched(checked.uncertain, BATCH):
            self._encode(dataset, chunk, excluded)

    def _encode(
        self, dataset: Dataset, rows: Sequence[tuple[int, Row]], excluded: _Exclusions | None = None
    ) -> dict[int, EncodedPreference | None]:
        """See LabelledData; the reasons of rows without targets are added to `excluded`."""
        rendered: dict[int, tuple[PreferenceRow, list[Rendered]]] = {}
        for index, columns in rows:
            with dataset.reading(index):
                preference = preference_formats.read(columns, dataset.format)
                rendered[index] = preference, [self.encoder.render(each) for each in preference.responses]
                for response in rendered[index][1]:
                    self.finding_log.add(dataset.rows.location(index), response.findings)
        encoded = iter(
            self.encoder.tokenize([each for _, responses in rendered.values() for each in responses])
        )
        result: dict[int, EncodedPreference | None] = {}
        for index, (preference, responses) in rendered.items():
            try:
                result[index] = EncodedPreference.of(preference, [next(encoded) for _ in responses])
            except UnusableRow as error:
                result[index] = None
                if excluded is not None:
                    excluded[index] = error.reason, str(error)
        return result
