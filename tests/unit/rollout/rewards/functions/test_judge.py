"""A judge over HTTP: what it is asked, what is read from its reply, and what becomes of a completion without one."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hone.errors import RewardError
from hone.rollout.rewards.functions.builtin import judge
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool


class Judge(ThreadingHTTPServer):
    """Does what the completion says: `Score: 7` is the reply; `status 429 2` fails twice first; `hang` is no answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.tries: dict[str, list[float]] = {}
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked.append({"path": self.path, **body})
            self.server.headers.append(self.headers.get("Authorization"))
            self.server.tries.setdefault(text, []).append(time.monotonic())
            tried = len(self.server.tries[text])
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        words = text.split()
        if words[:1] == ["slow"]:
            time.sleep(0.2)
        if words[:1] == ["hang"]:
            time.sleep(3)
        with self.server.lock:
            self.server.now -= 1
        if words[:1] == ["status"] and tried <= int(words[2]):
            self.send_response(int(words[1]))
            if len(words) > 3:
                self.send_header("Retry-After", words[3])
            self.end_headers()
            self.wfile.write(b"come back later")
            return
        reply = (
            b"<html>"
            if words[:1] == ["html"]
            else json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Judge]:
    with Judge() as judge_:
        thread = threading.Thread(target=judge_.serve_forever, daemon=True)
        thread.start()
        yield judge_
        judge_.shutdown()


def options(server: Judge, **more: Any) -> dict[str, Any]:
    return {"base_url": server.url, "model": "critic", "template": "{completion}", "max_retries": 2, **more}


def test_the_judge_is_asked_with_the_filled_template(server: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    template = 'Task {prompt}, JSON {"x": 1}, gold {answer}, hint {hint}, {unknown}: {completion}'
    prompt = [{"role": "user", "content": "2+2?"}]
    scores = judge(
        [prompt], [[{"role": "assistant", "content": "4 Score: 5"}]], answer=["four"], hint=["even"],
        trainer_state=None, **options(server, template=template, api_key_env="MY_KEY", extra_body={"seed": 1}),
    )  # fmt: skip
    assert scores == [0.5]
    asked = server.asked[0]
    assert asked["messages"][0]["content"] == (
        'Task user: 2+2?, JSON {"x": 1}, gold four, hint even, {unknown}: 4 Score: 5'
    )
    assert (asked["path"], asked["model"], asked["seed"]) == ("/v1/chat/completions", "critic", 1)
    assert server.headers == ["Bearer sk-secret"]


def test_the_score_is_read_from_the_judges_reply(server: Judge) -> None:
    texts = ["Score: 7", "score: 2\nScore: **8.5**", "no number", "Score: 11", "html", "Score: -1"]
    found = judge([""] * 6, texts, **options(server))
    assert found[:2] == [0.7, 0.85]
    said = [str(error) for error in found[2:]]
    assert said[0].startswith("judge gave no score: 'no number'")
    assert said[1] == "judge gave a score out of range: 11 (0 to 10)"
    assert said[2].endswith("is no JSON: <html>")
    assert judge([""], ["Score: -1"], **options(server, min_score=-2.0, max_score=2.0, normalize=False)) == [
        -1.0
    ]


def test_what_a_judge_thinks_is_no_verdict(server: Judge) -> None:
    texts = ["<think>Score: 2</think> Score: 7", "<think>Score: 9, or", "<think>Score: 9</think> well"]
    found = judge([""] * 3, texts, **options(server))
    assert found[0] == 0.7
    assert str(found[1]) == "judge did not finish its thoughts: raise max_tokens"
    assert str(found[2]).startswith("judge gave no score")


def test_busy_is_tried_again_as_the_judge_says(server: Judge) -> None:
    assert judge([""], ["status 429 1 0.3 Score: 6"], **options(server)) == [0.6]
    first, second = server.tries["status 429 1 0.3 Score: 6"]
    assert 0.3 <= second - first < 2
    assert judge([""], ["status 503 2 0 Score: 6"], **options(server)) == [0.6]
    gave_up = judge([""], ["status 429 9 0"], **options(server))
    assert str(gave_up[0]) == "judge answered 429 Too Many Requests (after 3 tries)"
    assert len(server.tries["status 429 9 0"]) == 3
    too_late = judge([""], ["status 429 9 3600"], **options(server))
    assert "no time to wait 3600 s" in str(too_late[0])
    refused = judge([""], ["status 401 9"], **options(server))
    assert str(refused[0]) == "judge answered 401 Unauthorized: come back later"
    assert len(server.tries["status 401 9"]) == 1


def test_no_more_requests_than_max_concurrency_run_at_once(server: Judge) -> None:
    begin = time.monotonic()
    assert judge([""] * 12, ["slow Score: 1"] * 12, **options(server, max_concurrency=4)) == [0.1] * 12
    assert server.most == 4
    assert time.monotonic() - begin < 12 * 0.2


def test_a_judge_without_a_reply_in_time_fails_its_completions(server: Judge) -> None:
    found = judge([""] * 2, ["hang", "Score: 3"], **options(server, request_timeout_s=0.3, max_retries=0))
    assert "does not answer" in str(found[0])
    assert found[1] == 0.3


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_a_judge_that_is_down_stops_the_run_with_the_cause_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    kwargs = {
        "base_url": f"http://127.0.0.1:{free_port()}/v1",
        "model": "m",
        "max_retries": 1,
        "api_key_env": "MY_KEY",
    }
    begin = time.monotonic()
    with (
        RewardPool(resolve_all([{"name": "judge", "kwargs": kwargs}]), num_workers=1) as pool,
        pytest.raises(RewardError) as caught,
    ):
        asyncio.run(pool.score(["p"] * 64, ["c"] * 64, {}))
    said = str(caught.value)
    assert "of 64 completions could not be scored" in said
    assert "reward 'judge': EndpointDown" in said
    assert f"judge at {kwargs['base_url'][:-3]} does not answer: [Errno 111] Connection refused" in said
    assert "sk-secret" not in said
    assert time.monotonic() - begin < 10


def test_failed_samples_within_the_bound_are_counted(server: Judge) -> None:
    entry = {"name": "judge", "kwargs": options(server, max_retries=0)}
    with RewardPool(resolve_all([entry]), num_workers=1) as pool:
        texts = ["Score: 5"] * 19 + ["status 429 9"]
        scored = asyncio.run(pool.score(["p"] * 20, texts, {}))
    assert [one.reward for one in scored[:19]] == [0.5] * 19
    assert scored[19].failure == "reward 'judge': judge answered 429 Too Many Requests (after 1 tries)"
