"""cons@k and pass@k, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from hone.evaluation.metrics import answer_of, consensus_at_k, pass_at_k, score
from hone.types import Completion, Group, Prompt, Rollout

PROMPT = Prompt(id="p", tokens=(1,), content="?")


def rollouts(*answers: str | None, gold: str = "7") -> list[Rollout]:
    """A sample for each answer; None fails."""
    made = []
    for answer in answers:
        rollout = Rollout(PROMPT, Completion.of_version((2,), (0.0,), "stop", 0), answer or "")
        rollout.rewards = {} if answer is None else {"math": float(answer_of(answer) == answer_of(gold))}
        made.append(rollout)
    return made


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>8</think><answer>7</answer> or 9", 7),
        ("<answer>1/2</answer>", 0.5),
        (r"<think>\boxed{8}</think>It is 7.", 7),
        (r"so \boxed{ 1,000.0 } it is", 1000),
        ("that makes 3, no, 4.", 4),
        ("<answer> The  Moon </answer>", "the moon"),
        ("nothing", None),
        ("<answer></answer>", None),
    ],
)
def test_answers_are_compared_by_what_they_mean(text, answer):
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        (("7", "7", "8"), 1.0),
        (("8", "7", "8"), 0.0),
        (("7", "8"), 1.0),  # a tie: the first seen
        (("8", "7"), 0.0),
        (("8", "7.0", "<answer>7</answer>"), 1.0),  # written differently, the same number
        (("no idea", "none", "7"), 1.0),  # without an answer, without a vote
        (("no idea", "none", "neither"), 0.0),
        ((None, None, "7"), 1.0),
    ],
)
def test_the_commonest_answer_decides(answers, right):
    assert consensus_at_k(rollouts(*answers), len(answers)) == right


def test_mean_over_disjoint_chunks():
    assert consensus_at_k(rollouts("7", "7", "8", "8", "8", "7"), 3) == 0.5
    assert consensus_at_k(rollouts("7", "8", "8", "7"), 1) == 0.5


def test_score_is_the_mean_over_problems():
    groups = [Group("a", rollouts("7", "7")), Group("b", rollouts("8", "7"))]
    assert score(groups, "cons@k", 2) == 0.5
    assert score(groups, "pass@k", 2) == 1.0
    assert score(groups, "pass@k", 1) == 0.75


def test_pass_at_k_is_the_share_of_choices_with_a_right_one():
    assert pass_at_k(4, 1, 2) == pytest.approx(1 - 3 / 6)
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 3, 2) == 1.0
