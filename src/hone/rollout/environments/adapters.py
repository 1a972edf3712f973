"""Environment side: adapters that give every kind of environment the methods `reset`, `step`, `tools`, `finish`.

    UserEnvironment   a class with reset(row) and step(message); see base.py
    ToolEnvironment   only functions
    TrlEnvironment    TRL's `environment_factory`: reset(**row), public methods as tools, get_reward()
    VerifiersAdapter  an environment of `verifiers` up to 0.3: setup_state, env_response, a rubric
    OpenEnvAdapter    a client of an OpenEnv server, with functions `action(message)` and `observation(result)`

`environment_factory` chooses by the attributes of the target.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hone.rollout.environments.base import Message
from hone.rollout.environments.session import Tool, usable_tools
from hone.rollout.workers.worker_protocol import Unusable

EnvironmentFactory = Callable[[], Any]
"""Creates the environment of one rollout."""


class ToolEnvironment:
    """Tools without an environment: the rollout ends with the first message without a tool call."""

    step: Any = None
    name = ""
    stateless = True

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self._tools = list(tools)

    def reset(self, row: dict[str, Any], prompt: list[Message]) -> Any:
        return None

    def tools(self) -> list[Tool]:
        return self._tools

    def finish(self, messages: list[Message]) -> Any:
        return None


class UserEnvironment(ToolEnvironment):
    """A user's class with `reset` and `step`."""

    stateless = False

    def __init__(self, environment: Any, tools: Sequence[Tool]) -> None:
        super().__init__([*tools, *getattr(environment, "tools", ())])
        self.environment, self.step = environment, environment.step
        self.name = type(environment).__name__

    def reset(self, row: dict[str, Any], prompt: list[Message]) -> Any:
        return self.environment.reset(row)

    def finish(self, messages: list[Message]) -> Any:
        return getattr(self.environment, "get_reward", lambda: None)()


class TrlEnvironment(UserEnvironment):
    """TRL's environments: public methods except `reset` and `get_reward` are tools."""

    def __init__(self, environment: Any, tools: Sequence[Tool]) -> None:
        # Names from the class: reading attributes of the instance would run its properties.
        names = [name for name, _ in inspect.getmembers(type(environment), inspect.isfunction)]
        public = [name for name in names if not name.startswith("_") and name not in ("reset", "get_reward")]
        ToolEnvironment.__init__(self, [*tools, *(getattr(environment, name) for name in public)])
        self.environment, self.name = environment, type(environment).__name__

    def reset(self, row: dict[str, Any], prompt: list[Message]) -> Any:
        return self.environment.reset(**{**row, "prompt": prompt})


class OpenEnvAdapter(ToolEnvironment):
    """A client of an OpenEnv server: `reset()` and `step(action)` return a result with observation, reward and done.

    Two functions of the user convert: `action(message)` to an action, and `observation(result)` to text for the model.
    If `action` raises ValueError, its message is the observation, and the server is not called.
    """

    stateless = False

    def __init__(self, client: Any, action: Any, observation: Any) -> None:
        super().__init__()
        self.client = client.sync() if hasattr(client, "sync") else client
        self.action, self.observation = action, observation
        self.name = type(client).__name__
        self.step = self._step

    def reset(self, row: dict[str, Any], prompt: list[Message]) -> Any:
        getattr(self.client, "connect", lambda: None)()
        return self.observation(self.client.reset())

    def _step(self, message: Message) -> Any:
        try:
            action = self.action(message)
        except ValueError as error:
            return str(error), 0.0, False
        result = self.client.step(action)
        return self.observation(result), result.reward, result.done

    def finish(self, messages: list[Message]) -> Any:
        if hasattr(self.client, "close"):
            self.client.close()


def environment_factory(
    found: Any, kwargs: Mapping[str, Any], tools: Sequence[Any], openenv: tuple[Any, Any] | None
) -> EnvironmentFactory:
    """A function that creates the environment of one rollout. Raises Unusable for an unusable target."""
    functions = usable_tools(tools)
    if found is None:
        return lambda: ToolEnvironment(functions)
    if not callable(found):
        raise Unusable(f"is a {type(found).__name__}; expected a class or a function that creates one")
    if openenv is not None:
        return lambda: OpenEnvAdapter(found(**kwargs), *openenv)
    first = found(**kwargs)
    if hasattr(first, "env_response") or hasattr(first, "rubric"):
        from hone.rollout.environments.verifiers_adapter import VerifiersAdapter

        return lambda: VerifiersAdapter(first)  # shared: the adapter keeps the rollout's state
    if not callable(getattr(first, "reset", None)):
        raise Unusable(f"creates a {type(first).__name__}, which has no method reset")
    wrap = UserEnvironment if callable(getattr(first, "step", None)) else TrlEnvironment
    usable_tools(wrap(first, functions).tools())
    return lambda: wrap(found(**kwargs), functions)  # `first` belongs to the server's process
