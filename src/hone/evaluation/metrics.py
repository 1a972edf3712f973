"""pass@k and cons@k of groups of scored answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from hone.rollout.rewards.numerals import as_number, last_number
from hone.rollout.rewards.text import after_thought, answer_tag, boxed
from hone.types import Group, Rollout


def score(groups: Sequence[Group], metric: str, k: int) -> float:
    """Mean over the groups of `pass@k` or `cons@k`; nan without groups."""
    measure = pass_of if metric == "pass@k" else consensus_at_k
    values = [measure(group.rollouts, k) for group in groups]
    return sum(values) / len(values) if values else math.nan


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right (Chen et al., arXiv 2107.03374 section 2.1)."""
    if samples - correct < k:
        return 1.0
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def consensus_at_k(rollouts: Sequence[Rollout], k: int) -> float:
    """`majority_at_k` of a group's rollouts."""
    return majority_at_k([answer_of(rollout.text) for rollout in rollouts], [*map(is_right, rollouts)], k)


def majority_at_k(answers: Sequence[Hashable | None], right: Sequence[bool], k: int) -> float:
    """How often the most common answer of k samples is right: self-consistency (Wang et al., arXiv 2203.11171).

    The mean over disjoint chunks of k. Ties go to the answer given first; a sample without an answer has no vote, and a
    chunk without any answer is wrong.
    """
    starts = range(0, len(answers) - k + 1, k)
    return sum(_majority_is_right(answers[i : i + k], right[i : i + k]) for i in starts) / len(starts)


def is_right(rollout: Rollout) -> bool:
    """Whether the function that judges answers, or without one the first function, gives a reward of at least 1; False
    for a failed sample."""
    reward = rollout.judgement if rollout.judge != "" else next(iter(rollout.rewards.values()), None)
    return reward is not None and reward >= 1.0


def answer_of(text: str) -> Hashable | None:
    r"""The answer of a completion, in a form to compare: the content of its last `<answer>…</answer>`, else of its last
    `\boxed{…}`, else its last number, thoughts left out. None without an answer."""
    text = after_thought(text)
    given = answer_tag(text)
    if given is None:
        given = boxed(text)
    return last_number(text) if given is None else comparable(given)


def label_of(label: object) -> Hashable | None:
    """The right answer in the form of `answer_of`: what follows the last `####` of a worked solution, else all."""
    return None if label is None else comparable(str(label).rpartition("####")[2])


def comparable(answer: str) -> Hashable | None:
    """A number however it is written, else the text in lower case with single spaces; None for an empty text."""
    number = as_number(answer)
    return number if number is not None else " ".join(answer.casefold().split()) or None


def pass_of(rollouts: Sequence[Rollout], k: int) -> float:
    """`pass_at_k` of a group's rollouts."""
    return pass_at_k(len(rollouts), sum(map(is_right, rollouts)), k)


def _majority_is_right(answers: Sequence[Hashable | None], right: Sequence[bool]) -> bool:
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return False
    winner = votes.most_common(1)[0][0]  # the first seen in a tie
    return right[answers.index(winner)]
