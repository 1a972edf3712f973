"""One rollout of many turns: the model speaks, its environment answers, until one is done or a limit is reached.

    stream = prompt | generated | the environment's tokens | generated | …

Generated tokens are kept as they came; `Completion.mask` marks them, and the others' log-probabilities are 0. A rollout
ends when its environment says so (`stop`), when the model has spoken `max_turns` times (`turns`), or when the tokens of
a turn or of the whole sequence are used up (`length`). No keys and values are kept between turns: each is a prompt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hone.data.chat import Encoder
from hone.errors import DataError
from hone.rollout.environments.episode_result import Played
from hone.rollout.environments.pool import EnvironmentPool, Place
from hone.rollout.environments.processes import Raised
from hone.rollout.environments.tool_calls import message_of
from hone.rollout.environments.turn_tokens import Dialog
from hone.rollout.generation_batcher import Turns
from hone.rollout.prompt_prefix import prefills_of
from hone.rollout.rewards.worker_process import CallFailed
from hone.types import Completion, Generator, Message, Prompt, Rollout, Sampling


@dataclass
class Stream:
    """What followed the prompt so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    version: int = 0

    def generated(self, completion: Completion) -> None:
        """Take what the model sampled."""
        if not self.tokens:
            self.version = completion.version
        self.tokens += completion.tokens
        self.logprobs += completion.logprobs
        self.mask += [True] * len(completion.tokens)

    def told(self, tokens: Sequence[int]) -> None:
        """Take what the environment said."""
        self.tokens += tokens
        self.logprobs += [0.0] * len(tokens)
        self.mask += [False] * len(tokens)

    def completion(self, finish: Literal["stop", "length", "turns"]) -> Completion:
        """All of it."""
        mask = None if all(self.mask) else tuple(self.mask)
        return Completion(tuple(self.tokens), tuple(self.logprobs), finish, self.version, mask)


