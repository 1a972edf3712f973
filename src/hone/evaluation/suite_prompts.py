"""The prompts of a suite: text for a model without a chat template, messages for one with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hone.data.chat import Encoder
from hone.data.formats import PromptText
from hone.data.rows import Row, Rows
from hone.errors import ConfigError, DataError
from hone.evaluation.suite import Suite
from hone.evaluation.suite_data import Examples
from hone.types import Message, Prompt


@dataclass(frozen=True)
class PromptWriter:
    """Writes the prompts of one suite."""

    suite: Suite
    encoder: Encoder | None
    """None where an endpoint tokenizes: prompts have no tokens."""
    chat: bool
    examples: Examples

    def content(self, row: Row, **further: Any) -> str | list[Message]:
        """The prompt of a problem: its text, or its messages. `further` are variables beside the columns."""
        suite, examples = self.suite, self.examples.of(row)
        intro = suite.render(suite.prompt.intro, row) if suite.prompt.intro else ""
        if not self.chat:
            separator = suite.fewshot.separator if suite.fewshot is not None else ""
            shots = [self._plain(example) + suite.render(suite.target, example) for example in examples]
            return intro + separator.join([*shots, self._plain(row, **further)])
        messages: list[Message] = []
        for example in examples:
            target = suite.render(suite.target, example).strip()
            messages += [self._question(example), {"role": "assistant", "content": target}]
        messages.append(self._question(row, **further))
        messages[0]["content"] = intro + messages[0]["content"]
        return messages

    def prompts(self, rows: Rows) -> list[Prompt]:
        """A prompt for every row. Its `row` has the columns, and the right answer as `gold`."""
        content = [self.content(row) for row in rows]
        if self.encoder is None:
            return [
                self._prompt(i, row, text) for i, (row, text) in enumerate(zip(rows, content, strict=True))
            ]
        rendered = [self.encoder.render_prompt(PromptText(text)) for text in content]
        tokens = self.encoder.encode_prompts(rendered)
        return [
            self._prompt(i, row, text, ids)
            for i, (row, text, ids) in enumerate(zip(rows, content, tokens, strict=True))
        ]

    def _prompt(self, i: int, row: Row, content: str | list[Message], tokens: Sequence[int] = ()) -> Prompt:
        return Prompt(f"{self.suite.name}:{i}", tuple(tokens), content, self._columns(row), self.suite.name)

    def _columns(self, row: Row) -> Mapping[str, Any]:
        return {**row, "gold": self.suite.render(self.suite.gold, row) if self.suite.gold else None}

    def _plain(self, row: Row, **further: Any) -> str:
        return self.suite.render(self.suite.prompt.plain, row, **further)

    def _question(self, row: Row, **further: Any) -> Message:
        template = self.suite.prompt.chat or self.suite.prompt.plain
        return {"role": "user", "content": self.suite.render(template, row, **further)}


def uses_chat(suite: Suite, encoder: Encoder, wanted: bool | None, model: str) -> bool:
    """Whether prompts are chats: as `eval.apply_chat_template` says, else for answers of a model with a chat template.
    Log-likelihoods are of plain text, as the papers have them. Raises ConfigError for a chat without a template."""
    if wanted and not encoder.chat:
        raise ConfigError(
            f"eval.apply_chat_template=true: {model} has no chat template. Set tokenizer.chat_template, or "
            "eval.apply_chat_template=false for the plain prompts of base models"
        )
    return encoder.chat and suite.kind != "loglikelihood" if wanted is None else wanted


def check_lengths(
    suite: Suite, prompts: Sequence[Prompt], longest: int, *, drop: bool
) -> tuple[list[Prompt], int]:
    """The prompts of at most `longest` tokens, and how many are longer. Raises DataError for a longer one unless they
    are dropped, and if none is left."""
    kept = [prompt for prompt in prompts if len(prompt.tokens) <= longest]
    over = [prompt for prompt in prompts if len(prompt.tokens) > longest]
    if over and (not drop or not kept):
        most = max(over, key=lambda prompt: len(prompt.tokens))
        raise DataError(
            f"suite {suite.name}: {len(over)} of {len(prompts)} prompts are longer than {longest} tokens ({most.id} "
            f"has {len(most.tokens)}): raise generation.max_model_len, lower eval.num_fewshot, or leave them out with "
            "data.overlong_prompts=drop"
        )
    return kept, len(over)
