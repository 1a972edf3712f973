"""Which prompts are on their way, which of them a step trains on, and what became of the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.rollout.dynamic_sampling import exclude
from hone.rollout.environments.episode_result import NO_REWARD
from hone.training.rollout_batch import RolloutBatch, from_state, to_state
from hone.types import Completion, Group, Prompt, Rollout

STALE = "stale"
"""Why a group is dropped that would be older than the bound."""


@dataclass(eq=False)
class Ticket:
    """A prompt that was drawn: it is open until its group is trained on or dropped."""

    id: str
    """The id of its prompt as drawn; environments may change the prompt."""
    prompt: Prompt
    version: int
    """Of the weights when its sampling began: the oldest that may have sampled any of its tokens."""
    task: asyncio.Task[None] | None = None
    group: Group | None = None
    """When all its completions are sampled and scored."""

    @property
    def is_scored(self) -> bool:
        """Whether it is finished, and nothing went wrong that may go right if it is sampled again."""
        return self.group is not None and all(
            rollout.failure in (None, NO_REWARD) for rollout in self.group.rollouts
        )


@dataclass
class Dropped:
    """A group that no step trains on."""

    group: Group
    """One rollout without tokens if it was not finished."""
    why: str
    finished: bool

    @classmethod
    def of(cls, ticket: Ticket, why: str) -> Dropped:
        """The group of a ticket, excluded."""
        empty = [Rollout(ticket.prompt, Completion((), (), "length", ()), "")]
        group = ticket.group or Group(ticket.id, empty)
        exclude(group, why)
        return cls(group, why, ticket.group is not None)


@dataclass
class Ledger:
    """The open tickets of a run, in the order in which they were drawn, and the fate of all others.

    With a bound of `age` versions and steps of `size` groups. `fates` counts the tickets since the start of the run:
    `trained`, or why they were dropped. Each is counted once.
    """

    size: int
    age: int
    extra: int = 0
    """How many more tickets than the bound admits may be open."""
    open: dict[str, Ticket] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    """Groups that no step has reported yet."""
    fates: Counter[str] = field(default_factory=Counter)

    def room(self, version: int, trained: int) -> int:
        """How many tickets may be drawn, with weights of `version` and `trained` steps that have their groups.

        Without `extra`, all that are open can be trained on within the bound: by the steps from `trained` + 1 to the
        one that trains the weights of `version` + `age`.
        """
        return (version + self.age + 1 - trained) * self.size + self.extra - len(self.open)

    def choose(self, version: int, *, more: bool) -> list[Ticket] | None:
        """The tickets that the step which trains the weights of `version` trains on, oldest first; None if it has to
        wait. `more`: whether further tickets will be drawn; else the last step may have fewer."""
        finished = [ticket for ticket in self.open.values() if ticket.group is not None]
        finished.sort(key=lambda ticket: ticket.version)
        wanted = self.size if more else min(self.size, len(self.open))
        chosen = finished[:wanted]
        running = len(finished) < len(self.open)
        late = running and not self.extra and self._would_be_late(chosen, version)
        return None if late or len(chosen) < wanted else chosen

    def _would_be_late(self, chosen: Sequence[Ticket], version: int) -> bool:
        """Whether the steps after this one have too few places for the other tickets that must be trained by then."""
        left = [ticket.version for ticket in self.open.values() if ticket not in chosen]
        return any(
            sum(begun <= oldest for begun in left) > (oldest + self.age - version) * self.size
            for oldest in set(left)
        )

    def take(self, chosen: Iterable[Ticket]) -> list[Group]:
        """Close the tickets that are trained on; their groups in the order in which they were drawn."""
        taken = {ticket.id for ticket in chosen}
        self.fates["trained"] += len(taken)
        tickets = [self.open.pop(key) for key in list(self.open) if key in taken]
        return [ticket.group for ticket in tickets if ticket.group is not None]

    def drop(self, ticket: Ticket, why: str) -> None:
        """Close a ticket that no step will train on."""
        del self.open[ticket.id]
        self.fates[why] += 1
        self.dropped.append(Dropped.of(ticket, why))

    def drop_stale(self, version: int) -> list[Ticket]:
        """Close the tickets that are too old for a step which trains the weights of `version`."""
        stale = [ticket for ticket in self.open.values() if ticket.version < version - self.age]
        for ticket in stale:
            self.drop(ticket, STALE)
        return stale

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings and containers: `load_state_dict` opens the same tickets. Of those that are not scored, only
        the ids."""
        finished = {ticket.id: ticket for ticket in self.open.values() if ticket.is_scored}
        groups = [ticket.group for ticket in finished.values() if ticket.group is not None]
        dropped = [one.group for one in self.dropped]
        return {
            "finished": to_state(RolloutBatch(0, groups, [*groups, *dropped])),
            "begun": {name: ticket.version for name, ticket in finished.items()},
            "order": list(self.open),
            "dropped": [[one.why, one.finished] for one in self.dropped],
            "fates": dict(self.fates),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], prompts_of: Callable[[list[str]], Sequence[Prompt]]
    ) -> None:
        """Open those of a checkpoint. What was not scored has no task, and the version 0. `prompts_of`: the prompts of
        ids."""
        batch = from_state(state["finished"])
        waiting = [name for name in state["order"] if name not in state["begun"]]
        found = {prompt.id: Ticket(prompt.id, prompt, 0) for prompt in prompts_of(waiting)}
        for group in batch.groups:
            begun = state["begun"][group.id]
            found[group.id] = Ticket(group.id, group.rollouts[0].prompt, begun, group=group)
        self.open = {name: found[name] for name in state["order"]}
        rest = batch.drawn[len(batch.groups) :]
        self.dropped = [Dropped(group, *how) for group, how in zip(rest, state["dropped"], strict=True)]
        self.fates = Counter(state["fates"])
