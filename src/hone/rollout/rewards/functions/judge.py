"""A language model as judge: any endpoint with OpenAI's chat completions API.

One process sends the requests of a batch, at most `max_concurrency` at a time. A completion without a score fails with
the cause; the others keep their scores.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from hone.endpoint import Endpoint, EndpointError
from hone.rollout.rewards.functions.common import GOLD_COLUMNS, BadOption, rows_of
from hone.rollout.rewards.text import after_thought, text_of

TEMPLATE = """You grade an answer.

Task:
{prompt}

Answer to grade:
{completion}

Reference, if there is one:
{answer}

How good is the answer, from 0 (useless) to 10 (perfect)? End your reply with a line of this form:
Score: <number>"""


class JudgeError(Exception):
    """The judge gave no score; the message says why."""


def judge(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    base_url: str | None = None,
    model: str | None = None,
    template: str = TEMPLATE,
    score_pattern: str = r"[Ss]core:\s*\**\s*(-?\d+(?:\.\d+)?)",
    min_score: float = 0.0,
    max_score: float = 10.0,
    normalize: bool = True,
    api_key_env: str | None = None,
    max_concurrency: int = 8,
    max_retries: int = 4,
    request_timeout_s: float = 60.0,
    timeout_s: float = 600.0,
    temperature: float = 0.0,
    max_tokens: int = 512,
    extra_body: dict[str, Any] | None = None,
    **columns: Any,
) -> list[Any]:
    """The score that a judge model gives each completion, normalized to 0 … 1.

    base_url, model: the endpoint (`http://host:8000/v1`) and its model. template: the judge's prompt, with `{prompt}`,
    `{completion}` and any column in braces; `{answer}` is the gold answer if the data has one. score_pattern: its last
    match in the reply has the score in the first group. min_score, max_score: the range; a score outside it is a
    failure; `normalize` maps it to 0 … 1. api_key_env: the environment variable with the key, which is never written to
    a file. 429 and 5xx are retried `max_retries` times, after `Retry-After` or after pauses that double; `timeout_s`
    limits the whole batch.
    """
    given = {name: value for name, value in locals().items() if name in _defaults()}
    client = _Judge(SimpleNamespace(**given))
    rows = rows_of(columns, len(completions))
    for row, prompt, completion in zip(rows, prompts, completions, strict=True):
        gold = next((row[name] for name in GOLD_COLUMNS if row.get(name) is not None), "")
        row |= {"prompt": _prompt_text(prompt), "completion": text_of(completion), "answer": gold}
    with ThreadPoolExecutor(1) as thread:  # a caller's thread may have an event loop, as a notebook's has
        return thread.submit(asyncio.run, client.scores(rows)).result()


def _defaults() -> dict[str, Any]:
    """The options of `judge` with their defaults."""
    parameters = inspect.signature(judge).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


class _Judge:
    """The requests of one batch."""

    def __init__(self, options: SimpleNamespace) -> None:
        _check(**options.__dict__)
        self._options = options
        self._endpoint = Endpoint(
            options.base_url,
            name="judge",
            api_key_env=options.api_key_env,
            max_concurrency=options.max_concurrency,
            max_retries=options.max_retries,
            request_timeout_s=options.request_timeout_s,
            timeout_s=0.95 * options.timeout_s - 1,
        )

    async def scores(self, rows: Sequence[dict[str, Any]]) -> list[float | Exception]:
        """The score of each completion, or the error in its place."""
        async with self._endpoint.session():
            return await asyncio.gather(*map(self._score, rows))

    async def _score(self, row: dict[str, Any]) -> float | Exception:
        o = self._options
        question = {"role": "user", "content": _filled(o.template, row)}
        body = {"model": o.model, "messages": [question], "temperature": o.temperature}
        body |= {"max_tokens": o.max_tokens, **(o.extra_body or {})}
        try:
            reply = await self._endpoint.complete("/chat/completions", body)
            return self._read(_content(reply["choices"][0]))
        except (JudgeError, EndpointError) as error:
            return error

    def _read(self, reply: str) -> float:
        o = self._options
        if "<think>" in reply and "</think>" not in reply:
            raise JudgeError("judge did not finish its thoughts: raise max_tokens")
        found = re.findall(o.score_pattern, after_thought(reply)[-20_000:])
        if not found:
            raise JudgeError(f"judge gave no score: {reply[-200:]!r}")
        try:
            value = float(found[-1] if isinstance(found[-1], str) else found[-1][0])
        except ValueError as error:
            raise JudgeError(f"judge gave a score that is not a number: {found[-1]!r:.100}") from error
        if not o.min_score <= value <= o.max_score:
            raise JudgeError(
                f"judge gave a score out of range: {value:g} ({o.min_score:g} to {o.max_score:g})"
            )
        return (value - o.min_score) / (o.max_score - o.min_score) if o.normalize else value


def _content(choice: dict[str, Any]) -> str:
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise JudgeError("judge's reply has no text")
    return content


def _filled(template: str, row: dict[str, Any]) -> str:
    """The template with the row's columns in place of their names in braces; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: str(row.get(found[1], found[0])), template)


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message.get('role', '')}: {text_of([message])}" for message in prompt)


def _check(**options: Any) -> None:
    o = SimpleNamespace(**_defaults() | options)
    if not o.base_url or not o.model:
        raise BadOption("needs kwargs.base_url (such as http://localhost:8000/v1) and kwargs.model")
    if not o.base_url.startswith(("http://", "https://")):
        raise BadOption(f"base_url={o.base_url} is not a URL that begins with http:// or https://")
    if "{completion}" not in o.template:
        raise BadOption("template has no {completion}, so the judge would not see it")
    try:
        groups = re.compile(o.score_pattern).groups
    except re.error as error:
        raise BadOption(f"score_pattern is not a regular expression: {error}") from error
    if groups < 1:
        raise BadOption(f"score_pattern={o.score_pattern} needs a group (…) around the number")
    if o.min_score >= o.max_score:
        raise BadOption(f"min_score={o.min_score:g} is not below max_score={o.max_score:g}")
    if o.api_key_env is not None and not os.environ.get(o.api_key_env):
        raise BadOption(f"the environment variable {o.api_key_env} (kwargs.api_key_env) is not set")
    for name in ("max_concurrency", "request_timeout_s", "timeout_s", "max_tokens"):
        if getattr(o, name) <= 0:
            raise BadOption(f"{name}={getattr(o, name)} must be more than 0")


judge.alone = True  # type: ignore[attr-defined]  # one process, so that max_concurrency holds for the run
judge.check = _check  # type: ignore[attr-defined]
judge.judges = False  # type: ignore[attr-defined]
