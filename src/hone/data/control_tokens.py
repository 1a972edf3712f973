"""Encode text of a message that reads like a control token as plain text.

A tool's result or a user's question may contain `<|im_end|>`. If this were encoded as the control token, it could forge
a turn. So before the template is applied, the first character of such a text is replaced by a private-use character.
The rendered text is then tokenised in two steps: both forms are exchanged in it, and a copy of the tokenizer, whose
*control tokens* begin with the private-use character, encodes it. So the template's control tokens are encoded as
control tokens, and those of a message letter by letter. The replacement keeps lengths, so character offsets stay the
same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from hone.errors import DataError
from hone.types import Message

_GUARD = "\ue010"
"""A private-use character: no template writes it."""
_TRUSTED = ("system", "developer", "assistant")
"""Roles whose text comes from the author of the data and may contain control tokens on purpose."""


class ControlTokens:
    """The special tokens of a tokenizer, told apart from text that reads like them."""

    def __init__(self, tokenizer: Any, specials: Sequence[str], name: str) -> None:
        self.tokenizer, self.name = tokenizer, name
        self._guarded = {s: _GUARD + s[1:] for s in specials if len(s) > 1}
        self._exchange = self._guarded | {g: s for s, g in self._guarded.items()}

    def guard(self, text: str) -> str:
        """The text, with the first character of each text of a special token replaced."""
        return self._any.sub(lambda found: self._guarded[found[0]], text) if self._guarded else text

    def guarded(self, message: Message) -> Message:
        """The message with guarded content, unless its role is trusted."""
        if message["role"] in _TRUSTED:
            return message
        return {**message, "content": self.guard(message["content"])}

    def is_guarded(self, text: str) -> bool:
        """Whether `guard` changed the text."""
        return _GUARD in text and any(g in text for g in self._guarded.values())

    def tokenise(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """Ids and character offsets of guarded texts. Raises DataError for a slow tokenizer."""
        exchanged = [self._both.sub(lambda found: self._exchange[found[0]], text) for text in texts]
        encoded = self._copy.encode_batch(exchanged, add_special_tokens=False)
        return [e.ids for e in encoded], [e.offsets for e in encoded]

    @cached_property
    def _any(self) -> re.Pattern[str]:
        return _alternatives(self._guarded)

    @cached_property
    def _both(self) -> re.Pattern[str]:
        return _alternatives(self._exchange)

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with guarded special tokens."""
        if not self.tokenizer.is_fast:
            raise DataError(
                f"a message contains the text of a special token, and {self.name} cannot encode it as text: use a "
                "fast tokenizer (tokenizer.json)"
            )
        data = json.loads(self.tokenizer.backend_tokenizer.to_str())
        data |= {"post_processor": None, "padding": None, "truncation": None}
        for token in data["added_tokens"]:
            token["content"] = self._guarded.get(token["content"], token["content"])
        model = data["model"]
        vocab = model.get("vocab")
        if isinstance(vocab, dict):
            model["vocab"] = {self._guarded.get(word, word): number for word, number in vocab.items()}
        elif vocab:
            model["vocab"] = [[self._guarded.get(word, word), score] for word, score in vocab]
        if model.get("unk_token"):
            model["unk_token"] = self._guarded.get(model["unk_token"], model["unk_token"])
        return Tokenizer.from_str(json.dumps(data))


def _alternatives(texts: Any) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)))
