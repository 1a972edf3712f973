"""The built-in reward functions, by name in `BUILTIN`. They run in reward workers: no torch here.

    answers.py       answer, exact, numeric, math        form.py     format, regex
    json_schema.py   json_schema                         lengths.py  length, overlong, repetition
    code.py          code, against tests                 judge.py    judge, over an OpenAI-compatible endpoint
    model.py         reward_model                        common.py   what several of them share

Each has TRL's signature, reads plain and conversational completions, and takes its options (what a config
entry's `kwargs` may hold) as named arguments with defaults. What the pool must know about one is said by attributes:
`any_of_columns`, `required_options`, `alone`, `check`, `prepare` and `seconds_each` (see
`hone.rollout.rewards.function_loading`);
`judges` is False for one that grades an answer, or looks at its form, and does not say whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hone.rollout.rewards.functions.answers import answer, exact, math, numeric
from hone.rollout.rewards.functions.code import code
from hone.rollout.rewards.functions.format import format, regex
from hone.rollout.rewards.functions.json_schema import json_schema
from hone.rollout.rewards.functions.judge import judge
from hone.rollout.rewards.functions.length import length, overlong, repetition
from hone.rollout.rewards.functions.reward_model import reward_model

BUILTIN: dict[str, Callable[..., list[Any]]] = {
    function.__name__: function
    for function in (
        *(answer, code, exact, format, json_schema, judge, length, math),
        *(numeric, overlong, regex, repetition, reward_model),
    )
}
"""What a config entry may name without a path."""

__all__ = ["BUILTIN", *BUILTIN]
