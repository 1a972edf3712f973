"""Tools from plain functions: called, answered, and every way in which they go wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hone.errors import ConfigError
from tests.helpers.env_helpers import TOOLS, here
from tests.unit.rollout.environments.conftest import Play, asking

SHARED = {"tools": TOOLS}


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def once(text: str):
    """Say this first, and `done` to whatever comes back."""
    return lambda id, before: "done" if "<|im_start|>tool" in before else text


def told(played: Any) -> list[str]:
    return [m["content"] for m in played.rollout.messages if m["role"] == "tool"]


def test_a_tool_is_called_and_its_result_told(play: Play) -> None:
    [[played]] = play(SHARED, once(call("add", a=2, b=3)), [asking("2 + 3?")])
    rollout = played.rollout
    assert told(played) == ["5"]
    assert rollout.completion.finish == "stop"
    assert rollout.messages[-1] == {"role": "assistant", "content": "done"}
    assert rollout.messages[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 2, "b": 3}}
    assert rollout.stats["turns"] == 2
    assert (rollout.stats["tool_calls"], rollout.stats["tool_failures"]) == (1, 0)


def test_several_calls_of_one_message_are_answered_in_order(play: Play) -> None:
    said = call("later", seconds=0.2) + call("add", a=1, b=1) + call("later", seconds=0.1)
    [[played]] = play(SHARED, once(said), [asking("?")])
    assert told(played) == ["waited 0.2", "2", "waited 0.1"]
    assert 0.2 <= played.rollout.stats["env_seconds"] < 1.0


def test_a_thought_calls_nothing_and_a_broken_call_takes_no_other_with_it(play: Play) -> None:
    thought = f"<think>Shall I {call('fail', why='no')}?</think>"
    [[played]] = play(SHARED, once(thought + call("add", a=1, b=1)), [asking("?")])
    assert told(played) == ["2"]
    [[played]] = play(SHARED, once(thought + "It is 2."), [asking("?")])
    assert (told(played), played.rollout.stats["tool_calls"]) == ([], 0)
    said = call("add", a=1, b=1) + "<tool_call>{'name'}</tool_call>" + call("add", a=2, b=2)
    [[played]] = play(SHARED, once(said), [asking("?")])
    first, broken, last = told(played)
    assert (first, last, "is not JSON" in broken) == ("2", "4", True)
    assert (played.rollout.stats["tool_calls"], played.rollout.stats["tool_failures"]) == (3, 1)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (call("fail", why="too bad"), "{'error': 'too bad'}"),
        (call("divide", a=1), "{'error': 'Tool divide not found.'}"),
        (call("add", a=1), "missing 1 required positional argument: 'b'"),
        (call("add", a=1, b=2, c=3), "unexpected keyword argument 'c'"),
        ("<tool_call>{'name': 'add'}</tool_call>", "is not JSON"),
        ('<tool_call>{"name": "add"', "has no </tool_call>"),
        ('<tool_call>{"arguments": {}}</tool_call>', "needs a name"),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "are not a JSON object"),
        ("<tool_call>" + "[" * 60 + "</tool_call>", "is not JSON"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model_and_counted(play: Play, said: str, answer: str) -> None:
    [[played]] = play(SHARED, once(said), [asking("?")])
    assert played.rollout.failure is None
    assert len(told(played)) == 1
    assert answer in told(played)[0]
    assert played.rollout.stats["tool_failures"] == 1


@pytest.mark.slow
def test_a_tool_that_never_returns_costs_its_own_sample_one_error(play: Play) -> None:
    def say(id: str, before: str) -> str:
        if "<|im_start|>tool" in before:
            return call("add", a=1, b=1) if before.count("<|im_start|>tool") == 1 else "done"
        return {"a": call("hang", how="busy"), "b": call("die", code=1)}.get(id, call("add", a=2, b=2))

    env = {"tools": TOOLS, "timeout_s": 0.5, "max_observation_chars": 50}
    played = play(env, say, [asking("?", id) for id in "abc"])
    answers = [told(one) for [one] in played]
    assert answers == [
        ["{'error': 'timeout after 0.5 s'}", "2"],
        ["{'error': 'process died'}", "2"],
        ["4", "2"],
    ]
    assert [one.rollout.failure for [one] in played] == [None] * 3
    assert [one.rollout.stats["tool_failures"] for [one] in played] == [1, 1, 0]
    assert [one.rollout.stats["tool_calls"] for [one] in played] == [2, 2, 2]


@pytest.mark.slow
def test_a_huge_result_is_cut_and_counted(play: Play) -> None:
    env = {"tools": TOOLS, "timeout_s": 0.5, "max_observation_chars": 50}
    [[played]] = play(env, once(call("huge", size=10**7)), [asking("?")])
    assert told(played) == ["x" * 50 + " […]"]
    assert played.rollout.stats["cut"] == 1


@pytest.mark.parametrize("kind", ["set", "object", "bytes", "surrogate"])
def test_values_that_json_cannot_hold_become_text(play: Play, kind: str) -> None:
    [[played]] = play(SHARED, once(call("strange", kind=kind)), [asking("?")])
    answers = {"set": "{1}", "object": "<class 'object'>", "bytes": r"b'\xff'", "surrogate": "?"}
    assert told(played) == [answers[kind]]


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"tools": [here("undocumented")]}, "without a usable signature or docstring"),
        (
            {"tools": ["none.py:f"]},
            r"environment 'default': env.tools=none.py:f: there is no file .*/none.py$",
        ),
        ({"path": "none.py:E"}, r"environment 'default' \(none.py:E\): env.path=none.py:E: there is no file"),
        (
            {"path": here("Counter"), "action": here("ad"), "observation": here("add")},
            "env.action=.*mean 'add'",
        ),
        (
            {"shop": {"tools": [here("ad")]}},
            "environment 'shop': env.shop.tools=.*: there is no .* mean 'add'",
        ),
        ({"tools": [here("add"), here("add")]}, "two tools named add"),
        ({"tools": [here("Counter")]}, "is not a function"),
        ({"tools": ["no_such_module.f"]}, "No module named"),
    ],
)
def test_a_wrong_tool_stops_before_anything_runs(play: Play, env: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        play(env, lambda id, before: "", [asking("?")])
