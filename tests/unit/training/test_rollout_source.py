"""Rollouts of the next step are sampled while a step trains, by the weights before it, and outlive a kill."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from positions import Position
from tiny import grpo_config, run

from hone.checkpoint.safe_reader import read_state
from hone.errors import TrainingError, WorkerLostError
from hone.training.rollout_batch import RolloutBatch, from_state, staleness, to_state
from hone.training.rollout_source import LookaheadSource, RolloutSource
from hone.types import Completion, Group, Prompt, Rollout, VersionSpan


def group_of(number: int, version: int, **rollout: Any) -> Group:
    prompt = Prompt(
        f"p{number}",
        (1, 2, number),
        "text",
        {"answer": 3, "nested": {"a": [1, 2.5, None]}},
        "data",
        first_completion=2,
    )
    completion = Completion.of_version((4, 5), (-0.1, -1 / 3), "stop", version)
    return Group(prompt.id, [Rollout(prompt, completion, "ok", reward=1.0, **rollout)])


class Data(Position):
    def next(self, n: int) -> list[int]:
        self.drawn += n
        return list(range(self.drawn - n, self.drawn))


@dataclass
class Sampler:
    """Samples at once from the weights of `version`, and keeps what happened in order."""

    events: list[str] = field(default_factory=list)
    version: int = 0
    seconds: float = 0.0
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.config = grpo_config(grpo={"num_prompts_per_step": 2})
        self.pool = SimpleNamespace(
            set_progress=lambda step, total: None, metrics=lambda: {"workers_killed": 0.0}
        )

    async def sample(self, prompts: Sequence[int], *, on_end: Any) -> list[Group]:
        self.events.append(f"sample {list(prompts)} by {self.version}")
        version = self.version
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        self.events.append(f"sampled {list(prompts)}")
        return [group_of(number, version) for number in prompts]


def source_of(kind: type[RolloutSource], sampler: Sampler, steps: int = 4, rows: int = 100) -> Any:
    return kind(cast(Any, sampler), cast(Any, Data(rows=rows)), steps)


async def loop(source: Any, sampler: Sampler, first: int, last: int) -> list[dict[str, float]]:
    """Steps `first` to `last`, each of which makes its version the generator's. Returns what each trained on."""
    trained = []

    async def update(step: int) -> dict[str, float]:
        sampler.events.append(f"train {step}")
        return {"loss": float(step)}

    for step in range(first, last + 1):
        batch = await source.take(step, lambda part: None)
        metrics = await source.train(step, update(step), lambda part: None)
        assert metrics["loss"] == step
        sampler.version = step
        trained.append({"prompt": int(batch.drawn[0].id[1:]), **batch.metrics})
    return trained


def test_each_step_trains_on_what_the_weights_two_updates_before_it_sampled() -> None:
    sampler = Sampler()
    trained = run(loop(source_of(LookaheadSource, sampler), sampler, 1, 4))
    asked = [event for event in sampler.events if event.startswith("sample ")]
    assert asked == ["sample [0, 1] by 0", "sample [2, 3] by 0", "sample [4, 5] by 1", "sample [6, 7] by 2"]
    assert [one["prompt"] for one in trained] == [0, 2, 4, 6]
    assert [one["staleness_max"] for one in trained] == [0, 1, 1, 1]


def test_sampling_and_training_run_at_the_same_time() -> None:
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler)
    both = asyncio.Event()

    async def waiting(prompts: Sequence[int], *, on_end: Any) -> list[Group]:
        if prompts[0]:
            await asyncio.wait_for(both.wait(), 5)  # set by the update, which runs in another thread
        return [group_of(number, 0) for number in prompts]

    async def steps() -> None:
        here = asyncio.get_running_loop()
        sampler.sample = waiting  # type: ignore[method-assign,assignment]
        await source.take(1, lambda part: None)

        async def update() -> dict[str, float]:
            here.call_soon_threadsafe(both.set)
            return {}

        shares = await source.train(1, update(), lambda part: None)
        assert min(shares.values()) == 0.0
        assert 0.0 <= max(shares.values()) <= 1.0

    run(steps())
    assert source.next.step == 2


