"""Tokenise rendered text: token ids and target mask, borders between prompt and answer, BOS and EOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hone.data.assistant_spans import Span, common_length, overlap
from hone.data.control_tokens import ControlTokens
from hone.data.render_check import Finding
from hone.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """Tokens of one sample. `mask[t]` says whether token t is a target; the first token never is."""

    tokens: list[int]
    mask: list[bool]
    truncated: bool = False
    findings: tuple[Finding, ...] = ()
    """Differences between the row and its rendering."""

    @property
    def has_target(self) -> bool:
        return any(self.mask)


@dataclass(frozen=True)
class Rendered:
    """Text with the character spans that are targets, before tokenisation. Text that only reads like a control token
    is guarded (`hone.data.control_tokens`)."""

    text: str
    spans: list[Span]
    plain: bool = False
    """No template wrote special tokens into the text: BOS has to be added."""
    prompt_completion: bool = False
    """The text is a prompt and its completion: no token may span both."""
    add_eos: bool = False
    findings: tuple[Finding, ...] = ()


class TextTokenizer:
    """Tokenises rendered texts with one tokenizer."""

    def __init__(self, tokenizer: Any, control: ControlTokens, *, add_bos: bool, name: str) -> None:
        self.tokenizer, self.control, self.add_bos, self.name = tokenizer, control, add_bos, name

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Tokens and masks of rendered texts, not truncated."""
        prompts = iter(self.ids([r.text[: r.spans[0][0]] for r in rendered if r.prompt_completion]))
        ids, offsets = self._ids_and_offsets(
            [r.text for r in rendered], all(r.prompt_completion for r in rendered)
        )
        encoded = []
        for r, tokens, token_offsets in zip(rendered, ids, offsets, strict=True):
            if r.prompt_completion:
                tokens, mask = self._completion(r, tokens, next(prompts))
            else:
                mask = (
                    self._prefix_mask(r, tokens) if token_offsets is None else overlap(token_offsets, r.spans)
                )
            if r.plain:
                before = len(tokens)
                tokens = self.with_bos(tokens)
                mask = [False] * (len(tokens) - before) + mask
            if r.add_eos:
                tokens, mask = [*tokens, self.tokenizer.eos_token_id], [*mask, True]
            mask = [False, *mask[1:]] if mask else mask
            encoded.append(Encoded(tokens, mask, findings=r.findings))
        return encoded

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, with nothing added."""
        return self._ids_and_offsets(texts, True)[0]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text: cheaper than `ids`."""
        if not self.tokenizer.is_fast or not texts or any(map(self.control.is_guarded, texts)):
            return [len(tokens) for tokens in self.ids(texts)]
        self.ids(texts[:1])  # this call turns truncation and padding off
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(e.ids) for e in encoded]

    def continuation(self, prompt: str, prompt_ids: list[int], rest: str) -> list[int]:
        """The tokens of `rest` such that `prompt_ids` and they decode to `prompt + rest`; empty if there are none.

        SentencePiece tokenizers add a space in front of a text that is tokenised alone. Such a text is tokenised after
        a token that it does not merge with.
        """
        alone = self.ids([rest])[0]
        whole = self._read(self.ids([prompt + rest])[0])
        if self._read([*prompt_ids, *alone]) == whole:
            return alone
        for anchor in filter(None, (self.tokenizer.bos_token, self.tokenizer.eos_token, "\n", "\x07")):
            before, both = self.ids([anchor, anchor + rest])
            if both[: len(before)] == before and self._read([*prompt_ids, *both[len(before) :]]) == whole:
                return both[len(before) :]
        return []

    def with_bos(self, tokens: list[int]) -> list[int]:
        """The tokens with BOS in front, if the tokenizer itself adds one and it is not there yet."""
        bos = self._bos
        return tokens if bos is None or tokens[:1] == [bos] else [bos, *tokens]

    def _ids_and_offsets(
        self, texts: Sequence[str], ids_only: bool
    ) -> tuple[list[list[int]], list[Sequence[Span] | None]]:
        if not texts:
            return [], []
        # Not verbose: transformers would warn of long texts, which are truncated or refused later.
        more: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        with_offsets = self.tokenizer.is_fast and not ids_only
        guarded = [i for i, text in enumerate(texts) if self.control.is_guarded(text)]
        out = self.tokenizer(
            list(texts), **more, **({"return_offsets_mapping": True} if with_offsets else {})
        )
        ids, offsets = out["input_ids"], out["offset_mapping"] if with_offsets else [None] * len(texts)
        if guarded:
            found = self.control.tokenise([texts[i] for i in guarded])
            for i, tokens, where in zip(guarded, *found, strict=True):
                ids[i], offsets[i] = tokens, where if with_offsets else None
        return ids, offsets

    def _completion(self, r: Rendered, whole: list[int], prompt: list[int]) -> tuple[list[int], list[bool]]:
        border = len(prompt)
        if whole[:border] != prompt:
            start = r.spans[0][0]
            rest = self.continuation(r.text[:start], prompt, r.text[start:])
            if rest or start == len(r.text):
                whole = prompt + rest
            else:  # the completion cannot be tokenised separately: it begins with the token that spans both
                border = common_length(whole, prompt)
        return whole, [False] * border + [True] * (len(whole) - border)

    def _read(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _prefix_mask(self, r: Rendered, tokens: list[int]) -> list[bool]:
        """The mask without character offsets (slow tokenizers): the tokens up to each border must be a prefix of all
        tokens. Raises DataError otherwise."""
        mask = [False] * len(tokens)
        for span in r.spans:
            begin, end = self.ids([r.text[: span[0]], r.text[: span[1]]])
            if tokens[: len(begin)] != begin or tokens[: len(end)] != end:
                raise DataError(
                    f"tokens of {self.name} merge across the border of an assistant turn, and the tokenizer gives no "
                    "character offsets to find the border; use a fast tokenizer (tokenizer.json)"
                )
            mask[len(begin) : len(end)] = [True] * (len(end) - len(begin))
        return mask

    @cached_property
    def _bos(self) -> int | None:
        bos = self.tokenizer.bos_token_id
        return bos if self.add_bos and self.tokenizer("a")["input_ids"][:1] == [bos] else None
