"""The answer of an endpoint, which may give text without tokens, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from hone.types import Completion


@dataclass(frozen=True)
class EndpointCompletion(Completion):
    """A completion with its text. `tokens` and `logprobs` are empty where the endpoint does not give them."""

    text: str = ""
    reported_length: int | None = None
    """Tokens by the endpoint's own count."""
    failure: str | None = None
    """Why there is no answer."""


def length_of(completion: Completion) -> int | None:
    """In tokens; None where an endpoint does not say."""
    if isinstance(completion, EndpointCompletion) and not completion.tokens:
        return completion.reported_length
    return len(completion.tokens)
