"""async_rollouts=stream: prompts are sampled all the time, and a step trains on the groups that are finished."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from positions import Position
from tiny import grpo_config, run

from hone.checkpoint.safe_reader import read_state
from hone.errors import CheckpointError, DataError, RewardError, TrainingError, WorkerLostError
from hone.rollout.timeline import Timeline
from hone.training.rollout_batch import RolloutBatch
from hone.training.rollout_source import LookaheadSource, RolloutSource
from hone.training.stream_source import StreamSource
from hone.types import Completion, Group, Prompt, Rollout, VersionSpan


class Data(Position):
    def next(self, n: int) -> list[Prompt]:
        first, self.drawn = self.drawn, min(self.rows, self.drawn + n)
        return [Prompt(f"data:{i}@0.{i}", (1, i), "text") for i in range(first, self.drawn)]

    def again(self, ids: Sequence[str]) -> list[Prompt]:
        return [Prompt(name, (1, int(name.rsplit(".", 1)[1])), "text") for name in ids]


@dataclass
class Sampler:
    """Samples a group when `finish` is called with its number. A completion is of the weights when it began and, if
    they are others, of those when it ends."""

    settings: dict[str, Any] = field(default_factory=dict)
    now: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(version=0, at_once=False))
    """What the copies of `dataclasses.replace` share."""
    asked: list[int] = field(default_factory=list)
    waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    generator: Any = None
    scoring: Any = None
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        own = {"num_prompts_per_step": 2, "async_rollouts": "stream", **self.settings}
        self.config = grpo_config(grpo=own)
        self.pool = SimpleNamespace(
            set_progress=lambda step, total: None, metrics=lambda tally: tally.drain()
        )

    async def sample(self, prompts: Sequence[Prompt], **_: Any) -> list[Group]:
        [prompt] = prompts
        number, begun = prompt.tokens[1], self.now.version
        self.asked.append(number)
        outcome: Any = 1.0
        if not self.now.at_once:
            future = self.waiting[number] = asyncio.get_running_loop().create_future()
            outcome = await future
        if isinstance(outcome, BaseException):
            raise outcome
        spans = [VersionSpan(begun, 0, 1), VersionSpan(self.now.version, 1, 2)]
        completion = Completion(
            (4, 5),
            (-0.1, -0.2),
            "stop",
            tuple(spans if begun < spans[1].version else [VersionSpan(begun, 0, 2)]),
        )
        rewards = outcome if isinstance(outcome, list) else [outcome, 0.0]
        rollouts = [Rollout(prompt, completion, "ok", rewards={"r": r}, reward=r) for r in rewards]
        if isinstance(outcome, str):
            rollouts = [Rollout(prompt, completion, "ok", failure=outcome)] * 2
        return [Group(prompt.id, rollouts)]

    async def finish(self, *numbers: int, outcome: Any = 1.0) -> None:
        for number in numbers:
            self.waiting[number].set_result(outcome)
        for _ in range(5):
            await asyncio.sleep(0)


def made(steps: int = 99, rows: int = 1000, **settings: Any) -> tuple[StreamSource, Sampler]:
    sampler = Sampler(settings)
    return StreamSource(cast(Any, sampler), cast(Any, Data(rows=rows)), steps), sampler


async def taken(source: StreamSource, step: int) -> Any:
    """`take` as a task that has begun to wait."""
    task = asyncio.ensure_future(source.take(step, lambda part: None))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def trained(source: StreamSource, sampler: Sampler, step: int, during: Any = None) -> dict[str, float]:
    """`train`, with what happens meanwhile; afterwards the generator has the weights of the step."""
    here, go = asyncio.get_running_loop(), asyncio.Event()

    async def update() -> dict[str, float]:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(go.wait(), here))
        return {"loss": 1.0}

    task = asyncio.ensure_future(source.train(step, update(), lambda part: None))
    for _ in range(5):
        await asyncio.sleep(0)
    if during is not None:
        await during
    go.set()
    metrics = await task
    sampler.now.version = step
    return metrics


def numbers(groups: Sequence[Group]) -> list[int]:
    return [group.rollouts[0].prompt.tokens[1] for group in groups]


def test_a_step_trains_on_the_first_groups_and_others_go_on_with_the_new_weights() -> None:
    source, sampler = made()

    async def steps() -> None:
        step = await taken(source, 1)
        assert sampler.asked == [0, 1, 2, 3], "two steps, as the bound is one version"
        await sampler.finish(3, 0)
        batch = await step
        assert numbers(batch.groups) == [0, 3]
        metrics = await trained(source, sampler, 1)
        assert metrics["loss"] == 1.0
        assert 0 <= metrics["generator_idle_share"] <= 1
        assert sampler.asked == [0, 1, 2, 3], "while it trains, no more than the next step needs"
        step = await taken(source, 2)
        assert sampler.asked == [0, 1, 2, 3, 4, 5]
        await sampler.finish(4, 5)
        assert not step.done(), "1 and 2 are of version 0, and must be trained on now"
        await sampler.finish(2, 1)
        batch = await step
        assert numbers(batch.groups) == [1, 2]
        assert batch.metrics["staleness_max"] == 1
        assert batch.metrics["staleness_mean"] == 0.5
        assert batch.metrics["weight_versions"] == 2
        await source.aclose()

    run(steps())


def test_every_draw_is_trained_dropped_or_open(tmp_path: Any) -> None:
    """More in flight than the bound admits: slow groups are given up."""
    source, sampler = made(extra_prompts_in_flight=2)

    async def steps() -> None:
        step = await taken(source, 1)
        assert sampler.asked == list(range(6))
        await sampler.finish(4, 5)
        assert numbers((await step).groups) == [4, 5]
        await trained(source, sampler, 1)
        step = await taken(source, 2)
        await sampler.finish(6, 7)
        batch = await step
        assert numbers(batch.groups) == [6, 7]
        assert numbers(batch.aborted) == [0, 1, 2, 3], "version 0 is too old for the step after"
        assert batch.metrics["groups_stale"] == 4
        assert batch.drawn == batch.groups
        await asyncio.sleep(0)
        assert all(sampler.waiting[n].cancelled() for n in range(4))
        state: Any = source.state_dict()["tickets"]
        assert state["fates"] == {"trained": 4, "stale": 4}
        torch.save(source.state_dict(), tmp_path / "state.pt")
        await source.aclose()

    run(steps())
    again, sampler = made(extra_prompts_in_flight=2)
    again.load_state_dict(read_state(tmp_path / "state.pt"))
    sampler.now.version = 2

    async def on() -> None:
        step = await taken(again, 3)
        assert sampler.asked == list(range(8, 8 + 6)), "those that were open, and new ones"
        await sampler.finish(8, 9)
        batch = await step
        assert numbers(batch.groups) == [8, 9]
        assert batch.metrics["staleness_max"] == 0
        await again.aclose()

    run(on())


def test_finished_groups_of_a_checkpoint_are_trained_on_and_not_sampled_again(tmp_path: Any) -> None:
    source, sampler = made()

    async def steps() -> None:
        step = await taken(source, 1)
        await sampler.finish(0, 1, 2)
        await step
        await trained(source, sampler, 1)
        torch.save(source.state_dict(), tmp_path / "state.pt")
        await source.aclose()

    run(steps())
    again, sampler = made()
    again.load_state_dict(read_state(tmp_path / "state.pt"))
    sampler.now.version = 1

    async def on() -> None:
        step = await taken(again, 2)
        assert sampler.asked == [3, 4, 5]
        await sampler.finish(4)
        assert numbers((await step).groups) == [2, 4]
        await again.aclose()

    run(on())


def test_the_data_end_with_a_smaller_step() -> None:
    source, sampler = made(rows=3)
    sampler.now.at_once = True

    async def steps() -> None:
        assert numbers((await source.take(1, lambda part: None)).groups) == [0, 1]
        await trained(source, sampler, 1)
        assert source.last_step(1) == 2
        assert numbers((await source.take(2, lambda part: None)).groups) == [2]
        await trained(source, sampler, 2)
        assert source.last_step(2) == 2

    run(steps())


def test_nothing_is_drawn_for_steps_beyond_the_last() -> None:
    source, sampler = made(steps=1, max_staleness=4)
    sampler.now.at_once = True

    async def steps() -> None:
        await source.take(1, lambda part: None)
        await trained(source, sampler, 1)

    run(steps())
    assert sampler.asked == [0, 1]


def test_uninformative_groups_are_replaced_at_once() -> None:
    source, sampler = made(use_dynamic_sampling=True)

    async def steps() -> None:
        step = await taken(source, 1)
        await sampler.finish(0, outcome=[1.0, 1.0])
        assert sampler.asked == [0, 1, 2, 3, 4]
        await sampler.finish(1, 4)
        batch = await step
        assert numbers(batch.groups) == [1, 4]
        assert numbers(batch.drawn) == [1, 4, 0]
        assert batch.metrics["groups_all_right"] == 1
        assert batch.metrics["groups_drawn"] == 3
        assert source.ledger.fates == {"trained": 2, "all_right": 1}
        await source.aclose()

    run(steps())


def test_dynamic_sampling_gives_up_after_so_many_groups() -> None:
    source, sampler = made(use_dynamic_sampling=True, dynamic_sampling_max_gen_batches=3)

    async def steps() -> None:
        step = await taken(source, 1)
        for number in range(10):
            if number in sampler.waiting and not step.done():
                await sampler.finish(number, outcome=[0.0, 0.0])
        with pytest.raises(TrainingError, match=r"no group of .* has unequal rewards"):
            await step

    run(steps())
    assert len(sampler.asked) < 12


def test_what_is_wrong_with_rollouts_is_an_error_of_the_next_step() -> None:
    source, sampler = made()

    async def steps() -> dict[str, Any]:
        step = await taken(source, 1)
        await sampler.finish(0, 1)
        await step
        await trained(source, sampler, 1, sampler.finish(2, outcome=RewardError("no column")))
        state = source.state_dict()
        with pytest.raises(RewardError, match="no column"):
            await source.take(2, lambda part: None)
        await source.aclose()
        return state

    state = run(steps())
    assert len(state["tickets"]["order"]) == 2, "it is sampled again when the run is started again"
    assert not state["tickets"]["begun"]


def test_a_lost_worker_ends_the_update_beside_it() -> None:
    source, sampler = made()

    async def steps() -> None:
        step = await taken(source, 1)
        await sampler.finish(0, 1)
        await step
        with pytest.raises(WorkerLostError, match="killed"):
            await trained(source, sampler, 1, sampler.finish(2, outcome=WorkerLostError("killed")))
        await source.aclose()

    run(steps())


def test_too_many_failures_of_a_step_are_an_error_and_a_single_one_is_not() -> None:
    source, sampler = made(num_prompts_per_step=10)

    async def steps() -> None:
        step = await taken(source, 1)
        await sampler.finish(0, outcome="timeout in reward 'f'")
        await sampler.finish(*range(1, 10))
        assert len((await step).groups) == 10, "2 of 20 completions failed"
        await trained(source, sampler, 1)
        step = await taken(source, 2)
        await sampler.finish(10, 11, outcome="timeout in reward 'f'")
        await sampler.finish(*range(12, 20))
        with pytest.raises(RewardError, match="at least 4 of 20 rollouts failed"):
            await step
        await source.aclose()

    run(steps())


def test_rollouts_of_a_lookahead_run_are_trained_on_first() -> None:
    source, sampler = made()
    completion = Completion.of_version((4, 5), (-0.1, -0.2), "stop", 0)
    ahead = [Group(p.id, [Rollout(p, completion, "ok", reward=1.0)]) for p in Data().next(2)]
    lookahead = LookaheadSource(cast(Any, sampler), cast(Any, Data(drawn=2)), 9)
    lookahead.next = RolloutBatch(2, ahead, ahead)
    source.load_state_dict(lookahead.state_dict())
    sampler.now.version = 1

    async def steps() -> None:
        assert numbers((await source.take(2, lambda part: None)).groups) == [0, 1]
        await asyncio.sleep(0)
        assert sampler.asked == [2, 3]
        await source.aclose()

    run(steps())


def test_prompts_in_flight_are_not_lost_to_a_run_that_samples_in_turns() -> None:
    source, sampler = made()
    turns = RolloutSource(cast(Any, sampler), cast(Any, Data()), 9)

    async def steps() -> None:
        step = await taken(source, 1)
        with pytest.raises(CheckpointError, match="async_rollouts=stream"):
            turns.load_state_dict(source.state_dict())
        step.cancel()
        await source.aclose()

    run(steps())


def test_rollouts_that_failed_are_sampled_again_after_a_restart() -> None:
    """A judge that was down is up again."""
    source, sampler = made()

    async def steps() -> Any:
        step = await taken(source, 1)
        await sampler.finish(0, 1)
        await step
        await trained(source, sampler, 1, sampler.finish(2, 3, outcome="the judge is down"))
        state = source.state_dict()
        with pytest.raises(RewardError, match="the judge is down"):
            await source.take(2, lambda part: None)
        await source.aclose()
        return state

    state = run(steps())
    again, sampler = made()
    again.load_state_dict(state)
    sampler.now.version = 1

    async def on() -> None:
        step = await taken(again, 2)
        assert sampler.asked[:2] == [2, 3]
        await sampler.finish(2, 3)
        assert numbers((await step).groups) == [2, 3]
        await again.aclose()

    run(on())


def test_prompts_that_cannot_be_drawn_are_drawn_again_after_a_restart() -> None:
    source, sampler = made()
    data = cast(Any, source.data)
    original = data.next

    def broken(n: int) -> list[Prompt]:
        prompts = original(n)
        if data.drawn > 4:
            raise DataError("row 4 is not readable")
        return list(prompts)

    data.next = broken

    async def steps() -> dict[str, Any]:
        step = await taken(source, 1)
        await sampler.finish(0, 1)
        await step
        assert (await trained(source, sampler, 1))["loss"] == 1.0
        state = source.state_dict()
        with pytest.raises(DataError, match="row 4"):
            await source.take(2, lambda part: None)
        assert source.state_dict() == state
        await source.aclose()
        return state

    assert run(steps())["drawn"] == 4


def test_a_validation_counts_its_own_reports_and_a_step_its_own() -> None:
    source, sampler = made()
    assert source.group_sampler.scoring is source.scoring
    source.scoring.tally.reported["seen"] = [2.0, 4.0]
    source.scoring.tally.counts["killed"] = 3

    async def steps() -> None:
        step = await taken(source, 1)
        await sampler.finish(0, 1)
        batch = await step
        assert batch.reported == {"seen": 3.0, "workers_retried": 0.0, "workers_killed": 3.0}
        assert source.scoring.tally.drain() == {"workers_retried": 0.0, "workers_killed": 0.0}
        await source.aclose()

    run(steps())


def test_groups_that_failed_before_a_token_are_reported_as_failures() -> None:
    source, sampler = made(use_dynamic_sampling=True)

    async def steps() -> None:
        step = await taken(source, 1)
        future = sampler.waiting[0]
        future.set_result("the environment died")
        await sampler.finish(1, 2)
        with pytest.raises(RewardError, match="2 x the environment died"):
            await step
        await source.aclose()

    run(steps())


def test_groups_that_a_lookahead_run_dropped_keep_their_fate() -> None:
    source, _ = made()
    completion = Completion.of_version((4, 5), (-0.1, -0.2), "stop", 0)
    drawn = [Group(p.id, [Rollout(p, completion, "ok", reward=1.0)]) for p in Data().next(3)]
    drawn[2].rollouts[0].excluded = "all_right"
    lookahead = LookaheadSource(cast(Any, Sampler()), cast(Any, Data(drawn=3)), 9)
    lookahead.next = RolloutBatch(2, drawn[:2], drawn)
    source.load_state_dict(lookahead.state_dict())
    assert source.ledger.fates == {"all_right": 1}
    assert list(source.ledger.open) == [group.id for group in drawn[:2]]


def test_a_stream_without_anything_in_flight_goes_on_in_turns() -> None:
    source, sampler = made()
    source.data.load_state_dict({"drawn": 6})
    turns = RolloutSource(cast(Any, sampler), cast(Any, Data()), 9)
    turns.load_state_dict(source.state_dict())
    assert turns.state_dict() == {"drawn": 6}
    assert turns.next is None