@dataclass
class Episodes:
    """Plays rollouts with the environments of a pool."""

    pool: EnvironmentPool
    encoder: Encoder
    max_turns: int
    context: int
    """Tokens of a whole sequence."""
    max_wait_s: float | None = 1.0
    notices: list[str] = field(default_factory=list)
    """What to tell the user, once checked."""

    def __post_init__(self) -> None:
        self._dialogs = {
            name: Dialog(self.encoder, list(host.described["schemas"]))
            for name, host in self.pool.hosts.items()
        }

    def check(self) -> None:
        """Raise ConfigError for a chat template that cannot write what the environments need, before anything is
        trained."""
        for name, dialog in self._dialogs.items():
            told = self.pool.described(name)
            roles = (["tool"] if told["schemas"] else []) + (["user"] if told["steps"] else [])
            self.notices += [text for text in dialog.check(roles) if text not in self.notices]

    async def play(
        self, prompts: Sequence[Prompt], generator: Generator, sampling: Sampling, count: int
    ) -> list[list[Played]]:
        """`count` rollouts of each prompt, in order. Raises DataError for a prompt that is no conversation."""
        async with Turns(generator, sampling, self.max_wait_s) as turns:
            tasks = [
                [asyncio.ensure_future(self._one(replace(prompt, number=c), turns)) for c in range(count)]
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
            _apart(group)
        return groups

    async def _one(self, prompt: Prompt, turns: Turns) -> Played:
        name = self.pool.name_for(prompt.env)
        if name is None:
            async with turns.taking_part():
                completion = await turns.ask(prompt)
            [prefill] = prefills_of([prompt], self.encoder.tokenizer)
            return Played(Rollout(prompt, completion, self._text(completion.tokens), prefill=prefill))
        if isinstance(prompt.content, str):
            raise DataError(
                f"prompt {prompt.id} is text, but {self.pool.hosts[name].label} answers in a conversation: give "
                "messages, [{role: user, content: …}], in the column prompt"
            )
        async with self.pool.room(name) as place, turns.taking_part():
            return await _Episode(self, name, prompt, turns, place).play()

    def _text(self, tokens: Sequence[int]) -> str:
        return self.encoder.tokenizer.decode(list(tokens), skip_special_tokens=True)


class _Episode:
    """A rollout while it lasts."""

    def __init__(self, episodes: Episodes, name: str, prompt: Prompt, turns: Turns, place: Place) -> None:
        self.all, self.name, self.prompt, self.turns, self.place = episodes, name, prompt, turns, place
        self.dialog = episodes._dialogs[name]
        self.stream, self.messages = Stream(), list[Message]()
        self.stats = {"turns": 0.0, "tool_calls": 0.0, "tool_failures": 0.0, "cut": 0.0, "env_seconds": 0.0}

    async def play(self) -> Played:
        """From the prompt to the end."""
        told = self.all.pool.described(self.name)
        played = Played(
            Rollout(self.prompt, self.stream.completion("stop"), ""),
            told["name"] and (told["name"] if self.name == "" else self.name),
            weight=self.place.host.config.reward_weight,
        )
        rollout, finish = played.rollout, "stop"
        try:
            await self._begin()
            finish = await self._converse()
            played.reward = (await self._call("finish", self.messages))["reward"]
        except CallFailed as failed:
            where = f"environment '{self.place.host.name}'"
            rollout.failure = (
                f"{where} {failed.kind}" if isinstance(failed, Raised) else f"{failed.kind} in {where}"
            )
        except _TooLong as error:
            rollout.failure = str(error)
        rollout.prompt = self.prompt
        rollout.completion = self.stream.completion(finish)  # type: ignore[arg-type]
        rollout.text = self.all._text(rollout.completion.tokens)
        [rollout.prefill] = prefills_of([self.prompt], self.all.encoder.tokenizer)
        rollout.messages, rollout.stats = self.messages, self.stats
        return played

    async def _begin(self) -> None:
        """Let the environment begin; the prompt with what it says and with its tools."""
        content = [dict(message) for message in self.prompt.content]  # type: ignore[arg-type]
        opened = await self._call("open", dict(self.prompt.row), content)
        if opened["append"]:
            content[-1]["content"] = str(content[-1].get("content") or "") + opened["append"]
        content += opened["messages"]
        kwargs = self.prompt.row.get("chat_template_kwargs")
        tokens = tuple(self.dialog.prompt(content, kwargs if isinstance(kwargs, dict) else None))
        if len(tokens) >= self.all.context:
            raise _TooLong(
                f"prompt of {len(tokens)} tokens, with what environment '{self.place.host.name}' adds, leaves no room "
                f"in {self.all.context}"
            )
        self.prompt = replace(self.prompt, content=content, tokens=tokens)

    async def _converse(self) -> str:
        """All turns; how it ended."""
        for turn in range(self.all.max_turns):
            before = (*self.prompt.tokens, *self.stream.tokens)
            asked = replace(self.prompt, id=f"{self.prompt.id}/{turn}" if turn else self.prompt.id)
            completion = await self.turns.ask(replace(asked, tokens=before, row={}))
            self.stream.generated(completion)
            self.stats["turns"] += 1
            message = self._said(completion, before)
            self.messages.append(message)
            if completion.finish == "length":
                return "length"
            answer = await self._answer(message)
            if answer["done"]:
                self.messages += answer["messages"]
                return "stop"
            if turn == self.all.max_turns - 1:
                return "turns"
            tokens = self.dialog.between(answer["messages"], completion.tokens[-1])
            if len(before) + len(completion.tokens) + len(tokens) >= self.all.context:
                return "length"
            self.stream.told(tokens)
            self.messages += answer["messages"]
        raise AssertionError("a rollout has at least one turn")

    def _said(self, completion: Completion, before: Sequence[int]) -> Message:
        tokens = list(completion.tokens)
        if tokens and tokens[-1] in self.dialog.ends:
            tokens.pop()
        text = self.all._text(tokens)
        if not self.dialog.schemas:
            return {"role": "assistant", "content": text}
        raw = self.all.encoder.tokenizer.decode(tokens)
        message = message_of(self.all.encoder.tokenizer, raw, completion.tokens, before, self.dialog.schemas)
        return message if message.get("tool_calls") else {**message, "content": text}

    async def _answer(self, message: Message) -> dict[str, Any]:
        """What the environment answers. A tool function that does not is an error that the model is told of."""
        try:
            answer = await self._call("act", message)
            for name, count in answer["counts"].items():
                self.stats[name] += count
            return answer
        except CallFailed as failed:
            stateless = self.all.pool.described(self.name)["stateless"]
            if not stateless or isinstance(failed, Raised) or not message.get("tool_calls"):
                raise
            calls = message["tool_calls"]
            self.stats["tool_calls"] += len(calls)
            self.stats["tool_failures"] += len(calls)
            content = str({"error": failed.kind})
            told = [
                {"role": "tool", "name": call["function"]["name"], "content": content}
                | ({"tool_call_id": call["id"]} if call.get("id") else {})
                for call in calls
            ]
            await self._call("open", {}, [])  # in another process
            return {"messages": told, "done": False}

    async def _call(self, op: str, *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return await self.all.pool.call(self.place, op, *arguments)
        finally:
            self.stats["env_seconds"] += time.perf_counter() - started


class _TooLong(Exception):
    """A prompt that leaves no room for an answer."""


def _apart(group: Sequence[Played]) -> None:
    """Rollouts whose environments began otherwise share no prompt: their samples are told apart by their ids."""
    if len({played.rollout.prompt.tokens for played in group}) > 1:
        for played in group:
            prompt = played.rollout.prompt
            played.rollout.prompt = replace(prompt, id=f"{prompt.id}#{prompt.number}")
