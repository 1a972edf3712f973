"""Which groups a step may train on, so that no token is older than the bound and no prompt is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from hone.checkpoint.safe_reader import read_state
from hone.training.tickets import Ledger, Ticket
from hone.types import Completion, Group, Prompt, Rollout


def draw(ledger: Ledger, number: int, version: int) -> Ticket:
    prompt = Prompt(f"data:{number}@0.{number}", (1, number), "text")
    ticket = ledger.open[prompt.id] = Ticket(prompt.id, prompt, version)
    return ticket


def finish(ticket: Ticket) -> None:
    completion = Completion.of_version((4, 5), (-0.1, -0.2), "stop", ticket.version)
    ticket.group = Group(ticket.id, [Rollout(ticket.prompt, completion, "ok", reward=1.0)])


def numbers(tickets: Any) -> list[int] | None:
    return None if tickets is None else [int(one.id.rsplit(".", 1)[1]) for one in tickets]


def test_as_many_prompts_are_drawn_as_can_be_trained_on_within_the_bound() -> None:
    ledger = Ledger(size=2, age=1)
    assert ledger.room(version=0, trained=0) == 4, "for the step that trains version 0, and the next"
    assert ledger.room(version=0, trained=1) == 2, "while the first trains, for the next alone"
    draw(ledger, 0, 0)
    assert ledger.room(version=0, trained=1) == 1
    assert Ledger(size=2, age=3, extra=5).room(version=7, trained=7) == 2 * 4 + 5


def test_a_step_takes_what_is_finished_oldest_first() -> None:
    ledger = Ledger(size=2, age=3)
    first, second, third = (draw(ledger, n, version) for n, version in enumerate((0, 1, 0)))
    finish(second)
    assert ledger.choose(1, more=True) is None, "one is no batch"
    finish(third)
    assert numbers(ledger.choose(1, more=True)) == [2, 1]
    finish(first)
    assert numbers(ledger.choose(1, more=True)) == [0, 2]


def test_a_step_waits_for_groups_that_later_steps_have_no_place_for() -> None:
    """Bound 2, steps of one group; three of version 0 were drawn, one is trained on. At version 1 the two others have
    the steps of versions 1 and 2: neither may be given to a group of version 1."""
    ledger = Ledger(size=1, age=2)
    old, other, new = draw(ledger, 1, 0), draw(ledger, 2, 0), draw(ledger, 3, 1)
    finish(new)
    assert ledger.choose(1, more=True) is None
    finish(other)
    assert numbers(ledger.choose(1, more=True)) == [2]
    assert ledger.choose(2, more=True) is None, "now the last of them is due"
    finish(old)
    assert numbers(ledger.choose(2, more=True)) == [1]


def test_with_more_in_flight_than_the_bound_admits_a_step_does_not_wait_and_the_old_are_dropped() -> None:
    ledger = Ledger(size=1, age=1, extra=1)
    old, new = draw(ledger, 1, 0), draw(ledger, 2, 1)
    finish(new)
    assert numbers(ledger.choose(1, more=True)) == [2]
    ledger.take([new])
    assert ledger.drop_stale(1) == []
    assert ledger.drop_stale(2) == [old]
    assert ledger.fates == {"trained": 1, "stale": 1}
    [dropped] = ledger.dropped
    assert (dropped.why, dropped.finished, dropped.group.rollouts[0].excluded) == ("stale", False, "stale")
    assert not ledger.open


def test_the_last_step_may_have_fewer_groups() -> None:
    ledger = Ledger(size=4, age=1)
    finish(draw(ledger, 1, 0))
    assert ledger.choose(0, more=True) is None
    assert numbers(ledger.choose(0, more=False)) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_at_random_speeds_no_group_is_too_old_and_none_is_dropped(seed: int) -> None:
    """Groups end after a random number of ticks, of which one in ten is ten times as long."""
    chance = random.Random(seed)
    size, age = chance.randint(1, 4), chance.randint(1, 4)
    ledger, drawn, trained = Ledger(size, age), 0, list[int]()
    left: dict[str, int] = {}
    for version in range(60):
        for begun in (version, version + 1):  # before the step has its groups, and while it trains
            for _ in range(ledger.room(version, begun)):
                left[draw(ledger, drawn, version).id] = chance.randint(1, 5) * (
                    10 if chance.random() < 0.1 else 1
                )
                drawn += 1
            while begun == version and (chosen := ledger.choose(version, more=True)) is None:
                left = {key: ticks - 1 for key, ticks in left.items()}
                for ticket in ledger.open.values():
                    if left[ticket.id] <= 0 and ticket.group is None:
                        finish(ticket)
            if begun == version:
                assert chosen is not None
                assert min(ticket.version for ticket in chosen) >= version - age
                trained += numbers(chosen) or []
                ledger.take(chosen)
                assert ledger.drop_stale(version + 1) == []
    still = numbers(ledger.open.values()) or []
    assert sorted(trained + still) == list(range(drawn))


def test_open_tickets_are_the_same_after_a_checkpoint(tmp_path: Any) -> None:
    ledger = Ledger(size=2, age=2)
    finished, running, dropped = draw(ledger, 1, 3), draw(ledger, 2, 4), draw(ledger, 3, 3)
    failed = draw(ledger, 4, 3)
    for ticket in (finished, dropped, failed):
        finish(ticket)
    assert failed.group is not None
    failed.group.rollouts[0].failure = "timeout in reward 'judge'"
    ledger.fates["trained"] = 6
    ledger.drop(dropped, "all_wrong")
    torch.save(ledger.state_dict(), tmp_path / "state.pt")
    again = Ledger(size=2, age=2)
    prompts = {ticket.id: ticket.prompt for ticket in (running, failed)}
    again.load_state_dict(read_state(tmp_path / "state.pt"), lambda ids: [prompts.pop(name) for name in ids])
    assert not prompts
    assert list(again.open) == [finished.id, running.id, failed.id]
    assert again.open[failed.id].group is None, "what failed is sampled again"
    assert again.open[finished.id].group == finished.group
    assert again.open[finished.id].version == 3
    assert again.open[running.id].prompt == running.prompt
    assert again.open[running.id].group is None
    assert again.dropped == ledger.dropped
    assert again.fates == {"trained": 6, "all_wrong": 1}
