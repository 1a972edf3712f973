"""Each of IFEval's instructions, with an answer that follows it and one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from hone.errors import DataError
from hone.evaluation import instructions
from hone.evaluation.instructions import CHECKS, followed, followed_loosely

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["river", "boat"]}, "A Boat on the river.", "A boat."),
    "keywords:frequency": (
        {"keyword": "sun", "frequency": 2, "relation": "at least"},
        "Sun and sun.",
        "Sun and sunny.",
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["bad"]}, "A badge is fine.", "Bad luck."),
    "keywords:letter_frequency": (
        {"letter": "q", "let_frequency": 2, "let_relation": "less than"},
        "A queen.",
        "Queen, quick!",
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"},
        "One. Two!",
        "One. Two! Three?",
    ),
    "length_constraints:number_words": (
        {"num_words": 3, "relation": "at least"},
        "it's three words",
        "only two",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First it rained.\n\n*Then* it stopped.",
        "First it rained.\n\nLater it stopped.",
    ),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        "Dear [name], [place]",
        "Dear [name]",
    ),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Bye.\nP.S. write!", "Bye. See P.S."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        "*a* and **b**",
        "*a* and ** **",
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "Part 1\na\nParts",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<A day>>\nIt rained.", "<< >>\nIt rained."),
    "combination:two_responses": ({}, "one******two", "same******same"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi."}, "Say hi. Hi!", "Hi!"),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So. The END."', "The end. So."),
    "startend:quotation": ({}, '"All of it."', '"A part" of it.'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "NASA and ESA agree",
        "NASA agrees",
    ),
    "punctuation:no_comma": ({}, "no commas here", "one, here"),
    "language:response_language": ({"language": "de"}, "de", "en"),
    "change_case:english_capital": ({}, "EN", "En"),
    "change_case:english_lowercase": ({}, "en", "En"),
}


@pytest.fixture
def languages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of these tests whose language is asked for are its code."""
    monkeypatch.setattr(instructions, "language_of", lambda text: text.lower())


def test_every_instruction_has_a_case() -> None:
    assert CASES.keys() == CHECKS.keys()
    assert len(CHECKS) == 25


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("languages")
def test_an_instruction_is_told_from_its_neglect(name: str) -> None:
    arguments, good, bad = CASES[name]
    assert followed(good, [name], [arguments]) == [True]
    assert followed(bad, [name], [arguments]) == [False]
    assert followed("  ", [name], [arguments]) == [False]


def test_the_loose_reading_leaves_out_an_opening_a_closing_and_asterisks() -> None:
    quoted = ["startend:quotation"]
    text = 'Sure, here it is:\n"A river runs."\nHope that helps!'
    assert followed(text, quoted, [{}]) == [False]
    assert followed_loosely(text, quoted, [{}]) == [True]
    assert followed_loosely('**"A river runs."**', quoted, [{}]) == [True]


def test_an_unknown_instruction_is_an_error() -> None:
    with pytest.raises(DataError, match="there is no instruction 'a:b'"):
        followed("text", ["a:b"], [{}])
