"""Prompts that an endpoint tokenizes: messages, or text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hone.data.chat import Encoder
from hone.data.columns import PROMPT_COLUMNS
from hone.data.datasets import Dataset, load_dataset
from hone.data.formats import PromptText
from hone.data.prompts import Limit, PromptData
from hone.data.resumable import DrawSettings
from hone.data.rows import Row
from hone.errors import DataError
from hone.types import Prompt

TOKENS = "generation.openai_cfg.api=tokens"


def build_endpoint_prompts(config: Any) -> PromptData:
    """The prompts of an evaluation whose endpoint tokenizes. Raises DataError for rows that its API cannot take."""
    api, longest = config.generation.openai_cfg.api, config.generation.max_model_len
    dataset = load_dataset(config.data, "test", chat=api == "chat")
    limit = Limit.of(config.data, longest, "generation.max_model_len")
    settings = DrawSettings(shuffle=False, max_epochs=1)
    return EndpointPrompts([dataset], [], Encoder(None), settings, limit, longest)


class EndpointPrompts(PromptData):
    """Prompts without tokens. Their lengths are not known, so that none is left out as too long."""

    def _overlong(self, dataset: Dataset) -> dict[int, int]:
        for row, columns in dataset.indexed_rows():
            with dataset.reading(row):
                if not dataset.format.chat:
                    _check_text(columns)
                _check(dataset.format.prompt(columns))
        return {}

    def _prompts(self, asked: Sequence[tuple[str, Dataset, int, Row]]) -> list[Prompt]:
        return [
            Prompt(name, (), dataset.format.prompt(columns).content, columns, dataset.label, dataset.env)
            for name, dataset, _, columns in asked
        ]


def _check_text(row: Row) -> None:
    """Raise DataError for a conversation, which /completions does not take."""
    if any(isinstance(row.get(column), list) for column in PROMPT_COLUMNS):
        raise DataError(f"the prompt has messages, and /completions takes text: set {TOKENS}, or api=chat")


def _check(prompt: PromptText) -> None:
    """Raise DataError for a prompt that the endpoint's API cannot take."""
    if isinstance(prompt.content, str):
        return
    if prompt.tools or prompt.template_kwargs:
        raise DataError(f"the row has tools or variables for the chat template: set {TOKENS}")
    if prompt.content[-1]["role"] == "assistant":
        raise DataError(f"the answer's beginning is in the prompt, and a chat begins anew: set {TOKENS}")
