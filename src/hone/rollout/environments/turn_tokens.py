"""The tokens that the chat template writes between two turns of the model.

Generated tokens are never re-encoded. The template renders a conversation with a marker in place of the model's turn;
the text from the end of that turn to the opening of the next one is taken. A template may therefore render earlier
turns differently once others follow (many omit thoughts); `check` warns about it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hone.chat_template import special_run
from hone.data.chat import Encoder
from hone.data.formats import PromptText
from hone.errors import ConfigError, DataError
from hone.rollout.environments.tool_calls import message_of
from hone.types import Message

_MARK, _THOUGHT, _TURN = "honemark", "honethought", "honeturn"
_HAND_OVER = ("<|eom_id|>", "<|call|>", "<|observation|>", "<|user|>", "<|tool_response>")
"""Tokens that end a turn which waits for a tool. Some of them open the next message."""
_OPENERS = ("<|observation|>", "<|user|>", "<|tool_response>")
_ASKED: Message = {"role": "user", "content": "?"}
_FIX = "Give one that does in policy.tokenizer.chat_template (tokenizer.chat_template for `hone eval`)"


@dataclass
class TurnTokens:
    """The chat template of one tokenizer with the tools of one environment."""

    encoder: Encoder
    schemas: list[dict[str, Any]] = field(default_factory=list)

    def prompt(self, content: str | list[Message], template_kwargs: Any = None) -> list[int]:
        """The prompt tokens before the first turn. Raises DataError."""
        text = PromptText(content, self.schemas or None, template_kwargs or {})
        return self.encoder.encode_prompts([self.encoder.render_prompt(text)])[0]

    def between(self, messages: Sequence[Message], last: int) -> list[int]:
        """The tokens of an environment's messages, after the last token of the model's turn (`last`) and up to the
        opening of its next turn. A turn cut by another token or a stop string is closed first."""
        end, text = self._after_turn(messages)
        if last not in self.ends or (end in _OPENERS and end != self.ends[last]):
            return self.encoder.tokens_of(end + text)
        return self.encoder.tokens_of(text, after=self.ends[last])

    @cached_property
    def ends(self) -> dict[int, str]:
        """The tokens that end a model's turn, from the template and the tokenizer: id -> text."""
        tokenizer = self.encoder.tokenizer
        handing = [text for text in _HAND_OVER if text in tokenizer.get_added_vocab()]
        stops = self.encoder.features(self.schemas or None).stops
        texts = [self._end, tokenizer.eos_token, *handing, *stops]
        return {tokenizer.convert_tokens_to_ids(text): text for text in texts if text}

    @cached_property
    def _end(self) -> str | None:
        """The special token that the template writes at the end of a model's turn, if any."""
        text = self._render([_ASKED, {"role": "assistant", "content": _TURN}], generation=False)
        run = special_run(text.rpartition(_TURN)[2] if _TURN in text else "", self.encoder.specials)
        stops = self.encoder.features(self.schemas or None).stops
        return next((special for special in run if special in stops), run[0] if run else None)

    def check(self, roles: Sequence[str]) -> list[str]:
        """Raise ConfigError for a template that cannot write messages with these `roles`, or calls of the tools; return
        warnings for the user."""
        for schema in self.schemas:
            name = schema["function"]["name"]
            if name not in self._render([_ASKED], generation=True):
                raise ConfigError(f"the chat template of {self.encoder.name} omits the tool {name}. {_FIX}")
            self._check_call(schema)
        for role in roles:
            message = {"role": role, "content": _MARK + role} | ({"name": "tool"} if role == "tool" else {})
            if _MARK + role not in self._after_turn([message])[1]:
                raise ConfigError(f"the chat template of {self.encoder.name} omits the role `{role}`. {_FIX}")
        return self._rewrites(roles)

    def _rewrites(self, roles: Sequence[str]) -> list[str]:
        """A warning where the template renders earlier turns differently once others follow."""
        turn = {"role": "assistant", "content": f"<think>\n{_THOUGHT}\n</think>\n\n{_MARK}"}
        before = self._render([_ASKED, turn], generation=False).rstrip()
        for role in (role for role in roles if role != "tool"):
            after = self._render([_ASKED, turn, {"role": role, "content": "!"}], generation=True)
            if not after.startswith(before):
                return [
                    f"the chat template of {self.encoder.name} renders earlier turns differently once others follow "
                    "(most omit thoughts). Rollouts keep all generated tokens: serve the model with a template that "
                    "keeps them, too"
                ]
        return []

    def _check_call(self, schema: Mapping[str, Any]) -> None:
        """Raise ConfigError unless Hone parses a call that the template writes."""
        name, parameters = schema["function"]["name"], schema["function"].get("parameters") or {}
        function = {"name": name, "arguments": example_of({"type": "object", **parameters})}
        turn = {"role": "assistant", "content": "", "tool_calls": [_called(function, 0)]}
        try:
            before = self._render([_ASKED], generation=True)
            text = self._render([_ASKED, turn], generation=False)
        except DataError as error:
            raise ConfigError(f"{error}: it cannot write a call of the tool {name}. {_FIX}") from error
        begun = os.path.commonprefix([before, text])  # noqa: RUF071  (by characters, as it should be)
        tokens, prefix = self.encoder.tokens_of(text[len(begun) :]), self.encoder.tokens_of(begun)
        message = message_of(self.encoder.tokenizer, text[len(begun) :], tokens, prefix, self.schemas)
        if [call["function"] for call in message.get("tool_calls", [])] != [function]:
            raise ConfigError(
                f"the chat template of {self.encoder.name} writes a call of the tool {name} as "
                f"{text[len(begun) :]!r:.300}, in which Hone does not find the call. {_FIX}"
            )

    def _after_turn(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The token that ends the turn before the messages (or opens them, if the turn has no end), and the template's
        text from there to the opening of the next turn. Raises ConfigError, DataError."""
        answers = [message for message in messages if message["role"] == "tool"]
        functions = [{"name": m.get("name") or _TURN, "arguments": {_TURN: _TURN}} for m in answers]
        calls = [_called(function, i) for i, function in enumerate(functions)]
        ids = iter(call["id"] for call in calls)
        messages = [
            {"tool_call_id": next(ids), **message} if message["role"] == "tool" else message
            for message in messages
        ]
        turn: Message = {"role": "assistant", "content": _TURN}
        # Some templates need a call for each result, and omit or move the content of a turn with calls.
        if answers:
            turn |= {"content": "", "tool_calls": calls}
        text = self._render([_ASKED, turn, *messages], generation=True)
        if _TURN not in text:
            text = self._render([_ASKED, turn | {"content": _TURN}, *messages], generation=True)
        start = text.rfind(_TURN)
        closing = {*self.ends.values(), *self.encoder.features(self.schemas or None).ends}
        ends = [(at, end) for end in closing if (at := text.find(end, start)) >= 0]
        if start < 0:
            raise DataError(
                f"the chat template of {self.encoder.name} does not write the turn before "
                f"{messages[0]['role'] if messages else 'the next'}. {_FIX}"
            )
        if not ends:
            raise ConfigError(
                f"the chat template of {self.encoder.name} ends a turn with no special token, so a conversation cannot "
                f"go on after one. {_FIX}"
            )
        at, end = min(ends)
        return end, text[at + len(end) :]

    def _render(self, messages: list[Message], *, generation: bool) -> str:
        kwargs = {"add_generation_prompt": generation}
        tools = self.schemas or None
        return self.encoder.apply(self.encoder.prepared(messages, tools), tools, kwargs)


def _called(function: dict[str, Any], index: int) -> dict[str, Any]:
    return {"type": "function", "id": f"call{index:05d}", "function": function}


def example_of(schema: Mapping[str, Any]) -> Any:
    """An example value for the JSON Schema of a parameter."""
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in (schema.get("anyOf") or schema.get("oneOf") or [])[:1]:
        return example_of(choice)
    type_ = schema.get("type")
    type_ = type_[0] if isinstance(type_, list) and type_ else type_
    if type_ == "object":
        return {name: example_of(value) for name, value in (schema.get("properties") or {}).items()}
    if type_ == "array":
        return [example_of(schema.get("items") or {})]
    return {"integer": 3, "number": 2.5, "boolean": True}.get(str(type_), _MARK)