def test_in_turns_nothing_is_sampled_ahead() -> None:
    sampler = Sampler()
    trained = run(loop(source_of(RolloutSource, sampler), sampler, 1, 2))
    assert sampler.events == [
        "sample [0, 1] by 0", "sampled [0, 1]", "train 1", "sample [2, 3] by 1", "sampled [2, 3]", "train 2",
    ]  # fmt: skip
    assert "staleness_max" not in trained[0]


def test_a_run_that_goes_on_trains_on_the_rollouts_of_its_checkpoint(tmp_path: Any) -> None:
    sampler = Sampler()
    whole = run(loop(source_of(LookaheadSource, sampler), sampler, 1, 4))
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler)
    begun = run(loop(source, sampler, 1, 2))
    torch.save(source.state_dict(), tmp_path / "state.pt")
    sampler = Sampler(version=2)
    source = source_of(LookaheadSource, sampler)
    source.load_state_dict(read_state(tmp_path / "state.pt"))
    assert begun + run(loop(source, sampler, 3, 4)) == whole
    assert sampler.events[0] == "train 3" or sampler.events[0] == "sample [6, 7] by 2"


def test_nothing_is_sampled_beyond_the_last_step_or_the_data() -> None:
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler, steps=2)
    run(loop(source, sampler, 1, 2))
    assert source.next is None
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler, steps=9, rows=4)
    run(loop(source, sampler, 1, 1))
    assert source.last_step(1) == 2, "the rollouts that are ahead are trained on"
    run(loop(source, sampler, 2, 2))
    assert source.last_step(2) == 2


def test_an_update_that_fails_ends_the_sampling_beside_it() -> None:
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler)

    async def steps() -> None:
        await source.take(1, lambda part: None)
        sampler.seconds = 60.0

        async def update() -> dict[str, float]:
            raise ValueError("not finite")

        await source.train(1, update(), lambda part: None)

    with pytest.raises(ValueError, match="not finite"):
        run(steps())
    assert "sampled [2, 3]" not in sampler.events


def test_sampling_that_fails_beside_an_update_is_raised() -> None:
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler)

    async def steps() -> None:
        await source.take(1, lambda part: None)
        sampler.failure = RuntimeError("no generator")
        await loop(source, sampler, 1, 1)

    with pytest.raises(RuntimeError, match="no generator"):
        run(steps())


def test_rewards_that_fail_ahead_of_their_step_are_an_error_of_that_step() -> None:
    """The step before may reach the goal, where nothing is to be learnt from the next rollouts, and is logged."""
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler, rows=6)

    async def steps() -> dict[str, Any]:
        await loop(source, sampler, 1, 1)
        await source.take(2, lambda part: None)
        sampler.failure = TrainingError("all rewards are equal")
        assert source.last_step(1) is None

        async def update() -> dict[str, float]:
            return {"loss": 2.0}

        assert await source.train(2, update(), lambda part: None) == {"loss": 2.0}
        assert source.last_step(2) == 3, "the data are used up, but the step that raises is to come"
        state: dict[str, Any] = source.state_dict()
        with pytest.raises(TrainingError, match="all rewards are equal"):
            await source.take(3, lambda part: None)
        return state

    assert run(steps()) == {"drawn": 4, "next_rollouts": None}, "what failed is sampled again"


def test_a_lost_worker_ends_the_update_beside_it() -> None:
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler)

    async def update() -> dict[str, float]:
        await asyncio.sleep(60)
        return {"loss": 0.0}

    async def steps() -> None:
        await source.take(1, lambda part: None)
        sampler.failure = WorkerLostError("killed")
        await source.train(1, update(), lambda part: None)

    start = time.monotonic()
    with pytest.raises(WorkerLostError, match="killed"):
        run(steps())
    assert time.monotonic() - start < 50


