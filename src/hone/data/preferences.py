"""What preference learning reads: pairs of answers (or rated answers) in a resumable order, and held-out ones.

A pair is two samples of one `unit`, chosen before rejected, that share their prompt's tokens (`prefix`). Whoever reads
them, DPO or a reward model, gets the same: this knows no loss.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from hone.data import preference_formats
from hone.data.chat import Encoder, Rendered
from hone.data.datasets import Dataset, ResumableDataset, encoder_of, load_datasets
from hone.data.length_filter import LengthScreen, batches, screen_rows
from hone.data.preference_formats import PAIRS, REASONS, Comparison, Unusable
from hone.data.preference_samples import StoredSides, joined
from hone.data.render_check import ConversationKinds
from hone.data.rows import Row
from hone.errors import ConfigError, DataError
from hone.types import Message, Sample

_CACHED_TOKENS = 1 << 26
"""Encoded rows are remembered up to so many tokens: later epochs then cost nothing."""
_BATCH = 256
_SO_FAR = ("drawn", "truncated", "excluded", "altered")
"""Counts of the run so far, which a checkpoint keeps."""


def build_preferences(config: Any, tokenizer: Any, refused: dict[str, str] | None = None) -> PreferenceData:
    """The comparisons of a run, from `config.data`, `config.policy` and the seed and epochs of `config.loop`.

    Every row is read here; rows are tokenised when they are first drawn. Raises DataError naming the row (with
    `refused` rows are gathered there by their places, and why), ConfigError naming the key.
    """
    for name in ("train", "validation"):
        for entry in getattr(config.data, name) or ():
            if entry.prompt_template is not None or entry.output_key is not None:
                raise ConfigError(
                    f"data.{name}: prompt_template and output_key are for one answer, but rows of comparisons have "
                    "two: use input_key, chosen_key and rejected_key"
                )
    # A token closes a text that is scored as a whole.
    encoder = encoder_of(config, tokenizer, closing=int(config.policy.has_scalar_head))
    training, validation = load_datasets(config.data, config.loop.seed, chat=encoder.chat, refused=refused)
    return PreferenceData(
        training,
        validation,
        encoder,
        shuffle=config.data.shuffle,
        seed=config.loop.seed,
        max_epochs=config.loop.max_num_epochs,
        may_change=config.checkpointing.allow_config_change,
    )


class PreferenceData(ResumableDataset):
    """Batches of pairs, or of rated answers, and the validation samples.

    Sequence columns of each sample: `label`, 1 for a chosen or desirable answer and -1 for the other kind; `margin`, by
    how much the row says the better is better (0 where it does not); `score`, where the row has one. Rows that nothing
    can be learned from are left out and counted: `counts` has, for the data, `rows`, `excluded_rows`,
    `excluded_REASON`, `desirable`, `undesirable` and `validation_rows`; for the whole run so far `drawn`, `truncated`,
    `excluded` (found too short when drawn) and `altered` (the rendering differs from the row).
    """

    kind: str
    """What the rows are, as a message names it: comparisons.PAIRS, LABELS or SCORES."""
    paired: bool
    """Whether rows are pairs, rather than rated answers."""

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
        self._training, self._validation = training, validation
        self._cache: dict[tuple[int, int], StoredSides | None] = {}
        self._cached_tokens = 0
        self._kinds: set[str] = set()
        self.counts: dict[str, int] = defaultdict(int, dict.fromkeys(_SO_FAR, 0))
        self.counts["rows"] = sum(len(dataset.keep) for dataset in training)
        for dataset in training:
            self._exclude(dataset, "excluded")
        self.counts["validation_rows"] = sum(len(dataset.keep) for dataset in validation)
        for dataset in validation:
            self._exclude(dataset, "validation_excluded")
        if len(self._kinds) > 1:
            raise DataError(
                f"data.train and data.validation have {' and '.join(sorted(self._kinds))}: one run learns from one kind"
            )
        (self.kind,) = self._kinds
        self.paired = self.kind == PAIRS
        super().__init__(training, shuffle=shuffle, seed=seed, max_epochs=max_epochs, may_change=may_change)

    def next(self, n: int) -> list[Sample]:
        """The samples of the next n rows; fewer at the end of the last epoch, then none."""
        samples: list[Sample] = []
        while not samples and (draws := self._order.next(n)):
            for stored, name in self._drawn(draws):
                self.counts["drawn"] += 1
                self.counts["excluded"] += stored is None
                self.counts["truncated"] += stored is not None and stored.truncated
                self.counts["altered"] += stored is not None and stored.altered
                samples += stored.samples(name) if stored is not None else []
            self._not_all_in_vain(self.encoder.max_length)
        return samples

    def upcoming(self, n: int) -> Iterator[list[Sample]]:
        """The samples of the first n draws of the run, each row once, in chunks; nothing is drawn by it."""
        rows = dict.fromkeys((d, i) for d, i, _ in self._from_the_start().next(n))
        for chunk in batches(rows, _BATCH):
            drawn = self._drawn([(d, i, 0) for d, i in chunk])
            yield [s for stored, name in drawn if stored is not None for s in stored.samples(name)]

    def mismatched(self, samples: Sequence[Sample]) -> list[Sample]:
        """The prompt of each unit with the answer to another: what KTO estimates its KL from.

        Of training samples the answer to the dataset's next row, whatever the batch; of others to the next unit here.
        """
        firsts = list({sample.unit: sample for sample in reversed(samples)}.values())[::-1]
        found = []
        for number, sample in enumerate(firsts):
            label, _, rest = sample.unit.rpartition(":")
            other: Sample | None = firsts[(number + 1) % len(firsts)]
            if label in self._following:
                d, following = self._following[label]
                row = following[int(rest.split("@")[0])]
                stored = self._stored({(d, row)})[d, row]
                other = stored.samples("")[0] if stored is not None else None
            if other is not None:
                found.append(joined(sample, other, self.encoder.max_length))
        return found

    @cached_property
    def _following(self) -> dict[str, tuple[int, dict[int, int]]]:
        """Of each dataset its number, and the row that comes after each."""
        return {
            dataset.label: (d, dict(zip(dataset.keep, [*dataset.keep[1:], dataset.keep[0]], strict=True)))
            for d, dataset in enumerate(self._training)
        }

    @cached_property
    def validation(self) -> list[Sample]:
        """All held-out samples, in order; encoded when first asked for. `counts` says what was left out."""
        samples: list[Sample] = []
        for dataset in self._validation:
            for chunk in batches(dataset.kept(), _BATCH):
                for row, stored in self._encode(dataset, chunk).items():
                    self.counts["validation_excluded"] += stored is None
                    self.counts["validation_truncated"] += stored is not None and stored.truncated
                    samples += (
                        stored.samples(f"validation/{dataset.label}:{row}") if stored is not None else []
                    )
        return samples

    def state_dict(self) -> dict[str, Any]:
        return self.position() | {"counts": {k: self.counts[k] for k in _SO_FAR}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken. Raises CheckpointError when the data are others."""
        self.go_to(state)
        self.counts |= state["counts"]

    def left_out(self) -> str:
        """Which rows are left out and why; empty when none are."""
        found = {reason: self.counts[f"excluded_{reason}"] for reason in REASONS}
        reasons = [f"{count} {reason.replace('_', ' ')}" for reason, count in found.items() if count]
        if not reasons:
            return ""
        return (
            f"{self.counts['excluded_rows']} of {self.counts['rows']} rows are left out: {', '.join(reasons)}"
        )

    def _exclude(self, dataset: Dataset, counted: str) -> None:
        """Take out the rows that nothing can be learned from. Raises DataError when none is left."""
        assert self.encoder.max_length is not None
        excluded: dict[int, str] = {}

        kinds = ConversationKinds()

        def prompt_of(row: Row) -> str | Sequence[Message] | None:
            comparison = preference_formats.read(row, dataset.format)
            example = comparison.chosen
            if (
                example.tools
                or example.template_kwargs
                or kinds.is_new([m for side in comparison.sides for m in side.messages])
            ):
                return None
            return example.messages[: example.num_prompt_messages] if example.messages else example.prompt

        usable = []
        for index, row in dataset.kept():
            try:
                comparison = preference_formats.read(dataset.reading(row), dataset.format)
                self._kinds.add(comparison.kind)
                if counted == "excluded":
                    self.counts["desirable" if comparison.desirable else "undesirable"] += 1
                usable.append(index)
            except Unusable as found:
                excluded[index] = found.reason
            except DataError as error:
                dataset.refuse(index, error)
        dataset.keep = usable
        if usable:
            screen = LengthScreen(self.encoder, self.encoder.max_length)
            checked = screen_rows(dataset, screen, prompt_of)
            excluded |= {index: "truncated" for index, _ in checked.long}
            for chunk in batches(checked.unsure, _BATCH):
                for index, stored in self._encode(dataset, chunk, excluded).items():
                    assert stored is not None or index in excluded
        dataset.leave_out({index: reason.replace("_", " ") for index, reason in sorted(excluded.items())})
        self.counts[f"{counted}_rows"] += len(excluded)
        for reason in excluded.values():
            self.counts[f"{counted}_{reason}"] += 1
        if not dataset.keep:
            why = ", ".join(f"{count} {reason}" for reason, count in Counter(excluded.values()).items())
            raise DataError(
                f"no row of {dataset.rows.name} can be learned from ({why.replace('_', ' ')}): look at its columns, "
                f"and for truncated ones raise policy.max_total_sequence_length={self.encoder.max_length}"
            )

    def _drawn(self, draws: Sequence[tuple[int, int, int]]) -> list[tuple[StoredSides | None, str]]:
        rows = [(d, self._training[d].keep[i], epoch) for d, i, epoch in draws]
        stored = self._stored({(d, row) for d, row, _ in rows})
        return [(stored[d, row], f"{self._training[d].label}:{row}@{epoch}") for d, row, epoch in rows]

    def _stored(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], StoredSides | None]:
        """The (dataset, row)s encoded: from memory, or together, and then remembered while there is room."""
        found = {key: self._cache[key] for key in wanted & self._cache.keys()}
        missing = sorted(wanted - found.keys())
        for d in sorted({d for d, _ in missing}):
            dataset, rows = self._training[d], [row for at, row in missing if at == d]
            encoded = self._encode(dataset, [(row, dataset.rows[row]) for row in rows])
            new = {(d, row): stored for row, stored in encoded.items()}
            found |= new
            if self._cached_tokens < _CACHED_TOKENS:
                self._cache |= new
                self._cached_tokens += sum(len(s) for s in new.values() if s is not None)
        return found

    def _encode(
        self, dataset: Dataset, rows: Sequence[tuple[int, Row]], excluded: dict[int, str] | None = None
    ) -> dict[int, StoredSides | None]:
        """Tokenise rows together. None for one that nothing is left of, whose reason goes into `excluded`; refused ones
        are not among them."""
        rendered: dict[int, tuple[Comparison, list[Rendered]]] = {}
        for index, columns in rows:
            try:
                comparison = preference_formats.read(columns, dataset.format)
                rendered[index] = comparison, [self.encoder.render(side) for side in comparison.sides]
            except DataError as error:
                dataset.refuse(index, error)
                continue
            for side in rendered[index][1]:
                self.finding_log.add(dataset.rows.where(index), side.findings)
        encoded = iter(self.encoder.tokenize([side for _, sides in rendered.values() for side in sides]))
        result: dict[int, StoredSides | None] = {}
        for index, (comparison, sides) in rendered.items():
            try:
                result[index] = StoredSides.of(comparison, [next(encoded) for _ in sides])
            except Unusable as found:
                result[index] = None
                if excluded is not None:
                    excluded[index] = found.reason
        return result
