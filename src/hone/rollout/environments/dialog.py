"""The tokens between a model's turns: what the chat template writes behind one message and before the next.

A rollout is one stream: prompt, what the model generated, what the environment said, what the model generated … What
was generated is never written again. The text between is taken from the template's rendering of a conversation in which
a mark stands for what the model said: all behind the end of that turn, up to where the next begins. So a template may
even write earlier turns otherwise once others follow (as those do that leave thoughts out); this is found, and told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from hone.data.chat import Encoder
from hone.data.formats import PromptText
from hone.errors import ConfigError, DataError
from hone.types import Message

_MARK, _THOUGHT = "honemark", "honethought"
_ASKED: Message = {"role": "user", "content": "?"}
_FIX = "Give one that does in policy.tokenizer.chat_template (tokenizer.chat_template for `hone eval`)"


@dataclass
class Dialog:
    """What one tokenizer's chat template writes, with the tools of one environment."""

    encoder: Encoder
    schemas: list[dict[str, Any]] = field(default_factory=list)

    def prompt(self, content: str | list[Message], template_kwargs: Any = None) -> list[int]:
        """The tokens that the first turn continues. Raises DataError."""
        rendered = self.encoder.render_prompt(
            PromptText(content, self.schemas or None, template_kwargs or {})
        )
        return self.encoder.encode_prompts([rendered])[0]

    def between(self, messages: Sequence[Message], last: int) -> list[int]:
        """The tokens of an environment's messages, from behind the token `last` that the model's turn ended with to the
        opening of its next turn. A turn that another token (or a stop string) ended is ended first."""
        text = self._behind_turn(messages)
        if last not in self.ends:
            text = self._end + text
        return self.encoder.tokens_of(text, behind=self.ends.get(last, ""))

    @cached_property
    def ends(self) -> dict[int, str]:
        """The tokens that end a turn of the model's, as the template and the tokenizer say."""
        tokenizer = self.encoder.tokenizer
        texts = {self._end, tokenizer.eos_token} - {None}
        return {tokenizer.convert_tokens_to_ids(text): text for text in texts}

    @cached_property
    def _end(self) -> str:
        """The special token with which the template ends a turn of the model's. Raises ConfigError."""
        text = self._render([_ASKED, {"role": "assistant", "content": _MARK}], generation=False)
        behind = text.rpartition(_MARK)[2].lstrip() if _MARK in text else ""
        specials = [t for t in self.encoder.specials if behind.startswith(t)]
        if not specials:
            raise ConfigError(
                f"the chat template of {self.encoder.name} ends a turn with no special token, so a conversation cannot "
                f"go on after one. {_FIX}"
            )
        return max(specials, key=len)

    def check(self, roles: Sequence[str]) -> list[str]:
        """Raise ConfigError for a template that cannot write what the environment needs; what else to tell the user.
        `roles`: of the messages that will come."""
        for schema in self.schemas:
            name = schema["function"]["name"]
            if name not in self._render([_ASKED], generation=True):
                raise ConfigError(
                    f"the chat template of {self.encoder.name} does not tell the model about its tools ({name} is "
                    f"not in what it writes). {_FIX}"
                )
        for role in roles:
            message = {"role": role, "content": _MARK + role} | ({"name": "tool"} if role == "tool" else {})
            if _MARK + role not in self._behind_turn([message]):
                raise ConfigError(
                    f"the chat template of {self.encoder.name} leaves out messages with the role `{role}`. {_FIX}"
                )
        return self._rewrites(roles)

    def _rewrites(self, roles: Sequence[str]) -> list[str]:
        """Whether earlier turns are written otherwise once others follow."""
        said = {"role": "assistant", "content": f"<think>\n{_THOUGHT}\n</think>\n\n{_MARK}"}
        before = self._render([_ASKED, said], generation=False).rstrip()
        for role in roles:
            if role == "tool":
                continue
            after = self._render([_ASKED, said, {"role": role, "content": "!"}], generation=True)
            if not after.startswith(before):
                return [
                    f"the chat template of {self.encoder.name} writes earlier turns otherwise once others follow (most "
                    "leave thoughts out). Rollouts keep all that was generated: serve the model with a template that "
                    "does, too"
                ]
        return []

    def _behind_turn(self, messages: Sequence[Message]) -> str:
        """What the template writes from behind the end of a turn to the opening of the next. Raises DataError."""
        turn: Message = {"role": "assistant", "content": _MARK}
        calls = [message for message in messages if message["role"] == "tool"]
        if calls:  # some templates want a call for each result, and leave out the content beside calls
            ids = iter(f"call{i:05d}" for i in range(len(calls)))
            messages = [
                {"tool_call_id": next(ids), **message} if message["role"] == "tool" else message
                for message in messages
            ]
            turn["tool_calls"] = [
                {"type": "function", "id": m["tool_call_id"], "function": {"name": _MARK, "arguments": {}}}
                for m in messages
                if m["role"] == "tool"
            ]
        text = self._render([_ASKED, turn, *messages], generation=True)
        start = text.find(_MARK)
        ends = [(at, end) for end in self.ends.values() if (at := text.find(end, start)) >= 0]
        if start < 0 or not ends:
            raise DataError(
                f"the chat template of {self.encoder.name} does not write the turn before "
                f"{messages[0]['role'] if messages else 'the next'}. {_FIX}"
            )
        at, end = min(ends)
        return text[at + len(end) :]

    def _render(self, messages: list[Message], *, generation: bool) -> str:
        kwargs = {"add_generation_prompt": generation}
        tools = self.schemas or None
        return self.encoder.apply(self.encoder.prepared(messages, tools), tools, kwargs)
