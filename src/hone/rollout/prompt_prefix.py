"""The part of the answer that is already in a prompt: a template's `<think>`, or an assistant message to continue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hone.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAIL = 48  # tokens at the end of a prompt that are searched
_OPENED = re.compile(r"(?:^|[\n>\]:])[ \t]*((?:<(?P<tag>[A-Za-z_]+)>|\[THINK\]|<\|START_THINKING\|>)\s*)$")
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*$")
_FENCE = re.compile(r"(?<![^\n])```[\w+-]*\n$")
_BOX = re.compile(r"\\boxed\{\s*$")
_ROLES = ("assistant", "model", "bot", "system", "user", "s", "bos")


def prefills_of(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The part of the answer in each prompt, verbatim; mostly empty."""
    tails = tokenizer.batch_decode([list(prompt.tokens[-_TAIL:]) for prompt in prompts])
    return [_prefill(prompt, tail) for prompt, tail in zip(prompts, tails, strict=True)]


def _prefill(prompt: Prompt, tail: str) -> str:
    content = prompt.content
    if not isinstance(content, str) and content and content[-1].get("role") == "assistant":
        text = content[-1].get("content")
        return text if isinstance(text, str) else ""
    return prefill_at_end(tail)


def prefill_at_end(tail: str) -> str:
    """The part of the answer at the end of a prompt's text."""
    for pattern in (_EMPTY_THOUGHT, _FENCE, _BOX):
        if found := pattern.search(tail):
            return found[0]
    found = _OPENED.search(tail)
    return found[1] if found and found["tag"] not in _ROLES else ""
