"""What the online loop and the evaluation ask: prompts in a resumable order, and the held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from hone.data.chat import Encoder, Rendered
from hone.data.datasets import Dataset, ResumableDataset, load_dataset, load_datasets
from hone.data.formats import PromptText
from hone.data.length_filter import LengthScreen, batches, screen_rows
from hone.data.render_check import ConversationKinds, FindingLog
from hone.data.rows import Row
from hone.errors import DataError
from hone.types import Message, Prompt, Sample

_BATCH = 256
_SO_FAR = ("truncated", "excluded")
"""Counts of a run so far that its position does not tell."""


@dataclass(frozen=True)
class Limit:
    """How long a prompt may be, and what is done with a longer one."""

    tokens: int
    reason: str
    """The setting behind it, for messages."""
    drop: bool


def build_prompts(config: Any, tokenizer: Any, refused: dict[str, str] | None = None) -> PromptData:
    """The prompts of an RL run, from `config.data`, `config.loop` and `config.policy`.

    Every row is checked here, also for its length. Raises DataError naming the row (with `refused` rows are gathered
    there by their places, and why), ConfigError naming the key.
    """
    encoder = Encoder(
        tokenizer,
        add_bos=config.data.add_bos,
        add_generation_prompt=config.data.add_generation_prompt,
        template_kwargs=config.policy.tokenizer.chat_template_kwargs or {},
    )
    longest = config.policy.max_total_sequence_length
    limit = _limit(config.data, longest, f"policy.max_total_sequence_length={longest}")
    training, validation = load_datasets(config.data, config.loop.seed, chat=encoder.chat, refused=refused)
    return PromptData(
        training,
        validation,
        encoder,
        limit,
        longest=longest,
        shuffle=config.data.shuffle,
        seed=config.loop.seed,
        max_epochs=config.loop.max_num_epochs,
        may_change=config.checkpointing.allow_config_change,
    )


def build_eval_prompts(config: Any, tokenizer: Any, notices: list[str] | None = None) -> list[Prompt]:
    """The problems of an evaluation, each `data.repeat` times; `notices` gets what their rendering does not say as the
    rows do. Raises as `build_prompts`."""
    finding_log = FindingLog()
    dataset, encoder = evaluation_dataset(config, tokenizer, finding_log)
    prompts = _all_prompts([dataset], encoder, finding_log)
    if notices is not None:
        notices += finding_log.unreported()
    return prompts


def evaluation_dataset(
    config: Any, tokenizer: Any, finding_log: FindingLog, refused: dict[str, str] | None = None
) -> tuple[Dataset, Encoder]:
    """The dataset of an evaluation, checked, and what encodes its prompts. Raises as `build_prompts`."""
    encoder = Encoder(
        tokenizer,
        add_bos=config.data.add_bos,
        template_kwargs=config.tokenizer.chat_template_kwargs or {},
    )
    longest = config.generation.max_model_len
    limit = _limit(config.data, longest, f"generation.max_model_len={longest}")
    dataset = load_dataset(config.data, "test", chat=encoder.chat, refused=refused)
    _fit([dataset], encoder, limit, finding_log)
    return dataset, encoder


class PromptData(ResumableDataset):
    """Prompts to sample for, and the validation prompts.

    `counts` has `drawn` prompts of the run so far (and, where their answers were asked for, `truncated` and `excluded`
    ones), and of the data `rows`, `dropped_rows` (too long), `validation_rows` and `validation_dropped_rows`.
    """

    def __init__(
        self,
        training: list[Dataset],
        validation: list[Dataset],
        encoder: Encoder,
        limit: Limit,
        *,
        longest: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        max_epochs: int | None = None,
        may_change: bool = False,
    ) -> None:
        self.encoder, self.limit, self.longest = encoder, limit, longest
        self._validation = validation
        self.counts = {"drawn": 0, "rows": sum(len(p.keep) for p in training)}
        self.counts["dropped_rows"] = _fit(training, encoder, limit, self.finding_log)
        self.counts["validation_rows"] = sum(len(p.keep) for p in validation)
        self.counts["validation_dropped_rows"] = _fit(validation, encoder, limit, self.finding_log)
        self.counts |= {"truncated": 0, "excluded": 0}
        super().__init__(training, shuffle=shuffle, seed=seed, max_epochs=max_epochs, may_change=may_change)

    @property
    def columns(self) -> set[str]:
        """Names of the columns that rows bring to reward functions."""
        return {name for dataset in self._training for row in dataset.rows[:1] for name in row}

    def next(self, n: int) -> list[Prompt]:
        """The next n prompts, each with an id of its own; fewer at the end of the last epoch, then none."""
        first = self._order.draws
        drawn = [(d, self._training[d].keep[i], epoch) for d, i, epoch in self._order.next(n)]
        asked = [(self._training[d], row, self._training[d].rows[row]) for d, row, _ in drawn]
        names = [
            f"{self._training[d].label}:{row}@{epoch}.{first + k}" for k, (d, row, epoch) in enumerate(drawn)
        ]
        self.counts["drawn"] = self._order.draws
        prompts = _prompts(asked, names, self.encoder, self.finding_log)
        for (dataset, row, _), prompt in zip(asked, prompts, strict=True):
            if len(prompt.tokens) > self.limit.tokens:  # the screen was wrong about a strange template
                dataset.refuse(row, _too_long(len(prompt.tokens), self.limit))
        return prompts

    def check_answers(self) -> None:
        """Raise DataError for the first training row that has no answer."""
        for dataset in self._training:
            for row, columns in dataset.kept():
                try:
                    dataset.format.supervised(columns)
                except DataError as error:
                    dataset.refuse(row, error)

    def answers(self, prompts: Sequence[Prompt]) -> list[Sample]:
        """The answers that the data has to prompts just drawn, as SFT would learn from them.

        One that is cut within its prompt has nothing to learn from: it is left out, and counted as `excluded`.
        """
        formats = {dataset.label: dataset.format for dataset in self._training}
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
        self._not_all_in_vain(self.longest)
        return samples

    @cached_property
    def validation(self) -> list[Prompt]:
        """All held-out prompts, in order; encoded when first asked for."""
        return _all_prompts(self._validation, self.encoder, self.finding_log)

    def state_dict(self) -> dict[str, Any]:
        return self.position() | {"counts": {k: self.counts[k] for k in _SO_FAR}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken. Raises CheckpointError when the data are others."""
        self.go_to(state)
        self.counts |= state.get("counts", {})  # which checkpoints of GRPO before them do not have
        self.counts["drawn"] = self._order.draws


