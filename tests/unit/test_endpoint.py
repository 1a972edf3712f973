"""The client of endpoints: what it retries, what it refuses, how many requests run, and that the key stays out."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from endpoint_server import Answer, completion, serving

from hone.endpoint import Endpoint, EndpointDown, EndpointError, EndpointRefused


def ask(url: str, count: int = 1, **options: Any) -> list[Any]:
    """Replies, or errors, of some requests that are sent at once."""

    async def all_of_them() -> list[Any]:
        endpoint = Endpoint(url, **options)
        async with endpoint.session():
            bodies = [{"model": "m", "number": number} for number in range(count)]
            asked = [endpoint.complete("/chat/completions", body) for body in bodies]
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(all_of_them())


def error_of(answer: Answer, **options: Any) -> EndpointError:
    with serving(lambda path, body, tries: answer) as server:
        [found] = ask(server.url, **{"max_retries": 0, **options})
    assert isinstance(found, EndpointError)
    return found


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_endpoint_is_asked_again(status: int) -> None:
    busy = Answer(b"later", status, {"Retry-After": "0"})
    with serving(lambda path, body, tries: busy if tries <= 2 else completion()) as server:
        [reply] = ask(server.url, max_retries=2)
    assert reply["choices"][0]["text"] == "4"
    assert len(server.requests) == 3


def test_it_waits_as_long_as_the_endpoint_says() -> None:
    busy = Answer(b"", 429, {"Retry-After": "0.3"})
    begin = time.monotonic()
    with serving(lambda path, body, tries: busy if tries == 1 else completion()) as server:
        ask(server.url)
    assert 0.3 <= time.monotonic() - begin < 2


def test_it_gives_up_where_the_wait_would_be_too_long() -> None:
    error = error_of(Answer(b"", 429, {"Retry-After": "3600"}), max_retries=3)
    assert str(error) == "endpoint answered 429 Too Many Requests (and there is no time to wait 3600 s)"


def test_a_lost_connection_is_tried_again() -> None:
    whole = completion()
    cut = Answer(whole.body, cut=10)
    with serving(lambda path, body, tries: cut if tries == 1 else whole) as server:
        [reply] = ask(server.url, max_retries=1)
    assert reply["choices"][0]["text"] == "4"


def test_one_that_hangs_ends_at_the_time_limit() -> None:
    begin = time.monotonic()
    error = error_of(Answer(b"", delay_s=5), request_timeout_s=0.3)
    assert isinstance(error, EndpointDown)
    assert "does not answer: no whole reply within 0.3 s" in str(error)
    assert time.monotonic() - begin < 2


def test_one_that_sends_a_byte_now_and_then_ends_there_too() -> None:
    begin = time.monotonic()
    error = error_of(Answer(completion().body, trickle_s=0.05), request_timeout_s=0.3)
    assert "does not answer: no whole reply within 0.3 s" in str(error)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            Answer({"error": {"message": "no such key"}}, 401),
            EndpointRefused,
            "401 Unauthorized: no such key",
        ),
        (Answer({"detail": "Not Found"}, 404), EndpointRefused, "answered 404 Not Found: Not Found"),
        (Answer({"error": "context too long"}, 400), EndpointError, "400 Bad Request: context too long"),
        (Answer(b"<html>Welcome</html>"), EndpointError, "is no JSON: <html>Welcome</html>"),
        (Answer({"choices": []}), EndpointError, 'reply is no completion: {"choices": []}'),
        (Answer({"choices": [None]}), EndpointError, "reply is no completion"),
        (Answer([1]), EndpointError, "reply is no completion: [1]"),
        (Answer(b""), EndpointError, "is no JSON"),
        (Answer(b"", 307, {"Location": "/elsewhere"}), EndpointError, "answered 307"),
    ],
)
def test_what_will_not_get_better_is_asked_for_once(
    answer: Answer, kind: type[EndpointError], said: str
) -> None:
    error = error_of(answer, max_retries=4)
    assert type(error) is kind
    assert said in str(error)


def test_no_more_requests_than_allowed_run_at_once() -> None:
    with serving(lambda path, body, tries: Answer(completion().body, delay_s=0.05)) as server:
        replies = ask(server.url, 12, max_concurrency=4)
    assert all(isinstance(reply, dict) for reply in replies)
    assert server.most == 4


def test_an_endpoint_that_is_gone_is_not_asked_for_every_answer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    begin = time.monotonic()
    errors = ask(url, 200, max_concurrency=4, max_retries=1)
    assert {type(error) for error in errors} == {EndpointDown}
    assert f"endpoint at {url[:-3]} does not answer: [Errno 111] Connection refused" in str(errors[0])
    assert time.monotonic() - begin < 3


def test_the_key_is_sent_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "not-for-eyes")
    refusal = Answer({"error": {"message": "wrong key: not-for-eyes"}}, 401)
    with serving(lambda path, body, tries: refusal) as server:
        [error] = ask(server.url, api_key_env="MY_KEY")
    assert server.keys == ["Bearer not-for-eyes"]
    assert str(error) == "endpoint answered 401 Unauthorized: wrong key: ***"


def models_of(answer: Callable[[str, dict[str, Any], int], Answer]) -> list[str] | None:
    async def found(url: str) -> list[str] | None:
        endpoint = Endpoint(url, max_retries=0)
        async with endpoint.session():
            return await endpoint.models()

    with serving(answer) as server:
        return asyncio.run(found(server.url))


def test_the_names_of_its_models_are_known_where_it_lists_them() -> None:
    assert models_of(lambda *request: Answer({"data": [{"id": "a"}, {"id": "b"}]})) == ["a", "b"]
    assert models_of(lambda *request: Answer(b"", 404)) is None
    with pytest.raises(EndpointError, match="is no list of models"):
        models_of(lambda *request: Answer({"object": "list"}))
