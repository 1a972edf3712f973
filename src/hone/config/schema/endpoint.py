"""Settings of an endpoint with OpenAI's API as the generator of an evaluation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hone.config.schema.base import ConfigModel, Derived, derived


class EndpointConfig(ConfigModel):
    """An endpoint with OpenAI's API (`backend: openai`)."""

    base_url: str | None = None
    """Where it is, such as `http://localhost:8000/v1`."""
    model: Derived[str] = derived("${generation.model_name}")
    """The name that the model has there; default: generation.model_name."""
    api: Literal["chat", "text", "tokens"] = "chat"
    """`chat`: messages to `/chat/completions`, with the endpoint's own chat template. `text`: text to `/completions`,
    for base models. `tokens`: token ids to `/completions`, as this model's tokenizer and chat template make them; the
    endpoint must return token ids and log-probabilities, as vLLM does."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; null: no key is sent. The key is never written to a file."""
    max_concurrency: int = Field(32, ge=1)
    """Requests at a time. One request is one answer."""
    max_retries: int = Field(4, ge=0)
    """Retries of a request after 429, 5xx, a timeout or a lost connection: after `Retry-After`, or after pauses that
    double."""
    request_timeout_s: float = Field(300.0, gt=0)
    """How long one answer may take."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of a request, such as `{top_k: 20}`; null removes one, as in `{max_tokens: null,
    max_completion_tokens: 512}`."""
