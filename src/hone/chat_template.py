"""Features of a tokenizer's chat template, found by rendering small conversations.

Templates differ in whether content is text or a list of parts, whether the arguments of a tool call are an object or
JSON text, whether the content beside a call may be empty, and in the token that ends an assistant turn. No template
declares this, so conversations of known words are rendered and the output is searched for the words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

Message = dict[str, Any]
REFUSALS = (jinja2.TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError)
"""The exceptions of a template that refuses a conversation."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""The keys of a message that may hold the reasoning before an answer."""

_SAID, _THOUGHT, _RESULT = "honesaid", "honethought", "honeresult"
_NAME, _KEY, _VALUE = "honename", "honekey", "honevalue"
_ASK: Message = {"role": "user", "content": "honeask"}
_SAY: Message = {"role": "assistant", "content": _SAID}
_TOOL: Message = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "A word."}}},
    },
}
_ID = "call00001"
"""Nine characters: Mistral's templates accept no other length."""


@dataclass(frozen=True)
class TemplateFeatures:
    """The form of messages that a template reads, and how it ends an assistant's turn."""

    parts: bool
    """Content must be a list of parts (`[{type: text, text: …}]`); a string is ignored."""
    text_arguments: bool
    """Arguments of tool calls must be JSON text; the template does not write an object as JSON."""
    null_content: bool
    """A call is written only if the content beside it is null."""
    reasoning: tuple[str, ...]
    """The keys of a message's reasoning that the template reads."""
    reasoning_apart: bool
    """The template would write reasoning in the content (`<think>`) after an empty `<think>` of its own: the reasoning
    must have its own key."""
    ends: tuple[str, ...]
    """The special tokens that end an assistant turn; in some templates these open the next turn."""
    stops: tuple[str, ...]
    """The tokens of `ends` that never occur within a turn: generation stops at them."""


def template_of(tokenizer: Any, tools: Any = None) -> str | None:
    """The tokenizer's template for conversations with these tools; None if it has none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        return tokenizer.get_chat_template(tools=tools)
    except ValueError:  # several, and none of them is the default
        return None


def special_texts(tokenizer: Any) -> tuple[str, ...]:
    """The texts of all special tokens."""
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    return tuple({*added, *tokenizer.all_special_tokens} - {""})


def template_features(
    tokenizer: Any, template: str, specials: Sequence[str], variables: Mapping[str, Any] | None = None
) -> TemplateFeatures:
    """The features of a template, which is rendered with `variables`."""
    return _Probe(tokenizer, template, specials, variables or {}).features()


def turn_ends(tokenizer: Any) -> tuple[int, ...]:
    """The ids of the tokens that end an assistant turn in the tokenizer's chat template; none without a template."""
    specials = special_texts(tokenizer)
    templates = {template_of(tokenizer, tools) for tools in (None, [_TOOL])} - {None}
    found = {stop for t in templates for stop in template_features(tokenizer, str(t), specials).stops}
    return tuple(sorted(tokenizer.convert_tokens_to_ids(text) for text in found))


def end_notice(tokenizer: Any) -> str:
    """A notice if turns do not end with the tokenizer's end-of-sequence token; otherwise empty."""
    ends = [i for i in turn_ends(tokenizer) if i != tokenizer.eos_token_id]
    if not ends:
        return ""
    texts = " and ".join(tokenizer.convert_ids_to_tokens(ends))
    return (
        f"the chat template ends assistant turns with {texts}; the tokenizer's end of sequence is "
        f"{tokenizer.eos_token}: generation stops at both, and an exported model's generation_config.json lists both"
    )