@pytest.mark.parametrize("waits", [False, True])
def test_a_run_that_is_stopped_at_once_stops_the_learner_in_its_thread(waits: bool) -> None:
    """Both one that computes there and one that waits for workers."""
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler)
    begun, ended = threading.Event(), threading.Event()

    async def update() -> dict[str, float]:
        begun.set()
        try:
            if waits:
                await asyncio.sleep(60)
            for _ in range(6000):
                time.sleep(0.01)
        finally:
            ended.set()
        return {"loss": 0.0}

    async def steps() -> None:
        await source.take(1, lambda part: None)
        training = asyncio.ensure_future(source.train(1, update(), lambda part: None))
        assert await asyncio.to_thread(begun.wait, 60)
        training.cancel()
        with pytest.raises(asyncio.CancelledError):
            await training
        assert ended.is_set()

    start = time.monotonic()
    run(steps())
    assert time.monotonic() - start < 50


def test_rollouts_that_are_ahead_are_trained_on_by_a_run_that_samples_in_turns() -> None:
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler, rows=4)
    run(loop(source, sampler, 1, 1))
    again = source_of(RolloutSource, sampler, rows=4)
    again.load_state_dict(source.state_dict())
    assert again.last_step(1) == 2
    [trained] = run(loop(again, sampler, 2, 2))
    assert trained["prompt"] == 2
    assert again.last_step(2) == 2
    assert again.state_dict() == {"drawn": 4}


def test_rollouts_of_a_checkpoint_that_a_change_of_settings_does_not_reach_are_told() -> None:
    sampler = Sampler()
    source = source_of(LookaheadSource, sampler)
    changed = ["policy.optimizer.kwargs.lr", "rewards.functions", "policy.generation.vllm_cfg.enforce_eager"]
    assert source.notices_after(changed) == [], "there are none"
    run(loop(source, sampler, 1, 1))
    again = source_of(LookaheadSource, sampler)
    again.load_state_dict(source.state_dict())
    assert again.notices_after(changed) == [
        "the rollouts of step 2 are the checkpoint's, sampled and rewarded before a change of rewards.functions: it "
        "takes effect from step 3 on"
    ]
    assert again.notices_after(changed[:1]) == []


def test_staleness_is_counted_by_token() -> None:
    groups = [group_of(0, 3), group_of(1, 5)]
    rollout = groups[0].rollouts[0]
    rollout.completion = Completion(
        (4,) * 6, (0.0,) * 6, "stop", (VersionSpan(3, 0, 2), VersionSpan(4, 2, 6))
    )
    # ages 2, 2, 1, 1, 1, 1 and 0, 0
    assert staleness(groups, 5) == {"staleness_mean": 1.0, "staleness_max": 2.0}
    assert staleness([], 5) == {"staleness_mean": 0.0, "staleness_max": 0.0}


def test_rollouts_are_the_same_after_a_file(tmp_path: Any) -> None:
    rich = group_of(
        0, 1, messages=[{"role": "assistant", "content": "a"}], rewards={"a": 0.1, "b": None}, weights={"a": 1 / 3},
        judge="a", extra={"note": "x", "count": 3}, stats={"turns": 2.0}, prefill="<think>",
    )  # fmt: skip
    rich.rollouts[0].completion = Completion(
        (4, 5, 6),
        (-0.5, 0.0, -1e-30),
        "turns",
        (VersionSpan(1, 0, 1), VersionSpan(2, 2, 3)),
        (True, False, True),
    )
    failed = group_of(1, 1, failure="timeout", excluded="truncated")
    failed.rollouts[0].reward = None
    batch = RolloutBatch(3, [failed], [rich, failed], {"epoch": 1.0}, {"workers_killed": 1.0})
    torch.save({"next": to_state(batch)}, tmp_path / "state.pt")
    again = from_state(read_state(tmp_path / "state.pt")["next"])
    assert again == batch
    assert again.groups[0] is again.drawn[1]


def test_values_that_are_not_a_number_stay_so(tmp_path: Any) -> None:
    batch = RolloutBatch(3, [], [group_of(0, 1, extra={"x": math.nan})])
    torch.save({"next": to_state(batch)}, tmp_path / "state.pt")
    again = from_state(read_state(tmp_path / "state.pt")["next"])
    assert math.isnan(again.drawn[0].rollouts[0].extra["x"])
