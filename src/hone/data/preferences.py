"""What preference learning reads: pairs of responses (or rated ones) in a resumable order, and held-out ones.

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
from hone.data.row_preview import RowPreview
from hone.data.rows import Row
from hone.errors import ConfigError, DataError
from hone.types import Message, Sample

_Exclusions = dict[int, tuple[str, str]]
"""By row: one of REASONS, and what a message says."""


def build_preferences(
    config: Any, tokenizer: Any, invalid_rows: dict[str, str] | None = None
) -> PreferenceData:
    """The preference data of a run, from `config.data`, `config.policy` and the seed and epochs of `config.loop`.

    Every row is read here. Raises DataError naming the row (with `invalid_rows` these rows are collected there,
    location by reason), ConfigError naming the key.
    """
    for name in ("train", "validation"):
        for entry in getattr(config.data, name) or ():
            if entry.prompt_template is not None or entry.output_key is not None:
                raise ConfigError(
                    f"data.{name}: prompt_template and output_key are for one answer, but rows of comparisons have "
                    "two: use input_key, chosen_key and rejected_key"
                )
    # A text that is scored as a whole ends with one more token.
    encoder = encoder_of(config, tokenizer, reserve=int(config.policy.has_scalar_head))
    training, validation = load_datasets(
        config.data, config.loop.seed, chat=encoder.chat, invalid_rows=invalid_rows
    )
    return PreferenceData(training, validation, encoder, DrawSettings.of(config))


class PreferenceData(LabelledData[EncodedPreference]):
    """Batches of pairs, or of rated responses, and the validation samples.

    Sequence columns of each sample: `label`, 1 for a chosen or desirable response and -1 for the other kind; `margin`,
    by how much the row says the better is better (0 where it does not); `score`, where the row has one. Rows that
    nothing can be learned from are excluded and counted: `counts` has, for the data, `rows`, `excluded_rows`,
    `excluded_REASON`, `desirable`, `undesirable` and `validation_rows`.
    """

    kind: str
    """What the rows are, as a message names it: preference_formats.PAIRS, LABELS or SCORES."""
    paired: bool
    """Whether rows are pairs, rather than rated responses."""
    _VALIDATION = "validation/"

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
                f"data.train and data.validation have {' and '.join(sorted(kinds))}: one run learns from one kind"
            )
        (self.kind,) = kinds
        self.paired = self.kind == PAIRS

    def upcoming(self, n: int) -> Iterator[list[Sample]]:
        """The samples of the first n draws of the run, each row once, in chunks; nothing is drawn by it."""
        rows = dict.fromkeys((d, i) for d, i, _ in self._new_order().next(n))
        for chunk in batched(rows, BATCH):
            drawn = self._drawn([(d, i, 0) for d, i in chunk])
            yield [s for name, encoded in drawn if encoded is not None for s in encoded.samples(name)]

    def mismatched(self, samples: Sequence[Sample]) -> list[Sample]:
        """The prompt of each unit with the response to another: what KTO estimates its KL from.

        Of training samples the response to the dataset's next row, whatever the batch; of others to the next unit
        here.
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
        """Of each dataset its number, and the row that comes after each."""
        return {
            dataset.label: (
                d,
                dict(zip(dataset.indices, [*dataset.indices[1:], dataset.indices[0]], strict=True)),
            )
            for d, dataset in enumerate(self.training_datasets)
        }

    def excluded_notice(self) -> str:
        """How many rows are excluded and why; empty when none are."""
        if not self._exclusions:
            return ""
        ordered = sorted(self._exclusions.items(), key=lambda item: REASONS.index(item[0][0]))
        reasons = ", ".join(f"{count} {text}" for (_, text), count in ordered)
        return f"{self.counts['excluded_rows']} of {self.counts['rows']} rows are left out: {reasons}"

    def _preview(self, dataset: Dataset, row: int) -> RowPreview:
        return row_preview.of_preference(self.encoder, dataset, row)

    def _exclude(self, dataset: Dataset, counted: str, kinds: set[str]) -> _Exclusions:
        """Exclude the rows that nothing can be learned from. Raises DataError when none is left."""
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
                f"no row of {dataset.rows.name} can be learned from ({why}): look at its columns, and for truncated "
                f"ones raise policy.max_total_sequence_length={self.encoder.max_length}"
            )
        return excluded

    def _read_all(self, dataset: Dataset, counted: str, kinds: set[str]) -> _Exclusions:
        """Read every row's columns; afterwards `dataset.indices` has the rows that say something to learn from."""
        excluded: _Exclusions = {}
        usable = []
        for index, row in dataset.indexed_rows():
            try:
                preference = preference_formats.read(dataset.tracked(row), dataset.format)
                kinds.add(preference.kind)
                if counted == "excluded":
                    self.counts["desirable" if preference.desirable else "undesirable"] += 1
                usable.append(index)
            except UnusableRow as error:
                excluded[index] = error.reason, str(error)
            except DataError as error:
                dataset.report_invalid(index, error)
        dataset.indices = usable
        return excluded

    def _exclude_truncated(self, dataset: Dataset, excluded: _Exclusions) -> None:
        """Add to `excluded` the rows of which truncation leaves nothing."""
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
        """See LabelledData; why nothing is left of a row goes into `excluded`."""
        rendered: dict[int, tuple[PreferenceRow, list[Rendered]]] = {}
        for index, columns in rows:
            try:
                preference = preference_formats.read(columns, dataset.format)
                rendered[index] = preference, [self.encoder.render(each) for each in preference.responses]
            except DataError as error:
                dataset.report_invalid(index, error)
                continue
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
