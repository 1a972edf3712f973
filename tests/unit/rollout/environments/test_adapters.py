"""Environments that were written for other libraries, as those have them. Skipped where a library is not there."""

from __future__ import annotations

from typing import Any

import pytest

from hone.rollout.environments.adapters import environment_factory
from hone.rollout.environments.session import Session
from hone.user_code import find
from tests.helpers.env_helpers import here

USER = [{"role": "user", "content": "Say a number."}]


def make_verifiers() -> Any:
    """A game and a tool, as its documentation writes them."""
    import verifiers as vf
    from datasets import Dataset

    data = Dataset.from_list([{"prompt": USER, "answer": "7"}])

    def right(completion: Any, answer: str) -> float:
        return float(completion[-1]["content"] == answer)

    class Game(vf.MultiTurnEnv):
        async def env_response(self, messages: Any, state: Any, **kwargs: Any) -> Any:
            state["tries"] = state.get("tries", 0) + 1
            return [{"role": "user", "content": f"no, try {state['tries']}"}]

        @vf.stop
        async def found(self, state: Any) -> bool:
            steps = state["trajectory"]
            return bool(steps) and steps[-1]["completion"][-1]["content"] == state["answer"]

    return Game(dataset=data, rubric=vf.Rubric(funcs=[right]), max_turns=5)


def make_tool_env() -> Any:
    import verifiers as vf
    from datasets import Dataset

    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: One.
            b: Another.
        """
        return a + b

    def called(completion: Any) -> float:
        return float(any(message["role"] == "tool" for message in completion))

    data = Dataset.from_list([{"prompt": USER, "answer": "7"}])
    return vf.ToolEnv(dataset=data, tools=[add], rubric=vf.Rubric(funcs=[called]), max_turns=5)


def said(text: str, **arguments: int) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": "add", "arguments": arguments}}] if arguments else []
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


def old_verifiers() -> None:
    if not hasattr(pytest.importorskip("verifiers"), "MultiTurnEnv"):
        pytest.skip("verifiers 0.4 and later have only verifiers.v1, which is another interface")


def test_a_game_of_verifiers_is_an_environment() -> None:
    old_verifiers()
    session = Session(environment_factory(make_verifiers, {}, [], None)(), 1000)
    assert session.open({"answer": "7"}, USER) == {"append": None, "messages": []}
    first = session.act(said("3"))
    assert (first["messages"], first["done"]) == ([{"role": "user", "content": "no, try 1"}], False)
    assert session.act(said("7"))["done"]
    assert session.finish([])["reward"] == 1.0
    cut = Session(environment_factory(make_verifiers, {}, [], None)(), 1000)
    cut.open({"answer": "7"}, USER)
    cut.act(said("3"))
    assert cut.finish([said("3"), {"role": "user", "content": "no"}, said("4")])["reward"] == 0.0


def test_tools_of_verifiers_are_run_by_its_environment() -> None:
    old_verifiers()
    kind = environment_factory(make_tool_env, {}, [], None)()
    assert [schema["function"]["name"] for schema in kind.schemas] == ["add"]
    session = Session(kind, 1000)
    session.open({"answer": "7"}, USER)
    answer = session.act(said("", a=3, b=4))
    assert [(m["role"], m["content"]) for m in answer["messages"]] == [("tool", "7")]
    assert answer["counts"]["tool_calls"] == 1
    assert session.act(said("7"))["done"]
    assert session.finish([])["reward"] == 1.0


class Echo:
    """A client as OpenEnv generates them, in this process: what counts is how it is called."""

    def __init__(self, base_url: str = "") -> None:
        self.turns = 0

    def reset(self) -> Any:
        return self._result("ready", None, False)

    def step(self, action: dict[str, str]) -> Any:
        self.turns += 1
        return self._result(action["say"].upper(), 0.5, self.turns == 2)

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _result(text: str, reward: float | None, done: bool) -> Any:
        try:
            from openenv.core.client_types import StepResult
        except ImportError:
            from types import SimpleNamespace as StepResult
        return StepResult(observation=text, reward=reward, done=done)


def to_action(message: dict[str, Any]) -> dict[str, str]:
    if not message["content"]:
        raise ValueError("say something")
    return {"say": message["content"]}


def to_text(result: Any) -> str:
    return f"[{result.observation}]"


def test_a_client_of_openenv_is_an_environment() -> None:
    session = Session(environment_factory(Echo, {"base_url": "http://x"}, [], (to_action, to_text))(), 1000)
    assert session.open({}, USER)["append"] == "[ready]"
    assert session.act(said(""))["messages"] == [{"role": "user", "content": "say something"}]
    assert session.act(said("a"))["messages"] == [{"role": "user", "content": "[A]"}]
    assert session.act(said("b"))["done"]
    assert session.finish([])["reward"] == 1.0


def test_environments_of_trl_are_told_apart() -> None:
    kind = environment_factory(find(here("Trl")), {}, [], None)()
    assert [tool.__name__ for tool in kind.tools()] == ["increment"]
    assert kind.step is None
