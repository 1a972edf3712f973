"""A small HTTP server with OpenAI's API, whose answers a test writes: also those that no good endpoint gives."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server sends. A `body` that is not bytes is sent as JSON. `cut`: only the first bytes of it."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: int | None = None
    trickle_s: float = 0.0
    """Seconds between one byte of the body and the next."""


def completion(text: str = "4", finish: str = "stop", **more: Any) -> Answer:
    """A good answer in the forms of both APIs."""
    choice = {"message": {"content": text}, "text": text, "finish_reason": finish, **more}
    return Answer({"model": "served-1", "choices": [choice], "usage": {"completion_tokens": 3}})


class EndpointServer(ThreadingHTTPServer):
    """`answer(path, body, tries)` is called with the number of equal requests so far."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[str, dict[str, Any], int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EndpointServer

    def do_GET(self) -> None:
        self._reply({})

    def do_POST(self) -> None:
        self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _reply(self, body: dict[str, Any]) -> None:
        server, path = self.server, self.path.removeprefix("/v1")
        with server.lock:
            server.requests.append((path, body))
            server.keys.append(self.headers.get("Authorization"))
            tries = server.requests.count((path, body))
            server.now += 1
            server.most = max(server.most, server.now)
        answer = server.answer(path, body, tries)
        time.sleep(answer.delay_s)
        with server.lock:
            server.now -= 1
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not answer.trickle_s:
            self.wfile.write(content[: answer.cut])
        with contextlib.suppress(OSError):  # the client has gone
            for byte in content if answer.trickle_s else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(answer.trickle_s)

    def log_message(self, *arguments: Any) -> None: ...


@contextmanager
def serving(answer: Callable[[str, dict[str, Any], int], Answer]) -> Iterator[EndpointServer]:
    """A server on a free port of this machine."""
    with EndpointServer(answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
