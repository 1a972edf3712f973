"""What every generator makes of a request, wherever it samples."""

from __future__ import annotations

from hone.errors import HoneError
from hone.types import Prompt, Sampling


def completion_limit(prompt: Prompt, sampling: Sampling, context: int) -> int:
    """The most tokens that a completion may have. Raises HoneError for a prompt that is empty or fills the context."""
    if not prompt.tokens:
        raise HoneError(f"prompt {prompt.id} has no tokens: there is nothing to go on from")
    limit = min(sampling.max_new_tokens, context - len(prompt.tokens))
    if limit < 1:
        raise HoneError(
            f"prompt {prompt.id} has {len(prompt.tokens)} tokens and the context {context}: no room for an answer. "
            "Raise policy.max_total_sequence_length or shorten the prompt"
        )
    return limit


def completions_per_batch(maximum: int, count: int) -> int:
    """Of at most `maximum` completions, `count` of each prompt: all of a prompt in one batch where they fit."""
    return max(maximum // count * count, min(maximum, count))