class _Probe:
    def __init__(
        self, tokenizer: Any, template: str, specials: Sequence[str], variables: Mapping[str, Any]
    ) -> None:
        self.tokenizer, self.template, self.specials = tokenizer, template, tuple(specials)
        self.variables = variables
        self.parts = self.text_arguments = self.null_content = False

    def features(self) -> TemplateFeatures:
        as_text, as_parts = (self._render([{**_ASK, "content": c}]) for c in ("honeask", _parts("honeask")))
        self.parts = "honeask" not in as_text and "honeask" in as_parts
        self._find_call_form()
        reasoning = tuple(key for key in REASONING if re.search(rf"""[.'"]{key}\b""", self.template))
        ends = self._ends()
        inner = self._inner(reasoning[0] if reasoning else None)
        return TemplateFeatures(
            self.parts,
            self.text_arguments,
            self.null_content,
            reasoning,
            bool(reasoning) and self._closes_thoughts_twice(),
            tuple(sorted(ends)),
            tuple(sorted(ends - inner)),
        )

    def _render(self, messages: Sequence[Message], *, generation: bool = False, tools: Any = None) -> str:
        """The rendered conversation; empty if the template refuses it."""
        content = [
            {**m, "content": _parts(m["content"])} if self.parts and isinstance(m.get("content"), str) else m
            for m in messages
        ]
        try:
            return self.tokenizer.apply_chat_template(
                content,
                **self.variables,
                tools=tools,
                chat_template=self.template,
                add_generation_prompt=generation,
                tokenize=False,
            )
        except REFUSALS:
            return ""

    def _find_call_form(self) -> None:
        for self.text_arguments in (False, True):
            for self.null_content in (False, True):
                text = self._render([_ASK, self._calling()], tools=[_TOOL]).rpartition("honeask")[2]
                if all(mark in text for mark in (_NAME, _KEY, _VALUE)) and not garbled(text, _KEY):
                    return
        self.text_arguments = self.null_content = False

    def _calling(self, content: str = "") -> Message:
        arguments: Any = {_KEY: _VALUE}
        function = {"name": _NAME, "arguments": json.dumps(arguments) if self.text_arguments else arguments}
        call = {"type": "function", "id": _ID, "function": function}
        beside = None if self.null_content and not content else content
        return {"role": "assistant", "content": beside, "tool_calls": [call]}

    def _ends(self) -> set[str]:
        more = {**_ASK, "content": "honemore"}
        last, earlier = (
            special_run(self._render(messages).rpartition(_SAID)[2], self.specials)
            for messages in ([_ASK, _SAY], [_ASK, _SAY, more])
        )
        same = [a for a, b in zip(last, earlier, strict=False) if a == b]
        return ({same[-1]} if same else {*last[:1], *earlier[:1]}) | (
            self._call_ends() - self._between_calls()
        )

    def _call_ends(self) -> set[str]:
        """The token that ends a turn with a call; if only a following tool result shows it, the token that opens that
        result."""
        call = self._calling()
        result = {"role": "tool", "name": _NAME, "tool_call_id": _ID, "content": _RESULT}
        alone = self._render([_ASK, call], tools=[_TOOL]).rstrip()
        if _VALUE not in alone.rpartition("honeask")[2]:
            return set()
        if last := [s for s in self.specials if alone.endswith(s)]:
            return {max(last, key=len)}
        whole = self._render([_ASK, call, result], tools=[_TOOL])
        return {*special_run(whole[len(alone) :], self.specials)[:1]} if whole.startswith(alone) else set()

    def _between_calls(self) -> set[str]:
        call = self._calling()
        second = {**call["tool_calls"][0], "id": "call00002"}
        text = self._render([_ASK, {**call, "tool_calls": [*call["tool_calls"], second]}], tools=[_TOOL])
        between = text.rpartition("honeask")[2].partition(_VALUE)[2].rpartition(_NAME)[0]
        return {s for s in self.specials if s in between}

    def _inner(self, reasoning: str | None) -> set[str]:
        """Special tokens within a turn: between reasoning, content and calls."""
        stretches = []
        if reasoning is not None:
            text = self._render([_ASK, {**_SAY, reasoning: _THOUGHT}])
            stretches.append(text.partition(_THOUGHT)[2].partition(_SAID)[0])
        text = self._render([_ASK, self._calling(_SAID)], tools=[_TOOL]).rpartition("honeask")[2]
        if 0 <= text.find(_SAID) < text.find(_NAME):
            stretches.append(text.partition(_SAID)[2].partition(_NAME)[0])
        return {s for s in self.specials for stretch in stretches if s in stretch}

    def _closes_thoughts_twice(self) -> bool:
        """Whether reasoning in the content is written after the template's own, empty reasoning."""
        text = self._render([_ASK, {**_SAY, "content": f"<think>\n{_THOUGHT}\n</think>\n\n{_SAID}"}])
        return text.rpartition("honeask")[2].count("</think>") > 1


def special_run(text: str, specials: Sequence[str]) -> list[str]:
    """The special tokens that a text begins with, ignoring white space."""
    found: list[str] = []
    rest = text.lstrip()
    while begun := [s for s in specials if rest.startswith(s)]:
        found.append(max(begun, key=len))
        rest = rest[len(found[-1]) :].lstrip()
    return found


def garbled(text: str, key: str) -> bool:
    """Whether arguments were written as JSON text within JSON text, or as a Python dict."""
    return f'\\"{key}' in text or f"'{key}':" in text


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
