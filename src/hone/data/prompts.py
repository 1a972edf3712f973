"""Prompts for RL and evaluation: training prompts in a resumable order, and the held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from hone.data import row_preview
from hone.data.chat import Encoder, Rendered
from hone.data.datasets import Dataset, load_dataset, load_datasets
from hone.data.finding_log import ConversationKinds
from hone.data.formats import PromptText
from hone.data.length_filter import LengthEstimator, batched, check_lengths
from hone.data.resumable import BATCH, DrawSettings, ResumableDataset
from hone.data.rows import Row
from hone.errors import DataError
from hone.types import Message, Prompt, Sample


@dataclass(frozen=True)
class Limit:
    """The maximum length of a prompt, and what is done with a longer one."""

    tokens: int
    reason: str
    """The setting that implies the limit, for messages."""
    drop: bool
    """Leave longer prompts out; otherwise they are an error."""

    @classmethod
    def of(cls, data: Any, longest: int, key: str) -> Limit:
        """The limit that leaves room for one generated token and respects `data.max_input_seq_length`."""
        drop, shorter = data.overlong_prompts == "drop", data.max_input_seq_length
        if shorter < longest:
            return cls(shorter, f"data.max_input_seq_length={shorter}", drop)
        return cls(longest - 1, f"{key}={longest}, which must also hold the answer", drop)

    def error(self, length: int, others: int = 0) -> DataError:
        """The error for a prompt of `length` tokens; `others` is the number of other rows that are too long."""
        more = (
            f" ({others} other {'row is' if others == 1 else 'rows are'} too long as well)" if others else ""
        )
        return DataError(
            f"the prompt has {length} tokens, but at most {self.tokens} are allowed by {self.reason}{more}. Raise it, "
            "or leave such rows out with data.overlong_prompts=drop"
        )


def build_prompts(config: Any, tokenizer: Any, invalid_rows: dict[str, str] | None = None) -> PromptData:
    """The prompts of an RL run, from `config.data`, `config.algorithm` and `config.policy`.

    Every row and its length are checked here. Raises DataError naming an invalid row, ConfigError naming the key. With
    `invalid_rows` the invalid rows are collected there instead (reason by location).
    """
    encoder = Encoder(
        tokenizer,
        add_bos=config.data.add_bos,
        add_generation_prompt=config.data.add_generation_prompt,
        template_kwargs=config.policy.tokenizer.chat_template_kwargs or {},
    )
    longest = config.policy.max_total_sequence_length
    limit = Limit.of(config.data, longest, "policy.max_total_sequence_length")
    training, validation = load_datasets(
        config.data, config.algorithm.seed, chat=encoder.chat, invalid_rows=invalid_rows
    )
    return PromptData(training, validation, encoder, DrawSettings.of(config), limit, longest)


def build_eval_prompts(config: Any, tokenizer: Any, invalid_rows: dict[str, str] | None = None) -> PromptData:
    """The prompts of an evaluation, checked as in `build_prompts`; it raises the same errors."""
    encoder = Encoder(
        tokenizer,
        add_bos=config.data.add_bos,
        template_kwargs=config.tokenizer.chat_template_kwargs or {},
    )
    longest = config.generation.max_model_len
    limit = Limit.of(config.data, longest, "generation.max_model_len")
    dataset = load_dataset(config.data, "test", chat=encoder.chat, invalid_rows=invalid_rows)
    return PromptData([dataset], [], encoder, DrawSettings(shuffle=False, max_epochs=1), limit, longest)


class PromptData(ResumableDataset):
    """Training prompts, and the validation prompts.

    `counts` has the prompts `drawn` in the run so far (and, if their answers were requested, how many were `truncated`
    and `excluded`). Of the data it has `rows`, `dropped_rows` (too long), `validation_rows` and
    `validation_dropped_rows`.
    """

    RUN_COUNTS = ("truncated", "excluded")
    preview_of = staticmethod(row_preview.of_prompt)

    def __init__(
        self,
        training: Sequence[Dataset],
        validation: Sequence[Dataset],
        encoder: Encoder,
        settings: DrawSettings,
        limit: Limit,
        longest: int,
    ) -> None:
        """`longest`: the most tokens of a prompt and its answer together."""
        self.limit, self.longest = limit, longest
        super().__init__(training, validation, encoder, settings)

    def _check_rows(self) -> None:
        self.counts["dropped_rows"] = sum(map(self._exclude_overlong, self.training_datasets))
        self.counts["validation_dropped_rows"] = sum(map(self._exclude_overlong, self.validation_datasets))

    def dropped_notices(self) -> list[str]:
        """A sentence on the training prompts, and one on the validation prompts, that are too long and left out."""
        reason = f"longer than {self.limit.tokens} tokens ({self.limit.reason})"
        return [
            f"{dropped} of {self.counts[f'{prefix}rows']} {prefix.replace('_', ' ')}prompts are left out: {reason}"
            for prefix in ("", "validation_")
            if (dropped := self.counts[f"{prefix}dropped_rows"])
        ]

    @property
    def columns(self) -> set[str]:
        """Names of the columns that reward functions are given."""
        return {name for dataset in self.training_datasets for row in dataset.rows[:1] for name in row}

    def next(self, n: int) -> list[Prompt]:
        """The next n prompts, each with an id of its own; fewer at the end of the last epoch, then none."""
        first = self._order.draws
        asked: list[tuple[str, Dataset, int, Row]] = []
        for k, (d, i, epoch) in enumerate(self._order.next(n)):
            dataset = self.training_datasets[d]
            row = dataset.indices[i]
            asked.append((f"{dataset.label}:{row}@{epoch}.{first + k}", dataset, row, dataset.rows[row]))
        self.counts["drawn"] = self._order.draws
        prompts = self._prompts(asked)
        for (_, dataset, row, _), prompt in zip(asked, prompts, strict=True):
            if len(prompt.tokens) > self.limit.tokens:  # the template broke the estimate of lengths
                dataset.report_invalid(row, self.limit.error(len(prompt.tokens)))
        return prompts

    def again(self, ids: Sequence[str]) -> list[Prompt]:
        """Prompts that `next` returned before, by their ids."""
        datasets = {dataset.label: dataset for dataset in self.training_datasets}
        asked: list[tuple[str, Dataset, int, Row]] = []
        for name in ids:
            label, row = name.rpartition("@")[0].rsplit(":", 1)
            asked.append((name, datasets[label], int(row), datasets[label].rows[int(row)]))
        return self._prompts(asked)

    @cached_property
    def validation(self) -> list[Prompt]:
        """All held-out prompts, in order; encoded on first use."""
        return self.all_prompts(self.validation_datasets)

    def all_prompts(self, datasets: Sequence[Dataset]) -> list[Prompt]:
        """Every row of the datasets in order, repeated as often as its dataset says."""
        prompts = []
        for dataset in datasets:
            names = [f".{k}" for k in range(dataset.repeat)] if dataset.repeat > 1 else [""]
            prompts += self._prompts(
                [
                    (f"{dataset.label}:{row}{name}", dataset, row, columns)
                    for row, columns in dataset.indexed_rows()
                    for name in names
                ]
            )
        return prompts

    def check_answers(self) -> None:
        """Raise DataError for the first training row that has no answer."""
        for dataset in self.training_datasets:
            for row, columns in dataset.indexed_rows():
                with dataset.reading(row):
                    dataset.format.supervised(columns)

    def answers(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """The data's own answers to the prompts just drawn, as SFT samples.

        A sample that is truncated within its prompt has no target: it is left out, and counted as `excluded`.
        """
        formats = {dataset.label: dataset.format for dataset in self.training_datasets}
        encoder = replace(self.encoder, max_length=self.longest)
        rendered = [encoder.render(formats[prompt.dataset].supervised(prompt.row)) for prompt in prompts]
        for prompt, answer in zip(prompts, rendered, strict=True):
            self.finding_log.add(f"the answer to {prompt.id}", answer.findings)
        samples = []
        for prompt, encoded in zip(prompts, encoder.tokenize(rendered), strict=True):
            self.counts["truncated"] += encoded.truncated
            self.counts["excluded"] += not encoded.has_target
            if encoded.has_target:
                samples.append(Sample(prompt.id, torch.tensor(encoded.tokens), torch.tensor(encoded.mask)))
        self._check_learnable(self.longest)
        return samples

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.counts["drawn"] = self._order.draws

    def _exclude_overlong(self, dataset: Dataset) -> int:
        """Check all rows, exclude those that are too long, and return their number. A row without a prompt is invalid;
        so is one that is too long unless `limit.drop`. Raises DataError if no row is left."""
        overlong, limit = self._overlong(dataset), self.limit
        if not limit.drop:
            others = len(overlong) - 1 if dataset.invalid_rows is None else 0
            for row, length in overlong.items():
                dataset.report_invalid(row, limit.error(length, others))
            overlong = {}
        dataset.exclude(dict.fromkeys(overlong, f"longer than {limit.tokens} tokens ({limit.reason})"))
        if not dataset.indices:
            raise DataError(
                f"every prompt of {dataset.rows.name} is longer than {limit.tokens} tokens ({limit.reason})"
            )
        return len(overlong)

    def _overlong(self, dataset: Dataset) -> dict[int, int]:
        """Rows whose prompt is longer than the limit, with their lengths."""
        kinds = ConversationKinds()

        def read(row: Row) -> str | list[Message] | None:
            prompt = dataset.format.prompt(row)
            encode = prompt.tools or prompt.template_kwargs or kinds.is_new(prompt.content)
            return None if encode else prompt.content

        overlong: dict[int, int] = {}
        estimator = LengthEstimator(self.encoder, self.limit.tokens + 1)
        for chunk in batched(check_lengths(dataset, estimator, read).all, BATCH):
            rendered = {
                row: prompt
                for row, columns in chunk
                if (prompt := self._render(dataset, row, dataset.format.prompt(columns))) is not None
            }
            lengths = [len(tokens) for tokens in self.encoder.encode_prompts(list(rendered.values()))]
            overlong |= {row: n for row, n in zip(rendered, lengths, strict=True) if n > self.limit.tokens}
        return overlong

    def _render(self, dataset: Dataset, row: int, prompt: PromptText) -> Rendered | None:
        """The text of a prompt; None for an invalid row."""
        with dataset.reading(row):
            rendered = self.encoder.render_prompt(prompt)
            self.finding_log.add(dataset.rows.location(row), rendered.findings)
            return rendered
        return None

    def _prompts(self, asked: Sequence[tuple[str, Dataset, int, Row]]) -> list[Prompt]:
        """The prompts of rows, each given as its id, dataset, index and columns."""
        rendered, prompts = [], []
        for name, dataset, row, columns in asked:
            prompt = dataset.format.prompt(columns)
            if (text := self._render(dataset, row, prompt)) is not None:
                rendered.append(text)
                prompts.append(Prompt(name, (), prompt.content, columns, dataset.label, dataset.env))
        tokens = self.encoder.encode_prompts(rendered)
        return [replace(prompt, tokens=tuple(t)) for prompt, t in zip(prompts, tokens, strict=True)]
