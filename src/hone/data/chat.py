"""Rows to tokens: chat templates, and masks that say which tokens are targets.

A conversation is rendered once as a whole and tokenised once, so its tokens are what the chat template
says. Targets are the assistant's turns, each from the end of the generation prompt to its end-of-turn
token: what a model has to produce itself. A template with `{% generation %}` marks says where they are; for
others see `hone.data.spans`. The white space that some templates put behind the end-of-turn token is no
target, since generation stops before it.

Plain text gets the tokenizer's own BOS (`add_bos`) and an EOS at its end (`add_eos`). In language modelling
all of it is a target; in prompt-completion the completion. The prompt's tokens are always those that a
generator will be given: where tokens would merge across the border, the two sides are tokenised apart. (TRL
lets the completion begin earlier then, with a warning; in all other cases the tokens are the same.)

A chat template places BOS and end-of-turn tokens itself. One that writes no special token at all is treated
as plain text; and a last assistant turn that ends in no special token gets the EOS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

import jinja2

from hone.data.formats import Example, PromptText
from hone.data.spans import Span, common_length, joined, overlap, turn_span
from hone.errors import DataError
from hone.types import Message

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Encoded:
    """Tokens of one sample; `mask[t]` says that token t is a target. The first token never is."""

    tokens: list[int]
    mask: list[bool]
    truncated: bool = False

    @property
    def has_target(self) -> bool:
        return any(self.mask)


@dataclass(frozen=True)
class Rendered:
    """Text with the character spans that are targets, before it is tokenised."""

    text: str
    spans: list[Span]
    bare: bool = False
    """No template wrote special tokens into it: BOS is to be added."""
    prompted: bool = False
    """A prompt and its completion: the prompt's tokens must be the prompt's alone."""
    add_eos: bool = False


@dataclass
class Encoder:
    """Encodes with one tokenizer under one set of options."""

    tokenizer: Any
    max_length: int | None = None
    """Supervised samples are cut to so many tokens."""
    only_unmask_final: bool = False
    """Only the last assistant turn is a target."""
    add_bos: bool = True
    add_eos: bool = True
    add_generation_prompt: bool = True
    """Prompts to generate from end with the template's opening of an assistant turn."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    def encode(self, example: Example) -> Encoded:
        """One example; `render` each and `tokenize` all is faster for many. Raises DataError."""
        return self.tokenize([self.render(example)])[0]

    def render(self, example: Example) -> Rendered:
        """Text of an example and where its targets are. Raises DataError for what the template refuses."""
        if not example.messages:
            text, start = example.prompt + example.completion, len(example.prompt)
            return self._bare(text, [(start, len(text))], answered=True)
        marked = _MARK.search(self.tokenizer.get_chat_template(tools=example.tools))
        text, spans = self._marked_spans(example) if marked else self._found_spans(example)
        answered = example.messages[-1]["role"] == "assistant"
        if not self._has_special(text):
            return self._bare(text, spans, answered)
        return Rendered(text, spans, add_eos=self.add_eos and answered and not self._ends_special(text))

    def tokenize(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Tokenise together what was rendered one by one."""
        return [self._cut(e) for e in self._encode_all(rendered)]

    def render_prompt(self, prompt: PromptText) -> Rendered:
        """The text that a model continues. A conversation that ends with the assistant is continued there."""
        if isinstance(prompt.content, str):
            return Rendered(prompt.content, [], bare=True)
        continued = prompt.content[-1]["role"] == "assistant"
        how = "continue_final_message" if continued else "add_generation_prompt"
        kwargs = {**prompt.template_kwargs, how: continued or self.add_generation_prompt}
        text = self.apply(prompt.content, prompt.tools, kwargs)
        return Rendered(text, [], bare=not self._has_special(text))

    def encode_prompts(self, prompts: Sequence[Rendered]) -> list[list[int]]:
        """The tokens that a generator continues."""
        ids = self._ids([p.text for p in prompts])
        return [self._with_bos(tokens) if p.bare else tokens for p, tokens in zip(prompts, ids, strict=True)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, with nothing added."""
        return [len(tokens) for tokens in self._ids(list(texts))]

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, with nothing added."""
        return self._ids([text])[0]

    # ---- text to tokens

    def _bare(self, text: str, spans: list[Span], answered: bool) -> Rendered:
        eos = self.tokenizer.eos_token
        ended = eos is None or text.endswith(eos)
        return Rendered(
            text,
            spans,
            bare=True,
            prompted=len(spans) == 1 and spans[0][1] == len(text),
            add_eos=self.add_eos and answered and not ended,
        )

    def _encode_all(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        texts = [r.text for r in rendered]
        prompts = iter(self._ids([r.text[: r.spans[0][0]] for r in rendered if r.prompted]))
        offsets: Sequence[Sequence[Span] | None] = [None] * len(texts)
        if self.tokenizer.is_fast and not all(r.prompted for r in rendered):
            more = {"return_offsets_mapping": True, "return_attention_mask": False}
            out = self.tokenizer(texts, add_special_tokens=False, **more)
            ids, offsets = out["input_ids"], out["offset_mapping"]
        else:
            ids = self._ids(texts)
        encoded = []
        for r, tokens, places in zip(rendered, ids, offsets, strict=True):
            if r.prompted:
                tokens, mask = self._completion(r, tokens, next(prompts))
            else:
                mask = self._prefix_mask(r, tokens) if places is None else overlap(places, r.spans)
            if r.bare:
                before = len(tokens)
                tokens = self._with_bos(tokens)
                mask = [False] * (len(tokens) - before) + mask
            if r.add_eos:
                tokens, mask = [*tokens, self.tokenizer.eos_token_id], [*mask, True]
            encoded.append(Encoded(tokens, [False, *mask[1:]] if mask else mask))
        return encoded

    def _completion(self, r: Rendered, whole: list[int], prompt: list[int]) -> tuple[list[int], list[bool]]:
        if whole[: len(prompt)] != prompt:
            whole = prompt + self._ids([r.text[r.spans[0][0] :]])[0]
        return whole, [False] * len(prompt) + [True] * (len(whole) - len(prompt))

    def _prefix_mask(self, r: Rendered, tokens: list[int]) -> list[bool]:
        """Without character offsets (slow tokenizers): the tokens up to each border must begin the whole."""
        mask = [False] * len(tokens)
        for span in r.spans:
            begin, end = self._ids([r.text[: span[0]], r.text[: span[1]]])
            if tokens[: len(begin)] != begin or tokens[: len(end)] != end:
                raise DataError(
                    f"tokens of {self.name} merge across the border of an assistant turn, and it gives no "
                    "character offsets to find it; use a fast tokenizer (tokenizer.json)"
                )
            mask[len(begin) : len(end)] = [True] * (len(end) - len(begin))
        return mask

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def _with_bos(self, tokens: list[int]) -> list[int]:
        """Put BOS first, where the tokenizer does so by itself and the text does not bring one."""
        bos = self._own_bos
        return tokens if bos is None or tokens[:1] == [bos] else [bos, *tokens]

    @cached_property
    def _own_bos(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        return bos if self.add_bos and self.tokenizer("a")["input_ids"][:1] == [bos] else None

    def _cut(self, e: Encoded) -> Encoded:
        if self.max_length is None or len(e.tokens) <= self.max_length:
            return e
        return Encoded(e.tokens[: self.max_length], e.mask[: self.max_length], truncated=True)

    # ---- conversations

    def apply(self, messages: Sequence[Message], tools: Any, kwargs: Mapping[str, Any]) -> Any:
        """What the chat template writes. Raises DataError for what it refuses."""
        options = {"tokenize": False, **self.template_kwargs, **kwargs}
        with self._refusals():
            return self.tokenizer.apply_chat_template(list(messages), tools=tools, **options)

    def _found_spans(self, example: Example) -> tuple[str, list[Span]]:
        def render(messages: Sequence[Message], *, generation: bool = False) -> str:
            kwargs = {**example.template_kwargs, "add_generation_prompt": generation}
            return self.apply(messages, example.tools, kwargs)

        messages, first = list(example.messages), example.num_prompt_messages
        whole = render(messages)
        turns = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
        spans = []
        for i in turns[-1:] if self.only_unmask_final else turns:
            span = turn_span(render, messages, i, whole, self.specials)
            if span is None:
                raise DataError(
                    f"cannot tell which tokens of message {i} are the assistant's: the chat template of "
                    f"{self.name} renders it differently within the whole conversation. Put "
                    "{% generation %} … {% endgeneration %} around the assistant's part in "
                    "policy.tokenizer.chat_template, or set sft.only_unmask_final=true"
                )
            spans.append((span[0], self._trim(whole, *span)))
        return whole, spans

    def _trim(self, text: str, start: int, end: int) -> int:
        """Leave out the white space behind an end-of-turn token."""
        bare = text[start:end].rstrip()
        return start + len(bare) if self._ends_special(bare) else end

    def _has_special(self, text: str) -> bool:
        return any(special in text for special in self.specials)

    def _ends_special(self, text: str) -> bool:
        return text.rstrip().endswith(self.specials)

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """The texts of all special tokens."""
        added = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        return tuple({*added, *self.tokenizer.all_special_tokens})

    @cached_property
    def name(self) -> str:
        """How messages call the tokenizer."""
        name = PurePath(self.tokenizer.name_or_path).name
        return f"tokenizer {name}" if name else "the tokenizer"

    def _marked_spans(self, example: Example) -> tuple[str, list[Span]]:
        """By the template's own {% generation %} marks. (What `apply_chat_template` calls to get them: it
        only
        gives them for one conversation at a time, tokenised.)"""
        from transformers.utils.chat_template_utils import render_jinja_template

        variables = {**self.tokenizer.special_tokens_map, **self.template_kwargs, **example.template_kwargs}
        with self._refusals():
            rendered: Any = render_jinja_template(  # (texts, spans); its annotation says str
                conversations=[list(example.messages)],
                tools=example.tools,
                chat_template=self.tokenizer.get_chat_template(tools=example.tools),
                return_assistant_tokens_mask=True,
                **variables,
            )
        text, spans = rendered[0][0], joined(rendered[1][0])
        prompt = list(example.messages[: example.num_prompt_messages])
        if any(m["role"] == "assistant" for m in prompt):
            asked = self.render_prompt(PromptText(prompt, example.tools, example.template_kwargs))
            context = common_length(asked.text, text)
            spans = [(max(start, context), end) for start, end in spans if end > context]
        if not spans:
            raise DataError(f"the {{% generation %}} marks in the template of {self.name} mark nothing of it")
        return text, spans[-1:] if self.only_unmask_final else spans

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What a template raises, in one sentence."""
        try:
            yield
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise DataError(f"the chat template of {self.name} refuses the conversation: {error}") from error
