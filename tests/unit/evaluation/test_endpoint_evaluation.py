"""`hone eval` of a model at an endpoint: what is sent, what is counted, and what is said where nothing is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Answer, completion, serving

from hone import evaluation
from hone.cli import main
from hone.config import load
from hone.errors import ConfigError, DataError, GeneratorError, RewardError
from tests.helpers.suite_rows import write_suite

MODELS = Answer({"data": [{"id": "big-model"}, {"id": "other"}]})


def rows(folder: Path, count: int = 4) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(count))
    )
    return path


def settings(url: str, data: Path, *more: str) -> list[str]:
    return [
        "generation.backend=openai",
        f"generation.openai_cfg.base_url={url}",
        "generation.openai_cfg.max_retries=0",
        "generation.model_name=big-model",
        f"data.dataset_name={data}",
        "rewards.functions=[{name: numeric}]",
        *more,
    ]


def evaluate(url: str, data: Path, *more: str) -> dict[str, Any]:
    return evaluation.main(load("eval", None, settings(url, data, *more)))


def sums(path: str, body: dict[str, Any], tries: int) -> Answer:
    if path == "/models":
        return MODELS
    question = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return completion(str(int(question.split()[0]) + 1))


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_chat_model_is_evaluated_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Add.")
    system = f"data.system_prompt_file={tmp_path}/system.txt"
    with serving(sums) as server:
        report = evaluate(server.url, rows(tmp_path), f"eval.save_path={tmp_path}", system)
    assert (report["score"], report["failed"], report["mean_completion_length"]) == (1.0, 0, 3.0)
    assert report["endpoint"] == {"api": "chat", "models": ["served-1"]}
    path, body = sorted(server.requests[1:], key=str)[0]
    assert path == "/chat/completions"
    assert body == {
        "model": "big-model",
        "temperature": 0.0,
        "messages": [{"role": "system", "content": "Add."}, {"role": "user", "content": "0 + 1?"}],
    }
    assert [one["num_tokens"] for one in samples(tmp_path)] == [3] * 4
    assert [one["logprob"] for one in samples(tmp_path)] == [None] * 4


def test_a_base_model_gets_text(tmp_path: Path) -> None:
    with serving(sums) as server:
        report = evaluate(server.url, rows(tmp_path), "generation.openai_cfg.api=text")
    assert report["score"] == 1.0
    assert sorted(body["prompt"] for path, body in server.requests if path == "/completions")[0] == "0 + 1?\n"


def test_tokens_go_in_and_out_where_the_endpoint_gives_them(tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any], tries: int) -> Answer:
        logprobs = {"token_logprobs": [-0.5, -0.25], "tokens": ["a", "b"]}
        return MODELS if path == "/models" else completion("?", token_ids=[20, 21], logprobs=logprobs)

    more = ["generation.openai_cfg.api=tokens", "generation.openai_cfg.model=big-model"]
    with serving(answer) as server:
        evaluate(server.url, rows(tmp_path), *more, "generation.model_name=hone/tiny-sft",
                 f"eval.save_path={tmp_path}")  # fmt: skip
    asked = [body for path, body in server.requests if path == "/completions"]
    assert all(isinstance(token, int) for body in asked for token in body["prompt"])
    assert {(body["return_token_ids"], body["logprobs"]) for body in asked} == {(True, 0)}
    assert [(one["num_tokens"], one["logprob"]) for one in samples(tmp_path)] == [(2, -0.375)] * 4
    assert samples(tmp_path)[0]["completion"] != "?"  # the tokens' text by this model's tokenizer


def test_an_endpoint_without_token_ids_is_refused_for_tokens(tmp_path: Path) -> None:
    more = ["generation.openai_cfg.api=tokens", "generation.openai_cfg.model=big-model"]
    with (
        serving(lambda path, body, tries: MODELS if path == "/models" else completion()) as server,
        pytest.raises(GeneratorError, match="gave no token ids"),
    ):
        evaluate(server.url, rows(tmp_path), *more, "generation.model_name=hone/tiny-sft")


def test_a_length_that_is_not_known_is_not_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(path: str, body: dict[str, Any], tries: int) -> Answer:
        found = sums(path, body, tries)
        return found if path == "/models" else Answer({**found.body, "usage": None})

    with serving(answer) as server:
        report = evaluate(server.url, rows(tmp_path), f"eval.save_path={tmp_path}")
    assert report["mean_completion_length"] is None
    assert {one["num_tokens"] for one in samples(tmp_path)} == {None}
    capsys.readouterr()
    assert main(["show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "reward 1" in shown
    assert "tokens" not in shown


def test_an_answer_that_does_not_come_is_a_failure_with_its_cause(tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any], tries: int) -> Answer:
        if "'2 +" in str(body):
            return Answer({"error": {"message": "the context is too long"}}, 400)
        return completion("", "content_filter") if "'3 +" in str(body) else sums(path, body, tries)

    with serving(answer) as server:
        report = evaluate(server.url, rows(tmp_path, 20), f"eval.save_path={tmp_path}")
    assert (report["failed"], report["score"]) == (2, 0.9)
    failures = [one["failure"] for one in samples(tmp_path) if one["failure"]]
    assert failures == [
        "endpoint answered 400 Bad Request: the context is too long",
        "endpoint ended a completion by content_filter",
    ]


def test_too_many_failures_stop_the_evaluation(tmp_path: Path) -> None:
    with (
        serving(lambda path, *rest: MODELS if path == "/models" else Answer(b"<html>", 200)) as server,
        pytest.raises(RewardError, match=r"at least 4 of 4 answers were not given(.|\n)*is no JSON: <html>"),
    ):
        evaluate(server.url, rows(tmp_path))


def test_several_answers_have_seeds_of_their_own_and_extra_fields(tmp_path: Path) -> None:
    more = ["eval.num_tests_per_prompt=3", "generation.temperature=0.7", "generation.max_new_tokens=64"]
    extra = "generation.openai_cfg.extra_body={top_k: 5, max_tokens: null, max_completion_tokens: 64}"
    with serving(sums) as server:
        evaluate(server.url, rows(tmp_path), *more, extra)
    bodies = [body for path, body in server.requests if path != "/models"]
    assert len({body["seed"] for body in bodies}) == 12
    assert {(body["top_k"], body["max_completion_tokens"], body.get("max_tokens")) for body in bodies} == {
        (5, 64, None)
    }


def test_another_model_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with serving(sums) as server, pytest.raises(GeneratorError, match=r"no such model; it has big-model …"):
        evaluate(server.url, tmp_path / "absent.jsonl", "generation.model_name=big-modle")


def test_a_key_that_is_refused_names_the_setting(tmp_path: Path) -> None:
    refusal = Answer({"error": {"message": "who are you"}}, 401)
    with (
        serving(lambda *request: refusal) as server,
        pytest.raises(GeneratorError, match=r"who are you \(generation\.openai_cfg\.api_key_env=null\)"),
    ):
        evaluate(server.url, rows(tmp_path))


def test_functions_that_read_tokens_are_refused_for_text(tmp_path: Path) -> None:
    with serving(sums) as server, pytest.raises(RewardError, match="takes completion_ids"):
        evaluate(server.url, rows(tmp_path), "rewards.functions=[{name: length}]")
    assert [path for path, _ in server.requests] == ["/models"]


@pytest.mark.parametrize(
    ("row", "api", "said"),
    [
        ({"prompt": [{"role": "user", "content": "?"}], "answer": "1"}, "text", "the prompt has messages"),
        ({"prompt": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "A"}], "answer": "1"},
         "chat", "a chat begins anew"),
    ],
)  # fmt: skip
def test_rows_that_the_api_cannot_take_are_named(
    tmp_path: Path, row: dict[str, Any], api: str, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with serving(sums) as server, pytest.raises(DataError, match=said):
        evaluate(server.url, path, f"generation.openai_cfg.api={api}")


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("eval", [], "needs the endpoint's URL"),
        ("eval", ["generation.openai_cfg.base_url=localhost:8000"], "needs the endpoint's URL"),
        ("eval", ["generation.openai_cfg.base_url=http://me:word@h/v1"], "without a user or a key in it"),
        ("eval", ["generation.openai_cfg.api_key_env=ABSENT_KEY"], "ABSENT_KEY is the name of an environment"),
        ("eval", ["generation.openai_cfg.extra_body={n: 4}"], "Hone sets this field"),
        ("eval", ["generation.top_k=4"], "generation.top_k is not in OpenAI's API"),
        ("eval", ["env.path=tools.py:Env"], "an environment needs the tokens"),
        *((kind, [], "cannot be given the learner's weights") for kind in ("grpo", "ppo", "online-dpo", "distill")),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(command: Any, given: list[str], said: str) -> None:
    head = "generation" if command == "eval" else "policy.generation"
    with pytest.raises(ConfigError, match=said):
        load(command, None, [f"{head}.backend=openai", *given])


def test_a_key_in_place_of_its_variables_name_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        load("eval", None, ["generation.backend=openai", "generation.openai_cfg.api_key_env=sk_real_key"])
    assert "real" not in str(caught.value)


def test_the_plan_asks_the_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(sums) as server:
        assert main(["plan", "eval", *settings(server.url, rows(tmp_path))]) == 0
        assert main(["plan", "eval", *settings(server.url, rows(tmp_path), "generation.model_name=x")]) == 1
    said = capsys.readouterr()
    assert f"model       big-model at {server.url}" in said.out
    assert "generation: the endpoint (chat), 32 requests at a time" in said.out
    assert "as many tokens as the endpoint gives" in said.out
    assert "has no such model" in said.err


def suite_settings(url: str, folder: Path, name: str, *more: str) -> list[str]:
    words = settings(url, folder, *more)[: -2 - len(more)]
    return [
        *words,
        f"suite={name}",
        f"suite_data.{name}={write_suite(folder, name)}",
        f"save_path={folder / 'out'}",
        *more,
    ]


def test_a_suite_is_asked_of_an_endpoint(tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any], tries: int) -> Answer:
        if path == "/models":
            return MODELS
        return completion("#### 12") if "hen" in body["messages"][-1]["content"] else Answer({}, status=500)

    with serving(answer) as server:
        words = suite_settings(server.url, tmp_path, "gsm8k", "rewards.max_failure_fraction=0.5")
        report = evaluation.main(load("eval", None, words))["suites"]["gsm8k"]
    assert (report["score"], report["failed"], report["backend"]) == (0.5, 1, "openai")


def test_an_endpoint_has_no_log_likelihoods(tmp_path: Path) -> None:
    with serving(sums) as server, pytest.raises(ConfigError, match="suite mmlu compares log-likelihoods"):
        evaluation.main(load("eval", None, suite_settings(server.url, tmp_path, "mmlu")))
