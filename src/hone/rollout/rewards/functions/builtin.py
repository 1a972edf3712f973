"""The built-in reward functions, by name.

Each has TRL's signature, accepts plain and conversational completions, and takes its options (the `kwargs` of a config
entry) as named arguments with defaults. Its attributes are for the pool: `any_of_columns`, `alone`, `check`, `prepare`,
`seconds_each` (see hone.rollout.rewards.function_signature). `judges` is False for a function that does not decide
whether an answer is correct.
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

_FUNCTIONS: tuple[Callable[..., list[Any]], ...] = (
    answer, code, exact, format, json_schema, judge, length, math, numeric, overlong, regex, repetition, reward_model,
)  # fmt: skip
BUILTIN = {function.__name__: function for function in _FUNCTIONS}
"""Functions that a config entry names without a path."""
