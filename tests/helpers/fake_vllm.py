"""An HTTP server with the routes of vLLM that Hone calls, which answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


class FakeVLLM:
    """`asked` has the (path, body) of every POST; `replies` replace the answers of paths, by (status, JSON).

    It has one model; `label` is the name of its weights, which an update changes. `answer` makes completions.
    """

    def __init__(self, answer: Answer | None = None, *, model: str = "model") -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer = answer or (lambda body: completion(self.label))
        self.label = "default"
        self.replies: dict[str, tuple[int, Any]] = {}
        self.info: dict[str, Any] = {
            "model_config": {
                "max_model_len": 4096,
                "dtype": "torch.float32",
                "logprobs_mode": "raw_logprobs",
            },
            "weight_transfer_config": {"backend": "hone_files"},
            "lora_config": {"max_lora_rank": 16},
            "device_config": {"device": "cpu"},
            "scheduler_config": {"enable_chunked_prefill": False},
        }
        self.models = [{"id": model, "root": model, "parent": None}]
        self.http: ThreadingHTTPServer | None = None
        self.url = ""

    def start(self, port: int = 0) -> None:
        """Listen, on the same port as before if it is given."""
        self.http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def stop(self) -> None:
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()
        self.http = None

    def restart(self) -> None:
        """As a new process at the same URL: with the weights of its model."""
        port = int(self.url.rpartition(":")[2])
        self.stop()
        self.label = "default"
        self.start(port)

    def paths(self) -> list[str]:
        """Of all calls but those for completions."""
        return [path for path, _ in self.asked if "generate" not in path]

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path in self.replies:
            return self.replies[path]
        if path == "/finish_weight_update":
            self.label = body["weight_version"]
        fixed = {
            "/v1/models": {"data": self.models},
            "/server_info": {"vllm_config": self.info},
            "/weight_info": {"weight_version": self.label},
        }
        return self.answer(body) if path == "/inference/v1/generate" else (200, fixed.get(path, {}))

    def _handler(fake) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                is_post = path in ("/inference/v1/generate", "/v1/load_lora_adapter")
                self._send(*(405, {}) if is_post and path not in fake.replies else fake.reply(path, {}))

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(text) if text else {}
                fake.asked.append((self.path, body))
                self._send(*fake.reply(self.path.partition("?")[0], body))

            def _send(self, status: int, reply: Any) -> None:
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def completion(*labels: str, tokens: tuple[int, ...] = (5, 1)) -> tuple[int, dict[str, Any]]:
    """The answer to a request: a completion, each token of the weights of a label (the last one of all that follow)."""
    each = [labels[min(i, len(labels) - 1)] for i in range(len(tokens))]
    spans = [{"version": label, "start": i, "end": i + 1} for i, label in enumerate(each)]
    content = [{"logprob": -0.5 - i} for i in range(len(tokens))]
    choice = {"token_ids": list(tokens), "finish_reason": "stop", "weight_versions": spans}
    return 200, {"choices": [{**choice, "logprobs": {"content": content}}]}


@contextmanager
def running(fake: FakeVLLM) -> Iterator[FakeVLLM]:
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()
