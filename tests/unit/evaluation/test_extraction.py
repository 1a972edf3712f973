"""What is graded of an answer: the strict and the flexible extractor, side by side."""

from __future__ import annotations

import pytest

from hone.errors import ConfigError
from hone.evaluation.extraction import answer_text, extractor_of
from hone.evaluation.suite import Regex, load_suite

FENCED = "Here it is:\n```python\ndef f():\n    return 1\n```\nDone."


@pytest.mark.parametrize(
    ("suite", "chat", "text", "strict", "flexible"),
    [
        ("gsm8k", True, "2 x 6 = 12\n#### 12", "12", "12"),
        ("gsm8k", True, "#### 7\nWait.\n#### $1,500.50", "1,500.50", "1,500.50"),
        ("gsm8k", True, "So she has 12 eggs.", None, "12"),
        ("gsm8k", True, "I do not know.", None, None),
        ("math500", True, r"Thus \boxed{\frac{1}{2}}.", r"\frac{1}{2}", r"\frac{1}{2}"),
        ("math500", True, "The answer is 7.", None, "7"),
        ("math500", True, r"It is \boxed{\frac{1}{2", None, None),
        ("cmath", True, "3+4=7\n答案：7", "7", "7"),
        ("cmath", True, "一共有 36 元", None, "36"),
        ("humaneval", True, FENCED, "def f():\n    return 1", "def f():\n    return 1"),
        ("humaneval", True, "def f():\n    return 1", None, "def f():\n    return 1"),
        ("humaneval", False, "    return 1\n", "    return 1\n", "    return 1\n"),
    ],
)
def test_extractors_of_suites(
    suite: str, chat: bool, text: str, strict: str | None, flexible: str | None
) -> None:
    found = {
        name: extractor_of(given, suite)(text, chat) for name, given in load_suite(suite).extraction.items()
    }
    assert found == {"strict": strict, "flexible": flexible}


def test_a_thought_and_what_follows_a_stop_text_are_not_graded() -> None:
    assert answer_text("<think>1 or 2</think> 3\n\nQuestion: next", ["Question:", "\n\n"]) == " 3"
    assert answer_text("all of it", []) == "all of it"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("boxd", "there is no extractor 'boxd'"),
        (Regex(regex="("), "regex"),
        (Regex(regex="a"), "has no group"),
    ],
)
def test_an_extractor_that_cannot_be_is_refused(given: str | Regex, says: str) -> None:
    with pytest.raises(ConfigError, match="suite own") as caught:
        extractor_of(given, "own")
    assert says in str(caught.value)
