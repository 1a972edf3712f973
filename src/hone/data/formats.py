"""Row formats: which columns a dataset row may have, and how they are read.

| columns | meaning |
|---|---|
| `prompt`, `completion` | both text, or both lists of messages (TRL's prompt-completion) |
| `messages` | a conversation (TRL's language modelling, conversational); `conversations` with from/value too |
| `text` | plain language modelling: every token is a target |
| `input`+`output`, `question`+`answer`, `instruction`(+`input`)+`output`, … | question and answer (columns.PAIRS) |
| `context`, `question`, `answers` or `answer` | SQuAD: the context is the system message |
| `system` (or `system_prompt`), `history` | beside any of them but `text`: a system message, and earlier turns |

`prompt` and `text` as strings are taken literally, as in TRL. A question and its answer become a user and an assistant
message where the tokenizer has a chat template, as in NeMo RL; without one the answer follows the question on a new
line. A literal prompt with a `system` or a `history` beside it is a question, too. Answers in `history` are trained
on, as in LLaMA-Factory; an assistant's message with `weight` 0 (OpenAI) or `train` false (axolotl) is not.
`prompt_template` ("Human: {input}\\n\\nAssistant: {output}") and `input_key`/`output_key` take precedence over
detection. For RL the same columns give the prompt: what precedes the answer. A column that is null counts as absent.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hone.data import columns
from hone.errors import ConfigError, DataError
from hone.types import Message


@dataclass(frozen=True)
class Example:
    """One supervised row: a conversation when `messages` is set, else `prompt` + `completion` as text."""

    messages: tuple[Message, ...] = ()
    num_prompt_messages: int = 0
    """This many leading messages are context only, also the assistant's among them."""
    prompt: str = ""
    completion: str = ""
    tools: list[Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """For the chat template, from the row's `chat_template_kwargs` column."""
    untrained: frozenset[int] = frozenset()
    """Indices of messages that are marked as not to be trained on."""

    @property
    def trained(self) -> list[int]:
        """Indices of the messages that are trained on."""
        answers = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        return [i for i in answers if i >= self.num_prompt_messages and i not in self.untrained]


@dataclass(frozen=True)
class PromptText:
    """The prompt of a row: text taken literally, or messages."""

    content: str | list[Message]
    tools: list[Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """How to read the rows of one dataset. With the defaults, the format is detected from the columns.

    `chat`: the tokenizer has a chat template. `prompt_text` (the content of `data.*.prompt_file`) has `{}` where the
    question goes; `system_prompt` is put before conversations that have no system message.
    """

    chat: bool = True
    prompt_template: str | None = None
    input_key: str | None = None
    output_key: str | None = None
    system_prompt: str | None = None
    prompt_text: str | None = None
    chosen_key: str | None = None
    rejected_key: str | None = None

    def supervised(self, row: Mapping[str, Any]) -> Example:
        """Read a row for training. Raises DataError naming its columns and the ones that are accepted."""
        if self.prompt_template is not None:
            prompt, completion = self._fill_template(row, answer=True)
            return Example(prompt=prompt, completion=completion)
        if self.input_key is not None or self.output_key is not None:
            question, answer = self.input_key or "input", self.output_key or "output"
            if missing := [c for c in (question, answer) if row.get(c) is None]:
                raise DataError(columns.no_column(row, missing))
            return self.pair(row, columns.text(row, question), columns.text(row, answer))
        return self._detect(row)

    def _detect(self, row: Mapping[str, Any]) -> Example:
        if columns.has(row, "prompt", "completion"):
            return self._prompt_completion(row)
        for column in ("messages", "conversations"):
            if columns.has(row, column):
                return self.conversation(row, (), columns.messages(row, column))
        if columns.has(row, "text"):
            return Example(completion=columns.text(row, "text"))
        if columns.has(row, "context", "question", "answers"):
            answers = row["answers"]["text"]
            if not answers:
                raise DataError("column 'answers' holds no answer")
            return self.pair(row, columns.text(row, "question"), answers[0], columns.context(row, "question"))
        for question, answer in columns.PAIRS:
            if columns.has(row, question, answer):
                given = columns.question(row, question), columns.text(row, answer)
                return self.pair(row, *given, columns.context(row, question))
        raise DataError(columns.no_format(row))

    def prompt(self, row: Mapping[str, Any]) -> PromptText:
        """Read the prompt of a row (RL, evaluation). Raises DataError naming its columns and the ones that are
        accepted."""
        if self.prompt_template is not None:
            return PromptText(self._fill_template(row, answer=False)[0])
        if self.input_key is not None:
            if row.get(self.input_key) is None:
                raise DataError(columns.no_column(row, [self.input_key]))
            return self._ask(row, columns.text(row, self.input_key))
        for column in columns.PROMPT_COLUMNS:
            if row.get(column) is None:
                continue
            if not isinstance(row[column], str):
                messages = columns.messages(row, column)
                return self._prompt_of_conversation(row, messages, ends_with_question=column == "prompt")
            if column == "prompt" and self.literal(row):
                if not row[column]:
                    raise DataError("the prompt is empty")
                return PromptText(columns.text(row, column))
            return self._ask(row, columns.question(row, column), columns.context(row, column))
        raise DataError(columns.no_prompt(row))

    def literal(self, row: Mapping[str, Any]) -> bool:
        """Whether the row's text is used as it is: no system message, no prompt file, no earlier turns."""
        return self._system(row) is None and self.prompt_text is None and not columns.history(row)

    def _system(self, row: Mapping[str, Any]) -> str | None:
        from_row = columns.system(row)
        return self.system_prompt if from_row is None else from_row

    def _ask(self, row: Mapping[str, Any], question: str, context: str = "") -> PromptText:
        """A user's question, after the system message and earlier turns."""
        system = "\n\n".join(part for part in (self._system(row), context) if part)
        before: list[Message] = [{"role": "system", "content": system}] if system else []
        before, _ = columns.trained([*before, *columns.history(row)])
        question = _insert(self.prompt_text, question)
        if self.chat:
            asked = [*before, {"role": "user", "content": question}]
            return PromptText(asked, columns.tools(row), columns.template_kwargs(row))
        return PromptText("".join(f"{m['content']}\n\n" for m in before) + f"{question}\n")

    def _prompt_of_conversation(
        self, row: Mapping[str, Any], messages: list[Message], *, ends_with_question: bool
    ) -> PromptText:
        if not ends_with_question:
            last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
            if last < 0:
                raise DataError("the conversation has no user message to answer")
            messages = messages[: last + 1]
        self._require_template()
        messages, _ = columns.trained(self._with_system(row, self._with_prompt_text(messages)))
        return PromptText(messages, columns.tools(row), columns.template_kwargs(row))

    def _prompt_completion(self, row: Mapping[str, Any]) -> Example:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) != isinstance(completion, str):
            raise DataError(
                "columns 'prompt' and 'completion' must both be text or both be lists of messages"
            )
        if isinstance(prompt, str):
            prompt, completion = columns.text(row, "prompt"), columns.text(row, "completion")
            if self.literal(row):
                return Example(prompt=prompt, completion=completion)
            return self.pair(row, prompt, completion)
        return self.conversation(row, columns.messages(row, "prompt"), columns.messages(row, "completion"))

    def pair(self, row: Mapping[str, Any], question: str, answer: str, context: str = "") -> Example:
        """A question and its answer; `context` is the text that the question is about."""
        asked = self._ask(row, question, context)
        if isinstance(asked.content, str):
            return Example(prompt=asked.content, completion=answer)
        earlier = any(m["role"] == "assistant" for m in asked.content)
        return Example(
            (*asked.content, {"role": "assistant", "content": answer}),
            0 if earlier else len(asked.content),
            tools=asked.tools,
            template_kwargs=asked.template_kwargs,
        )

    def conversation(
        self, row: Mapping[str, Any], prompt: Sequence[Message], rest: Sequence[Message]
    ) -> Example:
        """A conversation; the messages of `prompt` are context only. Raises DataError if `rest` has no answer."""
        if not any(m["role"] == "assistant" for m in rest):
            raise DataError("the conversation has no assistant message to learn from")
        self._require_template()
        messages, untrained = columns.trained(
            self._with_system(row, self._with_prompt_text([*prompt, *rest]))
        )
        return Example(
            tuple(messages),
            len(messages) - len(rest) if prompt else 0,
            tools=columns.tools(row),
            template_kwargs=columns.template_kwargs(row),
            untrained=untrained,
        )

    def _require_template(self) -> None:
        if not self.chat:
            raise DataError(
                "the row is a conversation, but the tokenizer has no chat template: set "
                "policy.tokenizer.chat_template (a Jinja template, or a file with one), or use plain text "
                "columns ('prompt' and 'completion', or 'text')"
            )

    def _with_system(self, row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
        """The conversation with a system message in front, unless it already has one."""
        if messages[0]["role"] == "system" or (system := self._system(row)) is None:
            return messages
        return [{"role": "system", "content": system}, *messages]

    def _with_prompt_text(self, messages: list[Message]) -> list[Message]:
        """Put the first user message into `prompt_text`."""
        if self.prompt_text is None:
            return messages
        first = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
        if first is None:
            return messages
        asked = {**messages[first], "content": _insert(self.prompt_text, messages[first]["content"])}
        return [*messages[:first], asked, *messages[first + 1 :]]

    def _fill_template(self, row: Mapping[str, Any], *, answer: bool) -> tuple[str, str]:
        assert self.prompt_template is not None
        names = {"input": self.input_key or "input", "output": self.output_key or "output"}
        return _fill(self.prompt_template, row, names, answer=answer)


def read_prompt_file(path: str | None, key: str) -> str | None:
    """The text of `prompt_file` or `system_prompt_file`. Raises ConfigError naming the key."""
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path} ({error.strerror})") from error


def _fill(
    template: str, row: Mapping[str, Any], names: Mapping[str, str], *, answer: bool
) -> tuple[str, str]:
    """Fill a template: the text before its last placeholder is the prompt, the rest is the completion."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"data prompt_template {template!r} is not valid: {error}") from error
    placeholders = [i for i, (_, name, _, _) in enumerate(parts) if name is not None]
    if len(placeholders) < 2:
        raise ConfigError(
            f"data prompt_template {template!r} needs a placeholder for the question and one for the answer, as in "
            "'Human: {input}\\n\\nAssistant: {output}'"
        )
    prompt = completion = ""
    for i, (literal, name, _, _) in enumerate(parts):
        if i <= placeholders[-1]:
            prompt += literal
        else:
            completion += literal
        if name is None or (i == placeholders[-1] and not answer):
            continue
        column = name if row.get(name) is not None else names.get(name, name)
        if row.get(column) is None:
            raise DataError(columns.no_column(row, [column]) + f" (prompt_template is {template!r})")
        if i < placeholders[-1]:
            prompt += columns.text(row, column)
        else:
            completion += columns.text(row, column)
    return prompt, completion


def _insert(text: str | None, question: Any) -> str:
    """The prompt file's text with the question in place of `{}`; other braces are text, as in NeMo RL."""
    if text is None:
        return question
    if "{}" not in text:
        raise ConfigError("data.*.prompt_file has no {} where the question goes")
    return text.replace("{}", str(question))
