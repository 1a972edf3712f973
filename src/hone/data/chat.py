"""Encode rows: apply the chat template, tokenise, and mark the tokens that are targets.

A conversation is rendered and tokenised once, as a whole, so its tokens are those of the chat template. Targets are
the assistant's turns, each from the end of the generation prompt to its end-of-turn token: the tokens that a model
has to generate itself. `{% generation %}` marks in a template show where the turns are; for templates without marks
see `hone.data.assistant_spans`. White space after the end-of-turn token is not a target: generation stops before it.

Plain text gets the tokenizer's BOS in front (`add_bos`) and an EOS at its end (`add_eos`). In language modelling all
of the text is a target; in prompt-completion data only the completion is. The prompt's tokens are always those that a
generator is given: if tokens would merge across the border, prompt and completion are tokenised separately. (In this
case TRL lets the completion begin earlier, with a warning; in all other cases the tokens are the same.)

A chat template writes BOS and end-of-turn tokens itself. If an assistant's turn ends with the token that opens the
next turn (GLM-4), or if the template's marks exclude the end of the turn, that token is a target too. The output of a
template that writes no special token is treated as plain text. A last assistant turn that does not end with a special
token gets the EOS.

Messages are converted to the form that the template reads (`hone.data.messages`), and the template's output is
compared with them (`hone.data.render_check`). Text of a user or a tool is never encoded as a control token
(`hone.data.control_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any

from hone.chat_template import REFUSALS, TemplateFeatures, special_run, special_texts, template_features
from hone.data import render_check
from hone.data.assistant_spans import Span, common_length, joined, turn_span
from hone.data.control_tokens import ControlTokens
from hone.data.formats import Example, PromptText
from hone.data.messages import canonical, for_template
from hone.data.render_check import Finding
from hone.data.tokenization import Encoded, Rendered, TextTokenizer
from hone.errors import ConfigError, DataError
from hone.types import Message

__all__ = ["Encoded", "Encoder", "Rendered"]
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass
class Encoder:
    """Encodes rows with one tokenizer and one set of options."""

    tokenizer: Any
    max_length: int | None = None
    """Supervised samples are truncated to this many tokens."""
    only_unmask_final: bool = False
    """Only the last assistant turn is a target."""
    add_bos: bool = True
    add_eos: bool = True
    add_generation_prompt: bool = True
    """Whether prompts end with the template's opening of an assistant turn."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    def encode(self, example: Example) -> Encoded:
        """Encode one example. For many it is faster to `render` each and `tokenize` all. Raises DataError."""
        return self.tokenize([self.render(example)])[0]

    def render(self, example: Example) -> Rendered:
        """The text of an example and its target spans. Raises DataError if the template refuses the example."""
        if not example.messages:
            text, start = example.prompt + example.completion, len(example.prompt)
            return self._plain_text(text, [(start, len(text))], ends_with_answer=True)
        template = self.template(example.tools)
        example = replace(example, messages=tuple(self.prepared(example.messages, example.tools)))
        text, spans = self._marked_spans(example) if _MARK.search(template) else self._found_spans(example)
        spans = [(start, self._turn_end(text, start, end, example.tools)) for start, end in spans]
        ends_with_answer = example.messages[-1]["role"] == "assistant"
        if self._has_special(text):
            eos = self.add_eos and ends_with_answer and not self._ends_special(text)
            rendered = Rendered(text, spans, add_eos=eos and self.tokenizer.eos_token is not None)
        else:
            rendered = self._plain_text(text, spans, ends_with_answer)
        return replace(rendered, findings=self._findings(example, rendered))

    def tokenize(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Tokenise a batch of rendered examples."""
        return [self._cut(e) for e in self._text_tokenizer.encode(rendered)]

    def render_prompt(self, prompt: PromptText) -> Rendered:
        """The text that a model continues. If the last message is the assistant's, the model continues that message."""
        if isinstance(prompt.content, str):
            return Rendered(prompt.content, [], plain=True)
        continued = prompt.content[-1]["role"] == "assistant"
        option = "continue_final_message" if continued else "add_generation_prompt"
        kwargs = {**prompt.template_kwargs, option: continued or self.add_generation_prompt}
        messages = self.prepared(prompt.content, prompt.tools)
        text = self.apply(messages, prompt.tools, kwargs)
        found = render_check.check(messages, text, (), (), self.name, prompt.tools)
        return Rendered(text, [], plain=not self._has_special(text), findings=tuple(found))

    def encode_prompts(self, prompts: Sequence[Rendered]) -> list[list[int]]:
        """The token ids of prompts, as a generator is given them."""
        ids = self._text_tokenizer.ids([p.text for p in prompts])
        pairs = zip(prompts, ids, strict=True)
        return [self._text_tokenizer.with_bos(tokens) if p.plain else tokens for p, tokens in pairs]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text as part of a message, with nothing added."""
        return self._text_tokenizer.counts([self.control.guard(text) for text in texts])

    def tokens_of(self, text: str, after: str = "") -> list[int]:
        """The tokens of a text that follows the text `after`, with nothing added."""
        before, alone = self._text_tokenizer.ids([after, text])
        return self._text_tokenizer.continuation(after, before, text) or alone

    def _plain_text(self, text: str, spans: list[Span], ends_with_answer: bool) -> Rendered:
        eos = self.tokenizer.eos_token
        ended = eos is not None and text.endswith(eos)
        endless = self.add_eos and eos is None
        return Rendered(
            text,
            spans,
            plain=True,
            prompt_completion=len(spans) == 1 and spans[0][1] == len(text),
            add_eos=self.add_eos and ends_with_answer and not ended and not endless,
            findings=(Finding(0, "assistant", "end of text", "untrained"),) if endless else (),
        )

    def _findings(self, example: Example, rendered: Rendered) -> tuple[Finding, ...]:
        """How the rendering and its targets differ from the messages. Raises DataError if content was lost."""
        messages = example.messages
        trained = example.trained[-1:] if self.only_unmask_final else example.trained
        found = render_check.check(messages, rendered.text, rendered.spans, trained, self.name, example.tools)
        if len(rendered.spans) == len(trained):
            for i, (start, end) in zip(trained, rendered.spans, strict=True):
                gets_eos = i == len(messages) - 1 and (rendered.add_eos or not self.add_eos)
                if not gets_eos and not self._ends_special(rendered.text[start:end]):
                    found.append(Finding(i, "assistant", "end of turn", "untrained"))
        return tuple(found)

    def _cut(self, e: Encoded) -> Encoded:
        if self.max_length is None or len(e.tokens) <= self.max_length:
            return e
        return replace(e, tokens=e.tokens[: self.max_length], mask=e.mask[: self.max_length], truncated=True)

    def template(self, tools: Any = None) -> str:
        """The template for conversations with these tools. Raises DataError if the tokenizer has none, ConfigError if
        it has several and none is the default."""
        if not self.chat:
            raise DataError(
                f"{self.name} has no chat template: set policy.tokenizer.chat_template (a Jinja template, or a file)"
            )
        try:
            return self.tokenizer.get_chat_template(tools=tools)
        except ValueError as error:
            names = ", ".join(self.tokenizer.chat_template)
            raise ConfigError(
                f"{self.name} has several chat templates ({names}) and none called default: choose one with "
                "policy.tokenizer.chat_template=NAME"
            ) from error

    def prepared(self, messages: Sequence[Message], tools: Any = None) -> list[Message]:
        """Messages in the form that the chat template reads, with text that reads like a control token guarded.

        Raises DataError for content that is not text.
        """
        plain = [self.control.guarded(canonical(m, f"message {i}")) for i, m in enumerate(messages)]
        return for_template(plain, self.features(tools), self.template(tools))

    def features(self, tools: Any = None) -> TemplateFeatures:
        """The features of the template for conversations with these tools."""
        template = self.template(tools)
        if template not in self._features:
            self._features[template] = template_features(
                self.tokenizer, template, self.specials, self.template_kwargs
            )
        return self._features[template]

    def apply(self, messages: Sequence[Message], tools: Any, kwargs: Mapping[str, Any]) -> Any:
        """The rendered conversation. Raises DataError if the template refuses it."""
        options = {"tokenize": False, **self.template_kwargs, **kwargs}
        with self._refusals():
            return self.tokenizer.apply_chat_template(list(messages), tools=tools, **options)

    def _found_spans(self, example: Example) -> tuple[str, list[Span]]:
        def render(messages: Sequence[Message], *, generation: bool = False) -> str:
            kwargs = {**example.template_kwargs, "add_generation_prompt": generation}
            return self.apply(messages, example.tools, kwargs)

        messages, turns = list(example.messages), example.trained
        whole = render(messages)
        spans = []
        for i in turns[-1:] if self.only_unmask_final else turns:
            span = turn_span(render, messages, i, whole, self.specials)
            if span is None:
                # If content was lost, this error explains more than the one below.
                render_check.check(messages, whole, (), (), self.name)
                raise DataError(
                    f"cannot tell which tokens of message {i} are the assistant's: the chat template of "
                    f"{self.name} renders it differently within the whole conversation. Put "
                    "{% generation %} … {% endgeneration %} around the assistant's part in "
                    "policy.tokenizer.chat_template, or set only_unmask_final=true"
                )
            spans.append((span[0], self._trim(whole, *span)))
        return whole, spans

    def _trim(self, text: str, start: int, end: int) -> int:
        """The end of the span without the white space after an end-of-turn token."""
        bare = text[start:end].rstrip()
        return start + len(bare) if self._ends_special(bare) else end

    def _turn_end(self, text: str, start: int, end: int, tools: Any) -> int:
        """The end of a turn, its end token included, even if that token stands after the template's marks."""
        if self._ends_special(text[start:end]):
            return end
        run, ends = special_run(text[end:], self.specials), self.features(tools).ends
        at = end
        for special in run if any(special in ends for special in run) else ():
            at = text.index(special, at) + len(special)
            if special in ends:
                break
        return at

    def _has_special(self, text: str) -> bool:
        return any(special in text for special in self.specials)

    def _ends_special(self, text: str) -> bool:
        return text.rstrip().endswith(self.specials)

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """The texts of all special tokens."""
        return special_texts(self.tokenizer)

    @cached_property
    def control(self) -> ControlTokens:
        """Tells special tokens from text that reads like them."""
        return ControlTokens(self.tokenizer, self.specials, self.name)

    @cached_property
    def _text_tokenizer(self) -> TextTokenizer:
        return TextTokenizer(self.tokenizer, self.control, add_bos=self.add_bos, name=self.name)

    @cached_property
    def _features(self) -> dict[str, TemplateFeatures]:
        """Features by template: a tokenizer may have a second template for conversations with tools."""
        return {}

    @cached_property
    def name(self) -> str:
        """The tokenizer's name in messages."""
        name = PurePath(self.tokenizer.name_or_path).name
        return f"tokenizer {name}" if name else "the tokenizer"

    def _marked_spans(self, example: Example) -> tuple[str, list[Span]]:
        """The rendered text and the spans between the template's {% generation %} marks. (`apply_chat_template` returns
        them only together with tokens.)"""
        from transformers.utils.chat_template_utils import render_jinja_template

        variables = {**self.tokenizer.special_tokens_map, **self.template_kwargs, **example.template_kwargs}
        with self._refusals():
            rendered: Any = render_jinja_template(  # (texts, spans); its annotation says str
                conversations=[list(example.messages)],
                tools=example.tools,
                chat_template=self.template(example.tools),
                return_assistant_tokens_mask=True,
                **variables,
            )
        text, spans = rendered[0][0], joined(self._trained(example, rendered[1][0]))
        prompt = list(example.messages[: example.num_prompt_messages])
        if any(m["role"] == "assistant" for m in prompt):
            asked = self.render_prompt(PromptText(prompt, example.tools, example.template_kwargs))
            context = common_length(asked.text, text)
            spans = [(max(start, context), end) for start, end in spans if end > context]
        if not spans and not example.untrained:
            raise DataError(f"the {{% generation %}} marks in the template of {self.name} enclose no text")
        return text, spans[-1:] if self.only_unmask_final else spans

    def _trained(self, example: Example, marked: Sequence[Span]) -> list[Span]:
        """The marked spans that are trained on."""
        if not example.untrained:
            return list(marked)
        turns = [i for i, message in enumerate(example.messages) if message["role"] == "assistant"]
        if len(turns) != len(marked):
            raise DataError(
                f"the template of {self.name} marks {len(marked)} parts of {len(turns)} assistant messages: to exclude "
                "one ('weight', 'train'), {% generation %} must enclose each message once"
            )
        return [span for i, span in zip(turns, marked, strict=True) if i not in example.untrained]

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Re-raise a template's exceptions as DataError."""
        try:
            yield
        except REFUSALS as error:
            raise DataError(f"the chat template of {self.name} refuses the conversation: {error}") from error
