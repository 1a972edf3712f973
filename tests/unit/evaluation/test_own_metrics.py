"""Metrics of users' own: the tutorials' functions in `hone eval` and `hone eval-rm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone import cli
from hone.errors import ConfigError, DataError
from hone.evaluation import own_metrics
from hone.evaluation.evaluate import lists_of
from hone.evaluation.metrics import label_of
from hone.evaluation.reward_model import lists_of as lists_of_pairs
from hone.types import Completion, Group, Prompt, Rollout

TUTORIAL = """
def calculate_preference_accuracy(predictions, labels):
    correct = sum(pred == label for pred, label in zip(predictions, labels))
    return correct / len(predictions)

def calculate_reward_correlation(predicted_rewards, human_ratings):
    import numpy as np
    return np.corrcoef(predicted_rewards, human_ratings)[0, 1]

def by_column(rewards, level, factor=2.0):
    return factor * sum(r for r, l in zip(rewards, level) if l == "hard")

def fails(predictions):
    raise ZeroDivisionError("nothing there")

def needs(nothing_like_it):
    return 0.0

constant = 3
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "custom_metrics.py").write_text(TUTORIAL)
    monkeypatch.chdir(tmp_path)
    return "custom_metrics.py:"


def group(number: int, answer: str, texts: list[str], level: str) -> Group:
    prompt = Prompt(id=str(number), tokens=(1,), content="?", row={"answer": answer, "level": level})
    rollouts = []
    for text in texts:
        rollout = Rollout(prompt, Completion.of_version((1,), (0.0,), "stop", 0), text)
        rollout.rewards = {"answer": float(text.endswith(answer))}
        rollouts.append(rollout)
    return Group(str(number), rollouts)


GROUPS = [group(0, "42", ["it is 42", "it is 41"], "hard"), group(1, "7", ["so 7", "7"], "easy")]


def test_what_a_metric_is_given(code: str) -> None:
    found = lists_of(GROUPS, None)
    assert found["predictions"] == [42, 41, 7, 7]
    assert found["labels"] == [42, 42, 7, 7]
    assert found["rewards"] == [1.0, 0.0, 1.0, 1.0]
    assert found["level"] == ["hard", "hard", "easy", "easy"]
    metrics = own_metrics.load([f"{code}calculate_preference_accuracy", f"{code}by_column"], "eval.metrics")
    own_metrics.check(metrics, list(found), "eval.metrics")
    assert own_metrics.measure(metrics, found) == {"calculate_preference_accuracy": 0.75, "by_column": 2.0}


def test_labels_have_the_form_of_answers() -> None:
    assert label_of("Tom has 3 + 4 = 7\n#### 7.0") == 7
    assert label_of("  New   York ") == "new york"
    assert label_of(None) is None


def test_pairs_of_a_reward_model(code: str) -> None:
    rows = [
        {"chosen": 2.0, "rejected": 0.0},
        {"chosen": 1.0, "rejected": 3.0},
        {"chosen": 4.0, "rejected": 1.0},
    ]
    names = ("calculate_preference_accuracy", "calculate_reward_correlation")
    metrics = own_metrics.load([code + name for name in names], "--metric")
    own_metrics.check(metrics, list(lists_of_pairs([])), "--metric")
    found = own_metrics.measure(metrics, lists_of_pairs(rows))
    # By hand: scores 2 1 4 | 0 3 1, means 11/6; covariance with 1 1 1 | 0 0 0 is 0.25, deviations sqrt(65)/6 and 0.5.
    assert found == pytest.approx({names[0]: 2 / 3, names[1]: 0.25 / (65**0.5 / 6 * 0.5)})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("calculate_accuracy", "there is no 'calculate_accuracy'"),
        ("constant", "is a int: a metric is a function"),
        ("needs", "takes nothing_like_it, which is not there; there are predictions"),
    ],
)
def test_what_is_wrong_stops_at_once(name: str, says: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own_metrics.check(own_metrics.load([code + name], "eval.metrics"), ["predictions"], "eval.metrics")
    assert says in str(caught.value)
    assert "eval.metrics" in str(caught.value)


def test_one_that_fails_is_named(code: str) -> None:
    metrics = own_metrics.load([f"{code}fails"], "eval.metrics")
    with pytest.raises(DataError, match="the metric fails failed: ZeroDivisionError: nothing there"):
        own_metrics.measure(metrics, {"predictions": []})


def test_two_of_one_name_are_refused(code: str) -> None:
    with pytest.raises(ConfigError, match="two functions are called fails"):
        own_metrics.load([f"{code}fails", f"{code}fails"], "eval.metrics")


@pytest.mark.slow
def test_the_commands_report_them(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = f"[{code}calculate_preference_accuracy]"
    words = [f"eval.metrics={metrics}", "data.limit=6", "eval.save_path=out", "generation.max_new_tokens=40"]
    assert cli.main(["eval", *words]) == 0
    report: dict[str, Any] = json.loads(Path("out/report.json").read_text())
    assert report["metrics"]["calculate_preference_accuracy"] == pytest.approx(report["score"])
    assert "calculate_preference_accuracy = " in capsys.readouterr().out
    assert cli.main(["eval", "eval.metrics=[custom_metrics.py:needs]"]) == 2
    assert "takes nothing_like_it" in capsys.readouterr().err
