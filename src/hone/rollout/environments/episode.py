"""Multi-turn rollouts: the model and the environment take turns until the environment is done or a limit is reached.

    tokens = prompt | generated | environment's tokens | generated | …

Generated tokens are never re-encoded. `Completion.mask` marks them; the log-probabilities of other tokens are 0. A
rollout ends when its environment is done (`stop`), after `max_turns` turns of the model (`turns`), or when the token
limit of a turn or of the sequence is reached (`length`). The KV cache is not kept between turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hone.data.chat import Encoder
from hone.errors import DataError
from hone.rollout.environments.episode_result import EpisodeResult
from hone.rollout.environments.pool import EnvHandle, EnvironmentPool
from hone.rollout.environments.tool_calls import message_of
from hone.rollout.environments.turn_tokens import TurnTokens
from hone.rollout.generation_batcher import GenerationBatcher, Unbatched
from hone.rollout.prompt_prefix import prefills_of
from hone.rollout.workers.child_process import CallFailed, Raised
from hone.types import Completion, Generator, Message, Prompt, Rollout, Sampling, VersionSpan


@dataclass
class Stream:
    """The tokens after the prompt, with their log-probabilities, mask and weight versions."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    versions: list[VersionSpan] = field(default_factory=list)

    def generated(self, completion: Completion) -> None:
        """Append the model's turn."""
        start = len(self.tokens)
        self.versions += [VersionSpan(v, start + i, start + j) for v, i, j in completion.versions]
        self.tokens += completion.tokens
        self.logprobs += completion.logprobs
        self.mask += [True] * len(completion.tokens)

    def observed(self, tokens: Sequence[int]) -> None:
        """Append the tokens of the environment's messages."""
        self.tokens += tokens
        self.logprobs += [0.0] * len(tokens)
        self.mask += [False] * len(tokens)

    def completion(self, finish: Literal["stop", "length", "turns"]) -> Completion:
        """The finished completion."""
        mask = None if all(self.mask) else tuple(self.mask)
        return Completion(tuple(self.tokens), tuple(self.logprobs), finish, tuple(self.versions), mask)


@dataclass
class EpisodeRunner:
    """Runs rollouts with the environments of a pool."""

    pool: EnvironmentPool
    encoder: Encoder
    max_turns: int
    context: int
    """The maximum number of tokens of a sequence, with its prompt."""
    max_wait_s: float | None = 1.0
    batches: bool = True
    """Whether turns of several rollouts are collected for the generator; false if it does so itself."""
    notices: list[str] = field(default_factory=list)
    """Messages for the user, set by `check`."""

    def __post_init__(self) -> None:
        self._turn_tokens = {
            name: TurnTokens(self.encoder, list(server.described["schemas"]))
            for name, server in self.pool.servers.items()
        }

    def check(self) -> None:
        """Raise ConfigError for a chat template that cannot write the environments' messages."""
        for name, turn_tokens in self._turn_tokens.items():
            described = self.pool.described(name)
            roles = (["tool"] if described["schemas"] else []) + (["user"] if described["steps"] else [])
            self.notices += [text for text in turn_tokens.check(roles) if text not in self.notices]

    async def run(
        self, prompts: Sequence[Prompt], generator: Generator, sampling: Sampling, count: int
    ) -> list[list[EpisodeResult]]:
        """`count` rollouts of each prompt, in order. Raises DataError for a prompt that is not a conversation."""
        kind = GenerationBatcher if self.batches else Unbatched
        async with kind(generator, sampling, self.max_wait_s) as batcher:
            tasks = [
                [
                    asyncio.ensure_future(self._one(replace(prompt, first_completion=c), batcher))
                    for c in range(count)
                ]
                for prompt in prompts
            ]
            every = [task for group in tasks for task in group]
            try:
                await asyncio.gather(*every)
            except BaseException:
                for task in every:
                    task.cancel()
                await asyncio.gather(*every, return_exceptions=True)
                raise
        groups = [[task.result() for task in group] for group in tasks]
        for group in groups:
            _separate_prompts(group)
        return groups

    async def _one(self, prompt: Prompt, batcher: GenerationBatcher) -> EpisodeResult:
        name = self.pool.name_for(prompt.env)
        if name is None:
            async with batcher.participate():
                completion = await batcher.generate(prompt)
            [prefill] = prefills_of([prompt], self.encoder.tokenizer)
            return EpisodeResult(Rollout(prompt, completion, self._text(completion.tokens), prefill=prefill))
        if isinstance(prompt.content, str):
            raise DataError(
                f"prompt {prompt.id} is text, but {self.pool.servers[name].label} answers in a conversation: give "
                "messages, [{role: user, content: …}], in the column prompt"
            )
        async with self.pool.acquire(name) as handle, batcher.participate():
            return await _Episode(self, name, prompt, batcher, handle).run()

    def _text(self, tokens: Sequence[int]) -> str:
        return self.encoder.tokenizer.decode(list(tokens), skip_special_tokens=True)


