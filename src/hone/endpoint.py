"""A client of endpoints with OpenAI's API: bounded concurrency, retries with back-off, one error for each cause.

endpoint = Endpoint("http://host:8000/v1", api_key_env="MY_KEY", max_concurrency=8)
async with endpoint.session():
    reply = await endpoint.complete("/chat/completions", {"model": …, "messages": […]})
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx2

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
REFUSED = (401, 402, 403, 404, 405)
"""Statuses that every other request would get, too."""
CONNECT_S = 10.0
MAX_WAIT_S = 60.0
MAX_REPLY = 32_000_000  # bytes


class EndpointError(Exception):
    """There is no answer; the message says why."""


class EndpointDown(EndpointError):
    """The endpoint does not respond."""


class EndpointRefused(EndpointError):
    """The endpoint refuses all requests of this kind: the key, the model or the path is wrong."""


class _Retry(Exception):
    """A failure worth a retry, after `wait` seconds where the endpoint says so."""

    def __init__(self, cause: str, wait: float | None, *, down: bool) -> None:
        super().__init__(cause)
        self.wait, self.down = wait, down


class Endpoint:
    """Requests to one endpoint, at most `max_concurrency` at a time.

    `name` is its name in messages. `api_key_env`: the environment variable with the key, which is in no message. 429,
    5xx, timeouts and lost connections are retried `max_retries` times, after `Retry-After` or after pauses that double.
    `request_timeout_s` limits one request, `timeout_s` all of them. After `max_concurrency` requests in a row that had
    no response, the others fail at once.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str = "endpoint",
        api_key_env: str | None = None,
        max_concurrency: int = 8,
        max_retries: int = 4,
        request_timeout_s: float = 60.0,
        timeout_s: float = math.inf,
    ) -> None:
        self.url, self.name = base_url.rstrip("/"), name
        self.max_concurrency, self.max_retries = max_concurrency, max_retries
        self.request_timeout_s, self.timeout_s = request_timeout_s, timeout_s
        self._key = os.environ[api_key_env] if api_key_env is not None else None
        self._end = time.monotonic() + timeout_s
        self._down: EndpointError | None = None
        self._in_a_row = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """A connection pool for the requests of one event loop."""
        import httpx2  # reward workers import this module, and few of them send a request

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx2.Timeout(self.request_timeout_s, connect=min(CONNECT_S, self.request_timeout_s))
        limits = httpx2.Limits(max_connections=self.max_concurrency)
        self._slots = asyncio.Semaphore(self.max_concurrency)
        async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits) as self._client:
            yield

    async def complete(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request for a completion; its first choice is an object. Raises EndpointError."""
        reply = await self.request("POST", path, body)
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise EndpointError(f"{self.name}'s reply is no completion: {self._hidden(json.dumps(reply))}")
        return dict(reply)

    async def models(self) -> list[str] | None:
        """The names of its models; None where it has no such list. Raises EndpointError."""
        try:
            reply = await self.request("GET", "/models")
            return [str(model["id"]) for model in reply["data"]]
        except EndpointRefused as error:
            if "answered 404" in str(error) or "answered 405" in str(error):
                return None
            raise
        except (LookupError, TypeError) as error:
            raise EndpointError(f"{self.name}'s reply at {self.url}/models is no list of models") from error

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The reply's JSON, after retries. Raises EndpointError."""
        async with self._slots:
            pause, tries = 0.5, 0
            while True:
                if self._down is not None:
                    raise self._down
                try:
                    reply = await self._try(method, path, body)
                except _Retry as retry:
                    tries += 1
                    wait = retry.wait if retry.wait is not None else pause * (0.5 + random.random())
                    if tries > self.max_retries:
                        raise self._give_up(retry, f"after {tries} tries") from retry
                    if wait > MAX_WAIT_S or time.monotonic() + wait > self._end:
                        raise self._give_up(retry, f"and there is no time to wait {wait:.0f} s") from retry
                    await asyncio.sleep(wait)
                    pause = min(pause * 2, MAX_WAIT_S)
                else:
                    self._in_a_row = 0
                    return reply

    def _give_up(self, retry: _Retry, why: str) -> EndpointError:
        error = (EndpointDown if retry.down else EndpointError)(f"{self.name} {retry} ({why})")
        self._in_a_row += retry.down
        if self._in_a_row >= self.max_concurrency:
            self._down = error
        return error

    async def _try(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import httpx2

        left = self._end - time.monotonic()
        if left <= 0:
            raise EndpointError(f"{self.name} was not asked: timeout_s={self.timeout_s:g} had passed")
        limit = min(self.request_timeout_s, left)
        try:
            response, content = await asyncio.wait_for(self._send(method, path, body), limit)
        except (asyncio.TimeoutError, httpx2.TimeoutException) as error:
            cause = f"at {self._host} does not answer: no whole reply within {limit:g} s"
            raise _Retry(cause, None, down=True) from error
        except httpx2.HTTPError as error:
            raise _Retry(f"at {self._host} does not answer: {_cause(error)}", None, down=True) from error
        except httpx2.InvalidURL as error:
            raise EndpointRefused(f"{self.name} at {self.url}: this is no URL ({error})") from error
        status = f"answered {response.status_code} {response.reason_phrase}".rstrip()
        if response.status_code in RETRIED:
            raise _Retry(status, _retry_after(response.headers.get("Retry-After")), down=False)
        if not response.is_success:
            kind = EndpointRefused if response.status_code in REFUSED else EndpointError
            raise kind(f"{self.name} {status}: {self._hidden(_reason(content))}")
        try:
            return json.loads(content)
        except ValueError as error:
            raise EndpointError(
                f"{self.name}'s reply at {self._host} is no JSON: {self._hidden(content.decode(errors='replace'))}"
            ) from error

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[httpx2.Response, bytes]:
        content = b""
        async with self._client.stream(method, self.url + path, json=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_REPLY:
                    raise EndpointError(f"{self.name}'s reply is longer than {MAX_REPLY} bytes")
        return response, content

    def _hidden(self, text: str) -> str:
        """The beginning of a text that the endpoint wrote, without the key."""
        return (text.replace(self._key, "***") if self._key else text)[:300]

    @property
    def _host(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _cause(error: BaseException) -> str:
    """The system's message behind a client's error."""
    first, found = error, error
    while (below := found.__cause__ or found.__context__) is not None:
        found = below
    if isinstance(found, OSError) and (found.errno or 0) > 0:
        return f"[Errno {found.errno}] {os.strerror(found.errno or 0)}"
    return str(first) or type(first).__name__


def _reason(content: bytes) -> str:
    """The message of an error in one of its usual forms, else the beginning of the text."""
    text = content.decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        return text
    error = found.get("error", found.get("detail", found)) if isinstance(found, dict) else found
    return str(error.get("message", error) if isinstance(error, dict) else error)


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
