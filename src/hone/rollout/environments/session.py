"""Environment side: one rollout's environment, with three calls: open, act, finish.

Tool calls run here. If a tool raises, does not exist or is called with wrong arguments, the model receives the error,
as `{'error': …}`; other exceptions fail the rollout. Replies are JSON values.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hone.rollout.environments.base import Message
from hone.rollout.workers.worker_protocol import Unusable

Tool = Callable[..., Any]
_MAX_ERROR = 2000  # characters of an exception in a message to the model


class Defect(Exception):
    """The environment returned something other than an observation, reward or prompt."""


class Session:
    """One rollout. `environment` is an adapter (see adapters.py)."""

    def __init__(self, environment: Any, limit: int) -> None:
        """`limit`: characters of one observation or tool result; longer ones are truncated."""
        self.environment, self.limit = environment, limit
        self.tools: dict[str, Tool] = {}
        self.reward: float | None = None
        self.counts = {"tool_calls": 0, "tool_failures": 0, "cut": 0}
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, row: Mapping[str, Any], prompt: list[Message]) -> dict[str, Any]:
        """Begin with a row of the data: {"append": text or None, "messages": [...]}."""
        observed = self._wait(self.environment.reset(dict(row), prompt))
        self.tools = {tool.__name__: tool for tool in self.environment.tools()}
        if isinstance(observed, str):
            return {"append": self._cut(observed), "messages": []}
        return {"append": None, "messages": self._messages(observed)}

    def act(self, message: Message) -> dict[str, Any]:
        """Answer the model's message: {"messages": [...], "done": bool, "counts": {...}}. Without a `step`, a message
        without calls ends the rollout."""
        self.counts = dict.fromkeys(self.counts, 0)
        messages, done = self._act(message)
        return {"messages": messages, "done": done, "counts": self.counts}

    def _act(self, message: Message) -> tuple[list[Message], bool]:
        calls = message.get("tool_calls") or []
        if calls and not getattr(self.environment, "calls_itself", False):
            return self._run(calls), False
        if self.environment.step is None:
            return [], True
        self.counts["tool_calls"] += len(calls)
        observation, reward, done = _reply(self._wait(self.environment.step(message)))
        if reward is not None:
            self.reward = (self.reward or 0.0) + _number(reward)
        return self._messages(observation), bool(done)

    def finish(self, messages: list[Message]) -> dict[str, Any]:
        """The rollout has ended: {"reward": number or None}. `messages` followed the prompt."""
        final = self._wait(self.environment.finish(messages))
        if final is not None:
            self.reward = (self.reward or 0.0) + _number(final)
        return {"reward": self.reward}

    def _run(self, calls: Sequence[Mapping[str, Any]]) -> list[Message]:
        """The results of all calls of one message, in order; async tools run concurrently."""
        results: list[Any] = []
        for call in calls:
            self.counts["tool_calls"] += 1
            try:
                results.append(self._begin(call))
            except (Exception, SystemExit) as error:  # the model receives it as the tool's result
                results.append(self._failed(error))
        waiting = [i for i, result in enumerate(results) if inspect.isawaitable(result)]
        if waiting:
            for i, found in zip(waiting, self._wait(_gather([results[i] for i in waiting])), strict=True):
                if isinstance(found, BaseException) and not isinstance(found, Exception):
                    raise found
                results[i] = self._failed(found) if isinstance(found, Exception) else found
        return [self._result(call, result) for call, result in zip(calls, results, strict=True)]

    def _begin(self, call: Mapping[str, Any]) -> Any:
        if call.get("error"):
            raise ValueError(call["error"])
        function = call["function"]
        tool = self.tools.get(function["name"])
        if tool is None:
            raise ValueError(f"Tool {function['name']} not found.")
        return tool(**function["arguments"])

    def _failed(self, error: Exception | SystemExit) -> dict[str, str]:
        self.counts["tool_failures"] += 1
        return {"error": str(error)[:_MAX_ERROR] or type(error).__name__}

    def _result(self, call: Mapping[str, Any], result: Any) -> Message:
        """The message with a tool's result: as text, as in TRL; texts of content blocks are joined."""
        if isinstance(result, list) and result and all(isinstance(p, dict) and "type" in p for p in result):
            result = "".join(str(part.get("text", "")) for part in result)
        message = {"role": "tool", "name": call["function"]["name"], "content": self._cut(_text(result))}
        if call.get("id"):
            message["tool_call_id"] = call["id"]
        return message

    def _messages(self, observation: Any) -> list[Message]:
        if observation is None:
            return []
        if isinstance(observation, str):
            observation = [{"role": "user", "content": observation}]
        if isinstance(observation, Mapping):
            observation = [observation]
        if not isinstance(observation, list | tuple):
            raise Defect(f"answered with a {type(observation).__name__}; expected text or messages")
        messages = []
        for message in observation:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise Defect(f"answered with {message!r:.100}, which is not a message with role and content")
            content = self._cut(_text(message.get("content") or ""))
            more = {key: str(message[key]) for key in ("name", "tool_call_id") if message.get(key)}
            messages.append({"role": message["role"], "content": content, **more})
        return messages

    def _cut(self, text: str) -> str:
        if len(text) <= self.limit:
            return text
        self.counts["cut"] += 1
        return text[: self.limit] + " […]"

    def _wait(self, found: Any) -> Any:
        """The value; an awaitable is awaited, on one event loop for the whole rollout."""
        if not inspect.isawaitable(found):
            return found
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(_awaited(found))


async def _awaited(found: Any) -> Any:
    return await found


async def _gather(found: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*found, return_exceptions=True)


def _text(content: Any) -> str:
    """Text that JSON and a tokenizer accept (no lone surrogates)."""
    return str(content).encode("utf-8", "replace").decode()


def _reply(reply: Any) -> tuple[Any, Any, bool]:
    if isinstance(reply, Mapping):
        return reply.get("observation"), reply.get("reward"), bool(reply.get("done", False))
    if isinstance(reply, tuple) and len(reply) == 3:
        return reply
    raise Defect(f"step returned {reply!r:.100}; expected (observation, reward, done)")


def _number(reward: Any) -> float:
    if isinstance(reward, str | bytes) or not hasattr(reward, "__float__"):
        raise Defect(f"gave {reward!r:.100} as a reward; expected a number")
    if not math.isfinite(number := float(reward)):
        raise Defect(f"gave {number} as a reward")
    return number


def usable_tools(tools: Sequence[Any]) -> list[Tool]:
    """The tools. Raises Unusable unless each is a function with a unique name."""
    names: set[str] = set()
    for tool in tools:
        if isinstance(tool, type) or not callable(tool) or not hasattr(tool, "__name__"):
            raise Unusable(f"has {tool!r:.80} among its tools, which is not a function")
        if tool.__name__ in names:
            raise Unusable(f"has two tools named {tool.__name__}")
        names.add(tool.__name__)
    return list(tools)
