"""Answers of an endpoint with OpenAI's API, for evaluation: one request each, and a failed one is data with a cause."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from hone.config import EvalConfig
from hone.endpoint import Endpoint, EndpointError, EndpointRefused
from hone.endpoint_completion import EndpointCompletion
from hone.engine.requests import completion_limit
from hone.errors import GeneratorError, HoneError
from hone.model.counter_rng import key_of
from hone.types import Completion, Prompt, Sampling

WITHHELD = ("content_filter", "tool_calls", "function_call", "abort", "error")
"""Ends of a completion that are no answer."""
SHOWN = 8


class EndpointGenerator:
    """A Generator of the model at an endpoint. `decode` makes text of tokens, where the endpoint gives tokens."""

    def __init__(self, config: EvalConfig, decode: Callable[[list[int]], str] | None = None) -> None:
        settings = config.generation.openai_cfg
        self.settings, self.model, self.decode = settings, settings.model, decode
        self.context = config.generation.max_model_len
        self.answered_by: set[str] = set()
        """Names of models in its replies."""
        assert settings.base_url is not None
        self.endpoint = Endpoint(
            settings.base_url,
            api_key_env=settings.api_key_env,
            max_concurrency=settings.max_concurrency,
            max_retries=settings.max_retries,
            request_timeout_s=settings.request_timeout_s,
        )

    async def check(self) -> None:
        """Raise GeneratorError for an endpoint that does not answer, or does not have the model."""
        with _named(self.settings.api_key_env):
            async with self.endpoint.session():
                models = await self.endpoint.models()
        if models is None or self.model in models:
            return
        near = difflib.get_close_matches(self.model, models, SHOWN) or models[:SHOWN]
        raise GeneratorError(
            f"generation.openai_cfg.model={self.model}: the endpoint at {self.endpoint.url} has no such model; it has "
            f"{', '.join(near) or 'none'}" + (" …" if len(models) > len(near) else "")
        )

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """`count` answers (EndpointCompletion) to each prompt, in order. Raises GeneratorError for an endpoint that
        refuses every request."""
        wanted = [(prompt, prompt.first_completion + c) for prompt in prompts for c in range(count)]
        with _named(self.settings.api_key_env):
            async with self.endpoint.session():
                done = await asyncio.gather(*(self._answer(*one, sampling) for one in wanted))
        return [list(done[p * count : (p + 1) * count]) for p in range(len(prompts))]

    async def _answer(self, prompt: Prompt, number: int, sampling: Sampling) -> EndpointCompletion:
        try:
            path, body = self._request(prompt, sampling, key_of(sampling.seed, prompt.id, number))
            return self._read(await self.endpoint.complete(path, body))
        except EndpointRefused:
            raise
        except (EndpointError, HoneError) as error:
            return EndpointCompletion((), (), "stop", (), failure=str(error))

    def _request(self, prompt: Prompt, sampling: Sampling, seed: int) -> tuple[str, dict[str, Any]]:
        """Path and body."""
        body: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature}
        body |= {"seed": seed % 2**31} if sampling.temperature else {}
        body |= {"top_p": sampling.top_p} if sampling.temperature and sampling.top_p < 1 else {}
        body |= {"stop": list(sampling.stop_strings)} if sampling.stop_strings else {}
        path, content = "/completions", prompt.content
        if self.settings.api == "tokens":
            limit = completion_limit(prompt, sampling, self.context)
            body |= {
                "prompt": list(prompt.tokens),
                "max_tokens": limit,
                "logprobs": 0,
                "return_token_ids": True,
            }
        else:  # without a limit of its own the endpoint has one: the length of the prompt is known there alone
            body |= {"max_tokens": sampling.max_new_tokens} if sampling.max_new_tokens < self.context else {}
        if self.settings.api == "text":
            body["prompt"] = content
        elif self.settings.api == "chat":
            path = "/chat/completions"
            body["messages"] = [{"role": "user", "content": content}] if isinstance(content, str) else content
        body |= self.settings.extra_body
        return path, {name: value for name, value in body.items() if value is not None}

    def _read(self, reply: Mapping[str, Any]) -> EndpointCompletion:
        """The completion in a reply. Raises EndpointError for a reply without one."""
        choice = reply["choices"][0]
        self.answered_by |= {str(reply["model"])} if "model" in reply else set()
        ended = choice.get("finish_reason")
        if not isinstance(ended, str) or ended in WITHHELD:
            raise EndpointError(f"endpoint ended a completion by {ended}")
        tokens, logprobs = choice.get("token_ids"), _logprobs(choice.get("logprobs"))
        if self.settings.api == "tokens" and not isinstance(tokens, list):
            raise EndpointRefused(
                "endpoint gave no token ids (return_token_ids): set generation.openai_cfg.api to chat or text"
            )
        tokens = tokens if isinstance(tokens, list) else []
        text = self.decode(tokens) if self.decode is not None else _text(choice)
        usage = reply.get("usage")
        length = usage.get("completion_tokens") if isinstance(usage, dict) else None
        return EndpointCompletion(
            tuple(tokens),
            tuple(logprobs) if len(logprobs) == len(tokens) else (),
            "length" if ended == "length" else "stop",
            (),
            text=text,
            reported_length=length if isinstance(length, int) else None,
        )


@contextmanager
def open_endpoint(
    config: EvalConfig, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[EndpointGenerator]:
    """The endpoint of an evaluation; with a tokenizer, tokens are sent and received."""
    decode: Any = partial(tokenizer.decode, skip_special_tokens=True) if tokenizer is not None else None
    yield EndpointGenerator(config, decode)


@contextmanager
def _named(api_key_env: str | None) -> Iterator[None]:
    """An EndpointError as GeneratorError, with the setting that may be wrong."""
    try:
        yield
    except EndpointError as error:
        text, key = str(error), "generation.openai_cfg.api_key_env"
        hint = (
            " (generation.openai_cfg.base_url usually ends in /v1)"
            if "no JSON" in text or "404" in text
            else ""
        )
        if "answered 401" in text or "answered 403" in text:
            hint = f" ({key}={api_key_env or 'null'})"
        raise GeneratorError(text + hint) from error


def _text(choice: Mapping[str, Any]) -> str:
    """The text of an answer; empty where the message has none, as after thoughts that were cut off."""
    message = choice.get("message")
    found = choice.get("text") if message is None else None
    if isinstance(message, dict):
        found = message.get("content") or message.get("refusal") or ""
    if not isinstance(found, str):
        raise EndpointError("endpoint's reply has no text")
    return found


def _logprobs(found: Any) -> list[float]:
    """The tokens' log-probabilities, in the form of either API; empty where there are none."""
    with contextlib.suppress(LookupError, TypeError):
        if "token_logprobs" in found:
            return [float(value) for value in found["token_logprobs"]]
        return [float(one["logprob"]) for one in found["content"]]
    return []
