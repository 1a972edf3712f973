"""One vLLM server over HTTP: tokens in and out, and the control of its weights.

Routes are vLLM's own: `/inference/v1/generate` (`--enable-scale-out`), those for reinforcement learning
(`VLLM_SERVER_DEV_MODE=1`) and those of its adapters (`VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from hone.errors import GeneratorError, WorkerLostError

CONNECT_S = 10.0
ANSWER_S = 60.0
"""For a question that needs no generation; the first one after a start waits for imports."""


class VLLMClient:
    """Calls one server. `timeout_s` bounds a single answer; a server that is gone is known at once."""

    def __init__(self, url: str, *, timeout_s: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S)
        self.session_id = uuid.uuid4().hex[:8]
        self.version: int | None = None
        """Of the weights that the server was last given."""

    def label(self, version: int) -> str:
        """The name of a version at the server. No other client gives its weights this name."""
        return f"{self.session_id}:{version}"

    def version_of(self, label: str) -> int:
        """The version of a label. Raises WorkerLostError for weights that this client did not send."""
        session, _, version = label.partition(":")
        if session != self.session_id:
            raise WorkerLostError(
                f"{self.url} sampled from weights that this run did not send ({label}): it was started again, or "
                "another run uses it"
            )
        return int(version)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A connection pool for the calls of one event loop."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        async with httpx2.AsyncClient(
            base_url=self.url, headers=_headers(), timeout=self.timeout, limits=limits, trust_env=False
        ) as session:
            yield session

    async def call(
        self, session: httpx2.AsyncClient, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Any:
        """The answer's JSON. Raises GeneratorError for a call that the server refuses, and WorkerLostError for a server
        that cannot be reached, fails, or does not answer in time; both name the server and the call."""
        try:
            response = await session.request(method, path, json=body)
        except httpx2.HTTPError as error:
            raise _lost(self.url + path, error, self.timeout.read) from error
        return _content(self.url + path, response)

    async def update_weights(self, folder: Path, version: int) -> None:
        """Have the server load a version of hone.engine.weight_files. Running requests wait, and go on."""
        async with self.session() as session:
            await self.call(session, "POST", "/pause?mode=keep")
            await self._start_update(session)
            update = {"update_info": {"folder": str(folder), "version": version}}
            await self.call(session, "POST", "/update_weights", update)
            await self.call(session, "POST", "/finish_weight_update", {"weight_version": self.label(version)})
            await self.call(session, "POST", "/resume")
        self.version = version

    async def sleep(self) -> None:
        """Have the server keep its weights in host memory and give up its cache, until `wake_up`. No request runs."""
        async with self.session() as session:
            await self.call(session, "POST", "/sleep?level=1")

    async def wake_up(self) -> None:
        """End `sleep`."""
        async with self.session() as session:
            await self.call(session, "POST", "/wake_up")

    async def _start_update(self, session: httpx2.AsyncClient) -> None:
        try:
            await self.call(session, "POST", "/start_weight_update")
        except WorkerLostError as error:
            if "already active" not in str(error):
                raise
            # A run was killed in the middle of an update: end it, whatever it has loaded.
            await self.call(session, "POST", "/finish_weight_update", {"weight_version": "incomplete"})
            await self.call(session, "POST", "/start_weight_update")

    async def load_adapter(self, name: str, folder: Path, version: int) -> None:
        """Have the server use the adapter of a PEFT folder from now on, in place of the one of this name."""
        body = {"lora_name": name, "lora_path": str(folder), "load_inplace": True}
        async with self.session() as session:
            await self.call(session, "POST", "/pause?mode=keep")
            await self.call(session, "POST", "/v1/load_lora_adapter", body)
            await self.call(session, "POST", "/update_weight_version", {"new_version": self.label(version)})
            await self.call(session, "POST", "/resume")
        self.version = version


def ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """As `VLLMClient.call`, for a single short question outside of an event loop."""
    return _content(url + path, _request(url, method, path, body))


def has_route(url: str, path: str) -> bool:
    """Whether a server has a route for POST: it refuses another method otherwise than it refuses an unknown path."""
    return _request(url, "GET", path).status_code != httpx2.codes.NOT_FOUND


def _request(url: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
    try:
        return httpx2.request(
            method, url + path, json=body, headers=_headers(), timeout=ANSWER_S, trust_env=False
        )
    except httpx2.HTTPError as error:
        raise _lost(url + path, error, ANSWER_S) from error


def _headers() -> dict[str, str]:
    """With vLLM's own variable for a server that asks for a key."""
    key = os.environ.get("VLLM_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _lost(address: str, error: httpx2.HTTPError, seconds: float | None) -> WorkerLostError:
    if isinstance(error, httpx2.TimeoutException):
        return WorkerLostError(f"{address} gave no answer within {seconds:g} s")
    return WorkerLostError(
        f"{address} cannot be reached ({error or type(error).__name__}): is the server running?"
    )


def _content(address: str, response: httpx2.Response) -> Any:
    """Of an answer. Raises the errors of `VLLMClient.call`."""
    if httpx2.codes.is_server_error(response.status_code):
        raise WorkerLostError(f"{address} failed: {response.status_code} {_reason(response)}")
    if response.status_code != httpx2.codes.OK:
        raise GeneratorError(f"{address} refused: {response.status_code} {_reason(response)}")
    return response.json() if _is_json(response) else response.text


def _reason(response: httpx2.Response) -> str:
    """The message of an error in one of vLLM's two forms, else the beginning of the text."""
    try:
        found = response.json()
    except ValueError:
        return response.text[:300]
    error = found.get("error", found.get("detail", found)) if isinstance(found, dict) else found
    return str(error.get("message", error) if isinstance(error, dict) else error)[:1000]


def _is_json(response: httpx2.Response) -> bool:
    return "json" in response.headers.get("content-type", "") and bool(response.content)
