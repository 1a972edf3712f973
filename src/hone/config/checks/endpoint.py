"""What an endpoint with OpenAI's API cannot do, and what it needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from hone.config.schema import EvalConfig, OnlineConfig

OTHERS = "set {0}.backend to builtin or vllm"
OWN_FIELDS = ("model", "messages", "prompt", "n", "best_of", "stream", "echo")
"""Fields of a request that are not for `extra_body`."""


def training(config: OnlineConfig) -> Iterator[str]:
    """Training samples from the weights that it trains."""
    if config.policy.generation.backend == "openai":
        yield (
            "policy.generation.backend=openai: an endpoint cannot be given the learner's weights, which training "
            f"samples from: {OTHERS.format('policy.generation')}. To train on an endpoint's answers see "
            "docs/generators.md"
        )


def evaluation(config: EvalConfig) -> Iterator[str]:
    """Where the endpoint is, its key, and what its API lacks."""
    generation, endpoint = config.generation, config.generation.openai_cfg
    if generation.backend != "openai":
        return
    key = "generation.openai_cfg"
    if not _is_url(endpoint.base_url):
        yield (
            f"{key}.base_url={endpoint.base_url or 'null'}: generation.backend=openai needs the endpoint's URL, such "
            "as http://localhost:8000/v1, without a user or a key in it"
        )
    yield from _api_key(endpoint.api_key_env, f"{key}.api_key_env")
    if given := [name for name in OWN_FIELDS if name in endpoint.extra_body]:
        yield f"{key}.extra_body.{given[0]}: Hone sets this field of a request: remove it"
    lacking = {
        "top_k": generation.top_k is not None,
        "min_p": generation.min_p > 0,
        "repetition_penalty": generation.repetition_penalty != 1,
        "min_new_tokens": generation.min_new_tokens > 0,
        "ignore_eos": generation.ignore_eos,
        "stop_token_ids": bool(generation.stop_token_ids),
    }
    for name in (name for name, is_set in lacking.items() if is_set):
        yield (
            f"generation.{name} is not in OpenAI's API, and an endpoint may ignore it: if yours has it, give it in "
            f"{key}.extra_body under the name that it has there"
        )
    if config.env.is_configured or config.env.named:
        yield (
            f"env with generation.backend=openai: an environment needs the tokens of every turn: "
            f"{OTHERS.format('generation')}"
        )


def _is_url(text: str | None) -> bool:
    try:
        parts = urlsplit(text or "")
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return known and "@" not in parts.netloc
    except ValueError:
        return False


def _api_key(name: str | None, key: str) -> Iterator[str]:
    if name is None or os.environ.get(name):
        return
    shown = f"={name}" if re.fullmatch(r"[A-Z][A-Z0-9_]*", name) else ""  # another may be the key itself
    yield f"{key}{shown} is the name of an environment variable that holds the key: there is none of this name"
