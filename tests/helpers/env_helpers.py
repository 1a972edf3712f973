"""Tools and environments for the tests, and what drives them without a model."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
TEMPLATE = HERE.parents[2] / "examples" / "environments" / "chat_template.jinja"
"""A chat template that has tools."""


def here(name: str) -> str:
    """The target of something in this file."""
    return f"{HERE}:{name}"


# ---- what runs in environment processes


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One number.
        b: The other.
    """
    return a + b


async def later(seconds: float) -> str:
    """Say when it is over.

    Args:
        seconds: How long to wait.
    """
    await asyncio.sleep(seconds)
    return f"waited {seconds}"


def hang(how: str) -> str:
    """Never return.

    Args:
        how: By sleeping, or else.
    """
    while how != "sleep":
        pass
    time.sleep(1000)
    return ""


def die(code: int) -> str:
    """End the process.

    Args:
        code: With this exit code.
    """
    os._exit(code)


def fail(why: str) -> str:
    """Raise.

    Args:
        why: What the error says.
    """
    raise RuntimeError(why)


def huge(size: int) -> str:
    """A long text.

    Args:
        size: So many characters.
    """
    return "x" * size


def strange(kind: str) -> Any:
    """What no JSON can hold.

    Args:
        kind: Which.
    """
    return {"set": {1}, "object": object, "bytes": b"\xff", "surrogate": "\udc80"}[kind]


def undocumented(a, b):
    return a


class Counter:
    """Says how often it was asked, and wants three turns. Reward: 1 for each."""

    def __init__(self, turns: int = 3, delays: Sequence[float] = ()) -> None:
        self.turns, self.delays, self.count = turns, delays, 0

    def reset(self, row: dict[str, Any]) -> str | None:
        self.row = row
        return row.get("append")

    def step(self, message: dict[str, Any]) -> tuple[str, float, bool]:
        if self.delays:
            time.sleep(self.delays[hash((self.row["prompt"][0]["content"], self.count)) % len(self.delays)])
        self.count += 1
        return f" {self.count}", 1.0, self.count == self.turns


class Slow(Counter):
    """Each step takes some other time, also from run to run."""

    def step(self, message: dict[str, Any]) -> tuple[str, float, bool]:
        time.sleep(int.from_bytes(os.urandom(2), "big") / 65536 * 0.05)
        return super().step(message)


class Endless:
    """Never done."""

    async def reset(self, row: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    async def step(self, message: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"observation": "go on"}


class Hostile:
    """Does what the row says, in its first step."""

    def reset(self, row: dict[str, Any]) -> None:
        self.deed = row["deed"]

    def step(self, message: dict[str, Any]) -> Any:
        if self.deed == "hang":
            hang("busy")
        if self.deed == "die":
            os._exit(3)
        if self.deed == "reply":  # a length that promises what never comes
            channel = next(
                one for one in gc.get_objects() if isinstance(one, socket.socket) and one.fileno() > 0
            )
            channel.sendall((1 << 60).to_bytes(8, "big") + b"x" * 1000)
            time.sleep(60)
        if self.deed == "daemon":  # it leaves the process's session and group, and its parent
            subprocess.run(["setsid", "--fork", "sleep", "301"], check=True)
            return None, 1.0, True
        if self.deed == "raise":
            raise KeyError("no such move")
        replies = {
            "nan": (None, float("nan"), True),
            "text reward": (None, "1", True),
            "wrong": 7,
            "ok": (None, 1.0, True),
        }
        return replies[self.deed]


class Trl:
    """As TRL's documentation writes environments: methods are tools, `get_reward` scores."""

    def __init__(self) -> None:
        self.value = 0

    def reset(self, **kwargs: Any) -> str | None:
        self.value = kwargs.get("start", 0)
        return f" Start at {self.value}."

    def increment(self, step: int) -> int:
        """Add to the counter.

        Args:
            step: How much.

        Returns:
            The counter.
        """
        if step < 0:
            raise ValueError("step must not be negative")
        self.value += step
        return self.value

    def get_reward(self) -> float:
        return float(self.value)

    def _hidden(self) -> None:
        raise AssertionError("not a tool")

    @property
    def broken(self) -> int:
        raise AssertionError("a property must not be looked at")


TOOLS = [here(name) for name in ("add", "later", "fail", "strange", "hang", "die", "huge")]
"""All tools, which most tests share a process of."""


# ---- what drives them


class Scripted:
    """A generator whose completions are told by a function of the prompt; counts its batches."""

    def __init__(self, tokenizer: Any, say: Callable[[str, str], str], end: bool = True) -> None:
        self.tokenizer, self.say, self.end = tokenizer, say, end
        self.context = 1000
        self.batches: list[int] = []
        self.asked: list[Any] = []
        self.given: dict[tuple[str, int], tuple[int, ...]] = {}

    async def generate(self, prompts: Sequence[Any], sampling: Any, *, count: int = 1) -> list[list[Any]]:
        from hone.types import Completion

        self.batches.append(len(prompts))
        self.asked += prompts
        done = []
        for prompt in prompts:
            text = self.say(prompt.id, self.tokenizer.decode(list(prompt.tokens)))
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            tokens += [self.tokenizer.eos_token_id] if self.end else []
            limit = min(sampling.max_new_tokens, self.context - len(prompt.tokens))
            assert limit > 0, "the real one raises"
            cut = len(tokens) > limit
            tokens = tuple(tokens[:limit])
            self.given[prompt.id, prompt.first_completion] = tokens
            done.append(
                [Completion.of_version(tokens, (-1.0,) * len(tokens), "length" if cut else "stop", 0)]
            )
        return done


class Forgetful(Counter):
    """Begins otherwise each time."""

    def reset(self, row: dict[str, Any]) -> str:
        return os.urandom(4).hex()


def conversations(split: str = "train") -> list[dict[str, Any]]:
    """Rows to play."""
    return [
        {"prompt": [{"role": "user", "content": f"{split} {i} + {i % 7}"}], "answer": str(i)}
        for i in range(40)
    ]
