"""Limits of a generation request that are the same for every generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hone.errors import HoneError
from hone.types import Prompt, Sampling


def requests_of(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """A prompt for each completion, in order: `count` for each prompt, with the completion's index."""
    return [
        replace(prompt, first_completion=prompt.first_completion + number)
        for prompt in prompts
        for number in range(count)
    ]


def completion_limit(prompt: Prompt, sampling: Sampling, context: int) -> int:
    """The maximum tokens of a completion. Raises HoneError for a prompt that is empty or fills the context."""
    if not prompt.tokens:
        raise HoneError(f"prompt {prompt.id} has no tokens: there is nothing to continue")
    limit = min(sampling.max_new_tokens, context - len(prompt.tokens))
    if limit < 1:
        raise HoneError(
            f"prompt {prompt.id} has {len(prompt.tokens)} tokens and the context {context}: no room for an answer. "
            "Raise policy.max_total_sequence_length or shorten the prompt"
        )
    return limit


def completions_per_batch(maximum: int, count: int) -> int:
    """The batch size, at most `maximum`, that holds all `count` completions of a prompt if they fit."""
    return max(maximum // count * count, min(maximum, count))
