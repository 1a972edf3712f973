"""The protocol of environments: a class with these two methods, without a base class.

    class Guess:
        def reset(self, row):                  # a row of the data; one instance serves one rollout
            self.number, self.tries = row["number"], 0
        def step(self, message):               # the model's message: {"role": "assistant", "content": …}
            self.tries += 1
            guess = int(message["content"])
            if guess == self.number:
                return None, 1.0, True         # observation, reward, done
            return ("higher" if guess < self.number else "lower"), 0.0, self.tries == 8

Either may be `async`. The public methods of a class without `step` are tools (TRL's environments). An attribute
`tools`, a list of functions, adds tools to `step`. Each rollout gets a new instance, `Class(**env.kwargs)`.

An environment runs in its own process, which is killed when a call takes longer than `env.timeout_s`. Only that rollout
then fails, with the cause.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

Message = dict[str, Any]
Observation = str | Message | list[Message] | None
"""Text is a user message; None adds no message."""
Reply = tuple[Observation, float | None, bool] | Mapping[str, Any]
"""(observation, reward, done), or a mapping with those keys. The rewards of all steps are added up."""


class Environment(Protocol):
    """The environment of one rollout."""

    def reset(self, row: Mapping[str, Any]) -> Observation | Awaitable[Observation]:
        """Begin. Text is appended to the prompt's last message; messages follow the prompt."""
        ...

    def step(self, message: Message) -> Reply | Awaitable[Reply]:
        """Answer the model's message. Not called for a message with tool calls."""
        ...
