"""What is wrong is said once, of the key that was typed, and of no key that there is not."""

from __future__ import annotations

from typing import Any

import pytest

from hone.config import load
from hone.errors import ConfigError

WRONG = {
    # neither the branch of a union nor a place in what was made of a text is a part of the key
    "rewards.functions=[{name: math, weight: {a: 1}}]": "rewards.functions.0.weight: 'a' is no step",
    "data.train.weight=x": "data.train.weight=x: expected a number",
    "data.train=[{dataset_name: a, weight: x}]": "data.train.0.weight=x: expected a number",
    "rewards.functions=[3]": "rewards.functions.0=3: expected a mapping",
    "rewards.functions=[{nme: math}]": "unknown key rewards.functions.0.nme: did you mean rewards.functions.0.name?",
}


@pytest.mark.parametrize("text", WRONG)
def test_the_key_is_the_one_that_was_typed(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("grpo", None, [text])
    assert WRONG[text] in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("sft", "policy.model_name"),
        ("eval", "generation.model_name"),
        ("distill", "teacher.model_name"),
        ("dpo", "model"),
    ],
)
def test_what_follows_a_wrong_interpolation_is_not_told(kind: Any, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(kind, None, [f"{key}=${{nope}}"])
    assert str(caught.value) == f"{key}: its value refers to ${{nope}}, but there is no key nope"
