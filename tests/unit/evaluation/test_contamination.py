"""A problem in the training data is found, whatever its punctuation; a shared instruction is not a find."""

from __future__ import annotations

from hone.evaluation.contamination import find_contamination, words_of

LONG = (
    "A farmer sells 14 crates of pears, and each crate holds 20 pears, at 3 coins per pear; what is earned?"
)
OTHER = (
    "On Monday a train leaves the old station with 120 people and 35 of them get off at the very next stop."
)
SHORT = "What is 17 times 23?"


def test_a_problem_that_was_copied_into_a_longer_text_is_found() -> None:
    training = ["unrelated text", f"Solve this: {LONG.upper().replace(',', '')} Thanks!"]
    result = find_contamination([OTHER, LONG], training)
    assert [*result.found] == [1]
    assert result.ngram == 13
    assert result.found[1].startswith("a farmer sells 14 crates")


def test_twelve_common_words_are_not_enough() -> None:
    twelve = " ".join(words_of(LONG)[:12])
    assert find_contamination([OTHER, LONG], [f"{twelve} apples"]).found == {}
    thirteen = " ".join(words_of(LONG)[:13])
    assert [*find_contamination([OTHER, LONG], [thirteen]).found] == [1]


def test_a_short_problem_is_looked_for_as_a_whole() -> None:
    result = find_contamination([SHORT], ["I wonder: what is 17 times 23? 391.", "what is 17"])
    assert [*result.found] == [0]
    assert find_contamination([SHORT], ["what is 17", "times 23"]).found == {}
    assert result.ngram == 8


def test_chinese_characters_are_words() -> None:
    assert words_of("小明有3个苹果") == ["小", "明", "有", "3", "个", "苹", "果"]


def test_a_problem_without_words_is_never_contaminated() -> None:
    assert find_contamination(["", "?!"], ["", "anything"]).found == {}
