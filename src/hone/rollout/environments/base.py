"""What an environment is. Write a class with these two methods; it need not inherit from anything.

    class Guess:
        def reset(self, row):                  # a row of the data; one instance answers one rollout
            self.number, self.tries = row["number"], 0
        def step(self, message):               # what the model said: {"role": "assistant", "content": …}
            self.tries += 1
            said = int(message["content"])
            if said == self.number:
                return None, 1.0, True         # nothing more to say, reward, done
            return ("higher" if said < self.number else "lower"), 0.0, self.tries == 8

Either may be `async`. Public methods of a class that has no `step` are tools instead (TRL's environments); an attribute
`tools`, a list of functions, offers tools beside `step`. For every rollout a new one is made, `Class(**env.kwargs)`.

It runs in a process of its own, which is killed when a call takes longer than `env.timeout_s`: that rollout then fails,
with its cause, and no other does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

Message = dict[str, Any]
Observation = str | Message | list[Message] | None
"""Text is a message of the user's; None says nothing."""
Reply = tuple[Observation, float | None, bool] | Mapping[str, Any]
"""(observation, reward, done), or a mapping with those keys. The rewards of all steps are added up."""


class Environment(Protocol):
    """What answers one rollout."""

    def reset(self, row: Mapping[str, Any]) -> Observation | Awaitable[Observation]:
        """Begin. Text goes to the end of the prompt's last message; messages go behind the prompt."""
        ...

    def step(self, message: Message) -> Reply | Awaitable[Reply]:
        """Answer what the model said. Not called for a message that calls tools."""
        ...


class Unusable(Exception):
    """The target exists, but is no environment or tool; the message says why."""