class _Episode:
    """One running rollout."""

    def __init__(
        self, runner: EpisodeRunner, name: str, prompt: Prompt, batcher: GenerationBatcher, handle: EnvHandle
    ) -> None:
        self.runner, self.name, self.prompt = runner, name, prompt
        self.batcher, self.handle = batcher, handle
        self.turn_tokens = runner._turn_tokens[name]
        self.stream, self.messages = Stream(), list[Message]()
        self.stats = dict.fromkeys(("turns", "tool_calls", "tool_failures", "cut", "env_seconds"), 0.0)

    async def run(self) -> EpisodeResult:
        """Run the rollout to its end."""
        own_name = self.runner.pool.described(self.name)["name"]
        rollout, finish = Rollout(self.prompt, self.stream.completion("stop"), ""), "stop"
        weight = self.handle.server.config.reward_weight
        result = EpisodeResult(rollout, own_name and (self.name or own_name), weight=weight)
        try:
            await self._begin()
            finish = await self._converse()
            result.reward = (await self._call("finish", self.messages))["reward"]
        except CallFailed as failed:
            name = f"environment '{self.handle.server.name}'"
            raised = isinstance(failed, Raised)
            rollout.failure = f"{name} {failed.cause}" if raised else f"{failed.cause} in {name}"
        except _TooLong as error:
            rollout.failure = str(error)
        rollout.prompt = self.prompt
        rollout.completion = self.stream.completion(finish)  # type: ignore[arg-type]
        rollout.text = self.runner._text(rollout.completion.tokens)
        [rollout.prefill] = prefills_of([self.prompt], self.runner.encoder.tokenizer)
        rollout.messages, rollout.stats = self.messages, self.stats
        return result

    async def _begin(self) -> None:
        """Open the environment; add its messages and tools to the prompt."""
        content = [dict(message) for message in self.prompt.content]  # type: ignore[arg-type]
        opened = await self._call("open", dict(self.prompt.row), content)
        if opened["append"]:
            content[-1]["content"] = str(content[-1].get("content") or "") + opened["append"]
        content += opened["messages"]
        kwargs = self.prompt.row.get("chat_template_kwargs")
        tokens = tuple(self.turn_tokens.prompt(content, kwargs if isinstance(kwargs, dict) else None))
        if len(tokens) >= self.runner.context:
            raise _TooLong(
                f"prompt of {len(tokens)} tokens, with the messages of environment '{self.handle.server.name}', leaves "
                f"no room for an answer in {self.runner.context}"
            )
        self.prompt = replace(self.prompt, content=content, tokens=tokens)

    async def _converse(self) -> str:
        """Run all turns; `Completion.finish` of the rollout."""
        for turn in range(self.runner.max_turns):
            before = (*self.prompt.tokens, *self.stream.tokens)
            asked = replace(self.prompt, id=f"{self.prompt.id}/{turn}" if turn else self.prompt.id)
            completion = await self.batcher.generate(replace(asked, tokens=before, row={}))
            self.stream.generated(completion)
            self.stats["turns"] += 1
            message = self._message_of(completion, before)
            self.messages.append(message)
            if completion.finish == "length":
                return "length"
            answer = await self._answer(message)
            if answer["done"]:
                self.messages += answer["messages"]
                return "stop"
            if turn == self.runner.max_turns - 1:
                return "turns"
            tokens = self.turn_tokens.between(answer["messages"], completion.tokens[-1])
            if len(before) + len(completion.tokens) + len(tokens) >= self.runner.context:
                return "length"
            self.stream.observed(tokens)
            self.messages += answer["messages"]
        raise AssertionError("a rollout has at least one turn")

    def _message_of(self, completion: Completion, before: Sequence[int]) -> Message:
        tokens = list(completion.tokens)
        if tokens and tokens[-1] in self.turn_tokens.ends:
            tokens.pop()
        text = self.runner._text(tokens)
        tokenizer, schemas = self.runner.encoder.tokenizer, self.turn_tokens.schemas
        if not schemas:
            return {"role": "assistant", "content": text}
        message = message_of(tokenizer, tokenizer.decode(tokens), completion.tokens, before, schemas)
        return message if message.get("tool_calls") else {**message, "content": text}

    async def _answer(self, message: Message) -> dict[str, Any]:
        """The environment's answer. A tool function that hangs or dies is reported to the model as an error."""
        try:
            answer = await self._call("act", message)
            for name, count in answer["counts"].items():
                self.stats[name] += count
            return answer
        except CallFailed as failed:
            stateless = self.runner.pool.described(self.name)["stateless"]
            if not stateless or isinstance(failed, Raised) or not message.get("tool_calls"):
                raise
            calls = message["tool_calls"]
            self.stats["tool_calls"] += len(calls)
            self.stats["tool_failures"] += len(calls)
            content = str({"error": failed.cause})
            results = [
                {"role": "tool", "name": call["function"]["name"], "content": content}
                | ({"tool_call_id": call["id"]} if call.get("id") else {})
                for call in calls
            ]
            await self._call("open", {}, [])  # in a new process
            return {"messages": results, "done": False}

    async def _call(self, op: str, *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return await self.runner.pool.call(self.handle, op, *arguments)
        finally:
            self.stats["env_seconds"] += time.perf_counter() - started


class _TooLong(Exception):
    """The prompt leaves no room for an answer."""


def _separate_prompts(group: Sequence[EpisodeResult]) -> None:
    """Give the rollouts separate prompt ids if their environments changed the prompt in different ways."""
    if len({result.rollout.prompt.tokens for result in group}) > 1:
        for result in group:
            prompt = result.rollout.prompt
            result.rollout.prompt = replace(prompt, id=f"{prompt.id}#{prompt.first_completion}")
