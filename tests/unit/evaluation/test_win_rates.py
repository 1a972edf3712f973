"""Whose answers are preferred: both orders, ties, lengths, judges that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint_server import Answer, completion, serving

from hone import cli
from hone.endpoint import Endpoint
from hone.errors import ConfigError, GeneratorError
from hone.evaluation.pairwise_judge import TEMPLATE, Pair, ask_judge, ask_reward_model
from hone.evaluation.win_rate import length_controlled, win_rate
from tests.unit.evaluation.test_comparison import write

PAIRS = [
    Pair("p:0", "Name a river.", "good", "bad"),
    Pair("p:1", [{"role": "user", "content": "Hi"}], "bad", "good"),
]


def answers_in(body: dict[str, Any]) -> tuple[str, str]:
    text = body["messages"][0]["content"]
    first = text.split("Answer 1:\n")[1].split("\n\nAnswer 2:")[0]
    return first, text.split("Answer 2:\n")[1].split("\n\nExplain")[0]


def prefers_good(path: str, body: dict[str, Any], tries: int) -> Answer:
    first, second = answers_in(body)
    return completion(f"Because.\nVerdict: {'tie' if first == second else 1 if first == 'good' else 2}")


def asked(answer: Any, pairs: list[Pair] = PAIRS, template: str = TEMPLATE) -> Any:
    with serving(answer) as server:
        return ask_judge(pairs, Endpoint(server.url, name="judge", max_retries=0), "m", template)


def test_a_consistent_judge_is_asked_in_both_orders() -> None:
    assert [verdict.preference for verdict in asked(prefers_good)] == [0.0, 1.0]


def test_a_judge_that_always_prefers_the_first_place_prefers_nobody() -> None:
    verdicts = asked(lambda path, body, tries: completion("Verdict: **1**"))
    assert [(verdict.preference, verdict.inconsistent) for verdict in verdicts] == [(0.5, True)] * 2


def test_a_tie_in_one_order_is_half_a_win() -> None:
    def answer(path: str, body: dict[str, Any], tries: int) -> Answer:
        return completion("Verdict: tie" if answers_in(body)[0] == "good" else "Verdict: 2")

    assert [verdict.preference for verdict in asked(answer)] == [0.25, 0.75]


def test_a_pair_without_a_verdict_is_left_out_and_says_why() -> None:
    def answer(path: str, body: dict[str, Any], tries: int) -> Answer:
        return (
            completion("I cannot say.")
            if "river" in body["messages"][0]["content"]
            else prefers_good(path, body, 0)
        )

    first, second = asked(answer)
    assert first.preference is None
    assert "judge gave no verdict" in first.failure
    assert second.preference == 1.0
    found = win_rate([first.preference, second.preference], [(4, 3), (3, 4)])
    assert (found.failed, found.rate.problems) == (1, 1)


def test_a_judge_that_is_down_is_an_error() -> None:
    with pytest.raises(GeneratorError, match="no verdict on any of 2 pairs"):
        asked(lambda path, body, tries: Answer({}, status=503))
    with pytest.raises(GeneratorError, match="--judge_key_env"):
        asked(lambda path, body, tries: Answer({}, status=401))


def test_a_template_that_hides_an_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no \{second\}"):
        asked(prefers_good, template="{prompt} {first}")


def test_braces_in_an_answer_are_text() -> None:
    pair = Pair("p:0", "x", "{second}", "good")
    assert asked(prefers_good, [pair])[0].preference == 1.0


def test_a_reward_model_prefers_the_higher_score() -> None:
    class Longest:
        def score(self, prompts: Any, completions: Any) -> list[float]:
            return [float(len(c if isinstance(c, str) else c[0]["content"])) for c in completions]

    assert [verdict.preference for verdict in ask_reward_model(PAIRS, Longest())] == [0.0, 1.0]  # type: ignore[arg-type]


def test_the_win_rate_of_ties_is_a_half() -> None:
    found = win_rate([0.5, 0.5, 1.0, 0.0], [(3, 3)] * 4)
    assert (found.rate.mean, found.ties) == (0.5, 2)
    assert found.length_controlled == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="no pair has a verdict"):
        win_rate([None], [(1, 1)])


def test_a_judge_that_likes_length_alone_gives_no_length_controlled_win() -> None:
    """B's answers are longer in 80 of 100 pairs, and the longer one wins 9 times of 10."""
    difference_P = np.array([60.0] * 80 + [-60.0] * 20)
    preference_P = np.array([1.0] * 72 + [0.0] * 8 + [1.0] * 2 + [0.0] * 18)
    assert preference_P.mean() == 0.74
    assert length_controlled(preference_P, difference_P) == pytest.approx(0.5, abs=0.02)


def test_a_model_that_always_wins_has_a_finite_estimate() -> None:
    assert 0.9 < length_controlled(np.ones(50), np.linspace(-10, 30, 50)) < 1.0


def test_a_preference_that_is_not_for_length_stays() -> None:
    rng = np.random.default_rng(0)
    difference_P = rng.normal(0, 100, 4000)
    preference_P = (rng.random(4000) < 0.7).astype(float)
    assert length_controlled(preference_P, difference_P) == pytest.approx(0.7, abs=0.03)


def test_both_effects_are_told_apart() -> None:
    """Preferences drawn from sigmoid(0.5 + 1.2 tanh(d / std)), where B is longer on average."""
    rng = np.random.default_rng(1)
    difference_P = rng.normal(80, 100, 8000)
    term_P = np.tanh(difference_P / difference_P.std())
    preference_P = (rng.random(8000) < 1 / (1 + np.exp(-(0.5 + 1.2 * term_P)))).astype(float)
    assert preference_P.mean() > 0.7
    assert length_controlled(preference_P, difference_P) == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.02)


def test_the_command_reports_the_win_rate_and_keeps_every_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name, text in (("old", "bad"), ("new", "good")):
        folder = write(tmp_path / name, [0, 1])
        lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        lines = [line | {"prompt": "Say it.", "completion": text} for line in lines]
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(str(folder))
    with serving(prefers_good) as server:
        options = ["--judge", server.url, "--judge_model", "m", "--out", str(tmp_path / "out")]
        assert cli.main(["eval", "compare", *folders, *options]) == 0
    assert "preferred to old" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "out/comparison.json").read_text())["win_rates"]
    assert (found["win_rate"], found["pairs"], found["failed"]) == (1.0, 2, 0)
    kept = [json.loads(line) for line in Path(found["file"]).read_text().splitlines()]
    assert [(line["a"], line["b"], line["preference"]) for line in kept] == [("bad", "good", 1.0)] * 2
    assert all(len(line["replies"]) == 2 for line in kept)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--judge", "localhost:8000", "--judge_model", "m"], "takes the URL"),
        (["--judge", "http://localhost:1/v1"], "--judge_model"),
        (
            ["--judge", "http://localhost:1/v1", "--judge_model", "m", "--reward_model", "x"],
            "give one of them",
        ),
        (["--judge", "http://a:1/v1", "--judge_model", "m", "--judge_key_env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--judge", "http://a:1/v1", "--judge_model", "m", "--judge_template", "none.txt"], "none.txt"),
    ],
)
def test_what_is_wrong_about_a_judge_stops_at_once(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", "compare", "a", "b", *options]) == 2
    assert says in capsys.readouterr().err