def _limit(data: Any, longest: int, reason: str) -> Limit:
    """A prompt must leave room for one generated token, and keep to `data.max_input_seq_length`."""
    drop = data.overlong_prompts == "drop"
    if data.max_input_seq_length < longest:
        return Limit(
            data.max_input_seq_length, f"data.max_input_seq_length={data.max_input_seq_length}", drop
        )
    return Limit(longest - 1, f"{reason}, which also has to hold an answer", drop)


def _fit(datasets: Sequence[Dataset], encoder: Encoder, limit: Limit, finding_log: FindingLog) -> int:
    """Check all rows of the datasets and take out those that are too long; how many that were. Refuses rows without a
    prompt, and those that are too long unless they are dropped. Raises DataError when none is left."""
    dropped = 0
    for dataset in datasets:
        overlong = _overlong(dataset, encoder, limit.tokens, finding_log)
        if not limit.drop:
            others = len(overlong) - 1 if dataset.refused is None else 0
            for row, length in overlong.items():
                dataset.refuse(row, _too_long(length, limit, others))
            overlong = {}
        dataset.leave_out(dict.fromkeys(overlong, f"longer than {limit.tokens} tokens ({limit.reason})"))
        if not dataset.keep:
            raise DataError(
                f"every prompt of {dataset.rows.name} is longer than {limit.tokens} tokens ({limit.reason})"
            )
        dropped += len(overlong)
    return dropped


def _too_long(length: int, limit: Limit, others: int = 0) -> DataError:
    more = f" ({others} other {'row is' if others == 1 else 'rows are'} too long as well)" if others else ""
    return DataError(
        f"the prompt has {length} tokens, but at most {limit.tokens} are allowed by {limit.reason}{more}. Raise it, or "
        "leave such rows out with data.overlong_prompts=drop"
    )


def _overlong(dataset: Dataset, encoder: Encoder, limit: int, finding_log: FindingLog) -> dict[int, int]:
    """Rows whose prompt is longer than `limit`, with their lengths."""
    kinds = ConversationKinds()

    def read(row: Row) -> str | list[Message] | None:
        prompt = dataset.format.prompt(row)
        encode = prompt.tools or prompt.template_kwargs or kinds.is_new(prompt.content)
        return None if encode else prompt.content

    overlong: dict[int, int] = {}
    for chunk in batches(screen_rows(dataset, LengthScreen(encoder, limit + 1), read).all, _BATCH):
        rendered = {
            row: prompt
            for row, columns in chunk
            if (prompt := _render(dataset, row, dataset.format.prompt(columns), encoder, finding_log))
            is not None
        }
        lengths = [len(tokens) for tokens in encoder.encode_prompts(list(rendered.values()))]
        overlong |= {row: n for row, n in zip(rendered, lengths, strict=True) if n > limit}
    return overlong


def _render(
    dataset: Dataset, row: int, prompt: PromptText, encoder: Encoder, finding_log: FindingLog
) -> Rendered | None:
    """The text of a prompt; None for a row that is refused."""
    try:
        rendered = encoder.render_prompt(prompt)
    except DataError as error:
        dataset.refuse(row, error)
        return None
    finding_log.add(dataset.rows.where(row), rendered.findings)
    return rendered


def _prompts(
    asked: Sequence[tuple[Dataset, int, dict[str, Any]]],
    names: Sequence[str],
    encoder: Encoder,
    finding_log: FindingLog,
) -> list[Prompt]:
    drawn = []
    for (dataset, row, columns), name in zip(asked, names, strict=True):
        prompt = dataset.format.prompt(columns)
        if (text := _render(dataset, row, prompt, encoder, finding_log)) is not None:
            drawn.append((text, Prompt(name, (), prompt.content, columns, dataset.label, dataset.env)))
    tokens = encoder.encode_prompts([text for text, _ in drawn])
    return [replace(prompt, tokens=tuple(t)) for (_, prompt), t in zip(drawn, tokens, strict=True)]


def _all_prompts(datasets: Sequence[Dataset], encoder: Encoder, finding_log: FindingLog) -> list[Prompt]:
    """Every row of the datasets in order, each as often as its dataset says."""
    prompts = []
    for dataset in datasets:
        times = range(dataset.repeat)
        every = [(row, columns, k) for row, columns in dataset.kept() for k in times]
        asked = [(dataset, row, columns) for row, columns, _ in every]
        names = [f"{dataset.label}:{row}" + (f".{k}" if dataset.repeat > 1 else "") for row, _, k in every]
        prompts += _prompts(asked, names, encoder, finding_log)
    return prompts
