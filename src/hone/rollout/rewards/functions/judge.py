"""A language model as judge: any endpoint with OpenAI's chat completions API.

One process sends the requests of a batch, at most `max_concurrency` at a time. A completion without a score fails with
the cause; the others keep their scores. Imports the standard library only.
"""

from __future__ import annotations

import email.utils
import http.client
import inspect
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

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
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_MAX_WAIT_S = 60.0
_MAX_REPLY = 4_000_000  # bytes


class JudgeError(Exception):
    """The judge gave no score; the message says why."""


class EndpointDown(JudgeError):
    """The endpoint does not respond."""


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
    with ThreadPoolExecutor(max(1, min(max_concurrency, len(rows)))) as threads:
        return list(threads.map(client.score, rows))


def _defaults() -> dict[str, Any]:
    """The options of `judge` with their defaults."""
    parameters = inspect.signature(judge).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


class _Judge:
    """The requests of one batch: their deadline, and whether the endpoint responds."""

    def __init__(self, options: SimpleNamespace) -> None:
        _check(**options.__dict__)
        self._options = options
        self._deadline = time.monotonic() + 0.95 * options.timeout_s - 1
        self._lock = threading.Lock()
        self._down: JudgeError | None = None
        self._in_a_row = 0

    def score(self, row: dict[str, Any]) -> float | JudgeError:
        """The score of one completion, or the error in its place."""
        try:
            return self._read(self._answer(_filled(self._options.template, row)))
        except JudgeError as error:
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

    def _answer(self, question: str) -> str:
        """The judge's reply, after retries. Raises JudgeError."""
        pause, tries = 0.5, 0
        while True:
            if self._down is not None:
                raise self._down
            try:
                reply = self._ask(question)
            except _Retry as retry:
                tries += 1
                wait = retry.wait if retry.wait is not None else pause * (0.5 + random.random())
                if tries > self._options.max_retries:
                    raise self._gave_up(retry, f"after {tries} tries") from retry
                if wait > _MAX_WAIT_S or time.monotonic() + wait > self._deadline:
                    raise self._gave_up(retry, f"and there is no time to wait {wait:.0f} s") from retry
                time.sleep(wait)
                pause = min(pause * 2, _MAX_WAIT_S)
                continue
            with self._lock:
                self._in_a_row = 0
            return reply

    def _gave_up(self, retry: _Retry, why: str) -> JudgeError:
        """The error after the last try. After `max_concurrency` failures in a row no more requests are sent."""
        error = (EndpointDown if retry.down else JudgeError)(f"judge {retry} ({why})")
        with self._lock:
            self._in_a_row += retry.down
            if self._in_a_row >= self._options.max_concurrency:
                self._down = error
        return error

    def _ask(self, question: str) -> str:
        o = self._options
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise JudgeError(f"judge was not asked: kwargs.timeout_s={o.timeout_s:g} had passed")
        body = {"model": o.model, "messages": [{"role": "user", "content": question}]}
        body |= {"temperature": o.temperature, "max_tokens": o.max_tokens, **(o.extra_body or {})}
        headers = {"Content-Type": "application/json"}
        if o.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ[o.api_key_env]}"
        url = f"{str(o.base_url).rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=min(o.request_timeout_s, left)) as response:
                return _content(response.read(_MAX_REPLY))
        except urllib.error.HTTPError as error:
            status = f"answered {error.code} {error.reason}"
            if error.code in _RETRIED:
                raise _Retry(status, _retry_after(error.headers.get("Retry-After")), down=False) from error
            raise JudgeError(f"judge {status}: {_body(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error) or type(error).__name__
            raise _Retry(f"at {_host(url)} does not answer: {reason}", None, down=True) from error


class _Retry(Exception):
    """A failure worth a retry, after `wait` seconds where the endpoint says so."""

    def __init__(self, what: str, wait: float | None, *, down: bool) -> None:
        super().__init__(what)
        self.wait, self.down = wait, down


def _content(body: bytes) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise JudgeError(f"judge's reply is no chat completion: {body[:200]!r}") from error
    if not isinstance(content, str):
        raise JudgeError("judge's reply has no text")
    return content


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(300).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after(value: str | None) -> float | None:
    """The seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _host(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


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
