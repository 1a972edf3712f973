"""Environment side: environments of `verifiers` 0.1.11 to 0.3 (MultiTurnEnv, ToolEnv and subclasses).

From version 0.4 on `verifiers` has only its interface `verifiers.v1`, which is not supported.

In `verifiers` the environment calls the model. So its own `rollout` runs here, with a client that forwards each request
and waits for the model's message; the environment handles turns, tools, stop conditions and state. Its rubric scores
each rollout separately: functions over groups get a group of one.

    env.path=my_env.py:load_environment
    data.train.dataset_name=hone.rollout.environments.verifiers_adapter.rows
    data.train.kwargs='{path: "my_env.py:load_environment"}'
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from hone.rollout.environments.base import Message
from hone.rollout.environments.session import Tool
from hone.user_code import find


class VerifiersAdapter:
    """One rollout in an environment of `verifiers`."""

    stateless = False
    calls_itself = True
    """The environment runs the tools itself."""

    def __init__(self, environment: Any) -> None:
        self.environment, self.name = environment, type(environment).__name__
        self.state: Any = None
        self.seen = 0
        self.requests: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.rollout: asyncio.Task[Any] | None = None

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The schemas of the environment's tools, in the form of chat templates."""
        return [{"type": "function", "function": _function(t)} for t in self.environment.tool_defs or []]

    def tools(self) -> list[Tool]:
        """None: the environment runs its tools itself."""
        return []

    async def reset(self, row: dict[str, Any], prompt: list[Message]) -> Any:
        """Start the environment's rollout. Its first request holds the prompt and the messages that it adds."""
        given = {"example_id": 0, **row, "prompt": prompt}
        self.rollout = asyncio.ensure_future(
            self.environment.rollout(given, client=_client(self), model="hone", sampling_args={})
        )
        messages = await self._next()
        if messages is None:
            raise RuntimeError("the rollout ended before the model's first turn")
        self.seen = len(messages)
        return [_plain(message) for message in messages[len(prompt) :]]

    async def step(self, message: Message) -> Any:
        """Forward the model's message; the environment's next messages, or that it is done."""
        await self.replies.put(_response(message))
        messages = await self._next()
        if messages is None:
            return None, None, True
        new, self.seen = messages[self.seen + 1 :], len(messages)
        return [_plain(one) for one in new], None, False

    async def finish(self, messages: list[Message]) -> Any:
        """The rubric's reward. A rollout that reached a limit is scored, too."""
        assert self.rollout is not None
        if not self.rollout.done():
            self.rollout.cancel()
            await asyncio.gather(self.rollout, return_exceptions=True)
            self.state["completion"] = [_typed(message) for message in messages]
        if self.state.get("error") is not None:
            raise self.state["error"]
        await self.environment.rubric.score_group([self.state])
        return self.state["reward"]

    async def _next(self) -> list[Any] | None:
        """The messages of the next request; None when the rollout has ended."""
        assert self.rollout is not None
        request = asyncio.ensure_future(self.requests.get())
        await asyncio.wait([request, self.rollout], return_when=asyncio.FIRST_COMPLETED)
        if request.done():
            return request.result()
        request.cancel()
        self.state = self.rollout.result()
        return None


def _client(adapter: VerifiersAdapter) -> Any:
    """A client of `verifiers` that forwards requests to the adapter."""
    from verifiers.clients.client import Client

    class ForwardingClient(Client):
        async def get_response(self, prompt: Any, model: str, *args: Any, **more: Any) -> Any:
            adapter.state = more["state"]
            await adapter.requests.put(list(prompt))
            return await adapter.replies.get()

        def _unused(self, *given: Any, **more: Any) -> Any:
            raise NotImplementedError

        setup_client = to_native_tool = to_native_prompt = get_native_response = _unused
        raise_from_native_response = from_native_response = close = _unused

    return ForwardingClient(None)


def _response(message: Message) -> Any:
    from verifiers.types import Response, ResponseMessage

    typed = _typed(message)
    reply = ResponseMessage(
        content=typed.content,
        tool_calls=typed.tool_calls,
        finish_reason="tool_calls" if typed.tool_calls else "stop",
        is_truncated=False,
    )
    return Response(id="hone", created=0, model="hone", message=reply)


def _typed(message: Message) -> Any:
    from verifiers.types import AssistantMessage, ToolCall, ToolMessage, UserMessage

    if message["role"] == "assistant":
        calls = [
            ToolCall(
                id=call.get("id") or f"call_{i}",
                name=call["function"]["name"],
                arguments=json.dumps(call["function"]["arguments"]),
            )
            for i, call in enumerate(message.get("tool_calls") or [])
        ]
        return AssistantMessage(content=message.get("content") or "", tool_calls=calls or None)
    if message["role"] == "tool":
        return ToolMessage(tool_call_id=message.get("tool_call_id", "call_0"), content=message["content"])
    return UserMessage(content=message["content"])


def _plain(message: Any) -> Message:
    found = message if isinstance(message, Mapping) else message.model_dump()
    content = found.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return {"role": found["role"], "content": content, "name": found.get("name")}


def _function(tool: Any) -> dict[str, Any]:
    found = tool if isinstance(tool, Mapping) else tool.model_dump()
    return {name: found[name] for name in ("name", "description", "parameters")}


def rows(path: str, split: str = "train", **kwargs: Any) -> list[dict[str, Any]]:
    """The environment's dataset, for `dataset_name`. `path` creates the environment, with `kwargs`."""
    environment = find(path)(**kwargs)
    data = environment.get_dataset() if split == "train" else environment.get_eval_dataset()
    return [dict(row) for row in data]
