"""A language model as judge, behind any endpoint that speaks OpenAI's chat completions.

One process asks for all completions of a batch, so many at once as `max_concurrency`. A completion that the judge
cannot be brought to score fails with the cause, and nothing else does. Standard library only.
"""

from __future__ import annotations

import email.utils
import http.client
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
from dataclasses import dataclass
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
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_MAX_WAIT_S = 60.0
_MAX_REPLY = 4_000_000  # bytes


class JudgeError(Exception):
    """A completion that was not judged, and why."""


class Down(JudgeError):
    """The judge did not answer at all."""


@dataclass(frozen=True)
class _Options:
    base_url: str | None = None
    model: str | None = None
    template: str = TEMPLATE
    score_pattern: str = r"[Ss]core:\s*\**\s*(-?\d+(?:\.\d+)?)"
    min_score: float = 0.0
    max_score: float = 10.0
    normalize: bool = True
    api_key_env: str | None = None
    max_concurrency: int = 8
    max_retries: int = 4
    request_timeout_s: float = 60.0
    timeout_s: float = 600.0
    temperature: float = 0.0
    max_tokens: int = 512
    extra_body: dict[str, Any] | None = None


def judge(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    base_url: str | None = None,
    model: str | None = None,
    template: str = TEMPLATE,
    score_pattern: str = _Options.score_pattern,
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
    """What a model says of each completion: its score, as a number from 0 to 1.

    base_url, model: the endpoint (`http://host:8000/v1`) and the model's name there. template: the question, with
    `{prompt}`, `{completion}` and any column in braces, `{answer}` being the gold answer if the data has one.
    score_pattern: finds the score (its first group) in the reply; the last match counts. min_score, max_score: its
    range, outside which a reply is not taken; `normalize` maps it to 0 … 1. api_key_env: the environment variable
    that holds the key, which is sent and never written anywhere. 429 and 5xx are tried again `max_retries` times, as
    late as `Retry-After` says or after pauses that double; `timeout_s` bounds the whole batch.
    """
    given = {name: value for name, value in locals().items() if name in _Options.__dataclass_fields__}
    asked = _Judge(_Options(**given))
    rows = [
        {
            **row,
            "prompt": _prompt_text(prompt),
            "completion": text_of(completion),
            "answer": next((row[name] for name in GOLD_COLUMNS if row.get(name) is not None), ""),
        }
        for prompt, completion, row in zip(
            prompts, completions, rows_of(columns, len(completions)), strict=True
        )
    ]
    with ThreadPoolExecutor(max(1, min(max_concurrency, len(rows)))) as threads:
        return list(threads.map(asked.score, rows))


class _Judge:
    """One batch's questions: its deadline, and whether the judge is there at all."""

    def __init__(self, options: _Options) -> None:
        _check(**options.__dict__)
        self._options = options
        self._deadline = time.monotonic() + 0.95 * options.timeout_s - 1
        self._lock = threading.Lock()
        self._down: JudgeError | None = None
        self._in_a_row = 0

    def score(self, row: dict[str, Any]) -> float | JudgeError:
        """The score of one completion, or why there is none."""
        try:
            value = self._read(self._answer(_filled(self._options.template, row)))
        except JudgeError as error:
            return error
        return value

    def _read(self, reply: str) -> float:
        o = self._options
        if "<think>" in reply and "</think>" not in reply:
            raise JudgeError("judge did not come to the end of its thoughts: raise max_tokens")
        found = re.findall(o.score_pattern, after_thought(reply)[-20_000:])
        if not found:
            raise JudgeError(f"judge gave no score: {reply[-200:]!r}")
        try:
            value = float(found[-1] if isinstance(found[-1], str) else found[-1][0])
        except ValueError as error:
            raise JudgeError(f"judge gave no number as score: {found[-1]!r:.100}") from error
        if not o.min_score <= value <= o.max_score:
            raise JudgeError(
                f"judge gave a score out of range: {value:g}, not {o.min_score:g} to {o.max_score:g}"
            )
        return (value - o.min_score) / (o.max_score - o.min_score) if o.normalize else value

    def _answer(self, question: str) -> str:
        """The judge's reply, however often it takes to get one. Raises JudgeError."""
        pause, tries = 0.5, 0
        while True:
            if self._down is not None:
                raise self._down
            try:
                reply = self._ask(question)
            except _Later as later:
                tries += 1
                wait = later.wait if later.wait is not None else pause * (0.5 + random.random())
                if tries > self._options.max_retries:
                    raise self._gave_up(later, f"after {tries} tries") from later
                if wait > _MAX_WAIT_S or time.monotonic() + wait > self._deadline:
                    raise self._gave_up(later, f"and there is no time to wait {wait:.0f} s") from later
                time.sleep(wait)
                pause = min(pause * 2, _MAX_WAIT_S)
                continue
            with self._lock:
                self._in_a_row = 0
            return reply

    def _gave_up(self, later: _Later, why: str) -> JudgeError:
        """Once as many in a row as are asked at a time had no answer, the rest are not asked."""
        error = (Down if later.down else JudgeError)(f"judge {later} ({why})")
        with self._lock:
            self._in_a_row += later.down
            if self._in_a_row >= self._options.max_concurrency:
                self._down = error
        return error

    def _ask(self, question: str) -> str:
        o = self._options
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise JudgeError(f"judge was not asked: kwargs.timeout_s={o.timeout_s:g} was up")
        body = {
            "model": o.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": o.temperature,
            "max_tokens": o.max_tokens,
            **(o.extra_body or {}),
        }
        headers = {"Content-Type": "application/json"}
        if o.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ[o.api_key_env]}"
        url = f"{str(o.base_url).rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=min(o.request_timeout_s, left)) as response:
                return _content(response.read(_MAX_REPLY))
        except urllib.error.HTTPError as error:
            said = f"answered {error.code} {error.reason}"
            if error.code in _AGAIN:
                raise _Later(said, _retry_after(error.headers.get("Retry-After")), down=False) from error
            raise JudgeError(f"judge {said}: {_said(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Later(
                f"at {_host(url)} does not answer: {reason or type(error).__name__}", None, down=True
            ) from error


class _Later(Exception):
    """Worth trying again, `wait` seconds later if the judge said when."""

    def __init__(self, what: str, wait: float | None, *, down: bool) -> None:
        super().__init__(what)
        self.wait = wait
        self.down = down


def _content(body: bytes) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise JudgeError(f"judge's reply is no chat completion: {body[:200]!r}") from error
    if not isinstance(content, str):
        raise JudgeError("judge's reply has no text")
    return content


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(300).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or a date (RFC 9110, 10.2.3)."""
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
    """Names in braces that the row has; other braces stay, as in JSON or LaTeX."""
    return re.sub(r"\{(\w+)\}", lambda found: str(row.get(found[1], found[0])), template)


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message.get('role', '')}: {text_of([message])}" for message in prompt)


def _check(**options: Any) -> None:
    o = _Options(**options)
    if not o.base_url or not o.model:
        raise BadOption("needs kwargs.base_url (such as http://localhost:8000/v1) and kwargs.model")
    if not o.base_url.startswith(("http://", "https://")):
        raise BadOption(f"base_url={o.base_url} is no address: it begins with http:// or https://")
    if "{completion}" not in o.template:
        raise BadOption("template has no {completion}, so the judge would not see it")
    try:
        groups = re.compile(o.score_pattern).groups
    except re.error as error:
        raise BadOption(f"score_pattern is no regular expression: {error}") from error
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
