"""Generator servers for callers that do not wait for each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from generating import ROWS, Server, make_generator, make_prompts
from tiny import make_learner, make_model, run, sft_config

from hone.engine.concurrent_group import ConcurrentGroup
from hone.engine.weight_files import FilePublisher
from hone.errors import HoneError, WorkerLostError
from hone.types import Completion, Prompt, Sampling

SAMPLING = Sampling(max_new_tokens=8, seed=3)


class Slow(Server):
    """Its calls of `generate` wait for `go`; `asked` are the prompts of each call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.go = asyncio.Event()
        self.asked: list[list[str]] = []
        self.versions: list[int] = []

    async def receive(self, version: int) -> None:
        await super().receive(version)
        self.versions.append(version)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        self.asked.append([f"{p.id}#{p.first_completion}" for p in prompts])
        await self.go.wait()
        return await super().generate(prompts, sampling, count=count)


def publisher_of(folder: Path) -> FilePublisher:
    return FilePublisher(make_learner(make_model(), sft_config().policy).weights, folder)


async def group_of(*servers: Slow, max_restarts: int = 3) -> ConcurrentGroup:
    """A group that holds version 5 of a learner's weights."""
    group = ConcurrentGroup(servers, batch_size=ROWS, max_restarts=max_restarts)
    group.start()
    await publisher_of(servers[0].folder).publish(5)
    await group.receive(5)
    return group


async def alone(count: int) -> list[list[Completion]]:
    """Of one built-in generator with the same weights."""
    generator = make_generator(make_model(), max_rows=ROWS)
    generator.version = 5
    return await generator.generate(make_prompts(), SAMPLING, count=count)


def same(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """The same tokens; batches differ, and with them the last bits of log-probabilities."""
    for one, other in zip(chain(*found), chain(*expected), strict=True):
        assert (one.tokens, one.finish, one.versions) == (other.tokens, other.finish, other.versions)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_requests_of_all_callers_share_batches_and_each_gets_its_own(tmp_path: Path) -> None:
    server = Slow("generator 0", tmp_path)

    async def both() -> None:
        group = await group_of(server)
        server.go.set()
        calls = [group.generate([prompt], SAMPLING, count=2) for prompt in make_prompts()]
        same([one for [one] in await asyncio.gather(*calls)], await alone(2))

    run(both())
    assert server.asked[0] == ["p0#0", "p0#1", "p1#0", "p1#1"]
    assert [len(batch) for batch in server.asked] == [4, 4, 2]


def test_a_free_server_does_not_wait_for_one_that_is_busy(tmp_path: Path) -> None:
    slow, fast = Slow("generator 0", tmp_path), Slow("generator 1", tmp_path)

    async def both() -> None:
        group = await group_of(slow, fast)
        fast.go.set()
        first = asyncio.ensure_future(group.generate(make_prompts()[:1], SAMPLING))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        same(await group.generate(make_prompts()[1:2], SAMPLING), (await alone(1))[1:2])
        assert not first.done()
        slow.go.set()
        same(await first, (await alone(1))[:1])

    run(both())


def test_requests_with_other_sampling_parameters_are_batches_of_their_own(tmp_path: Path) -> None:
    server = Slow("generator 0", tmp_path)

    async def both() -> None:
        group = await group_of(server)
        server.go.set()
        greedy = Sampling(max_new_tokens=8, temperature=0.0)
        await asyncio.gather(
            *(group.generate([p], s) for p, s in zip(make_prompts(), (SAMPLING, greedy) * 2, strict=False))
        )

    run(both())
    assert server.asked == [["p0#0"], ["p1#0"], ["p2#0"], ["p3#0"]]


def test_weights_are_received_while_completions_are_sampled(tmp_path: Path) -> None:
    server = Slow("generator 0", tmp_path)

    async def both() -> None:
        group = await group_of(server)
        call = asyncio.ensure_future(group.generate(make_prompts(), SAMPLING))
        while not server.asked:
            await asyncio.sleep(0)
        await publisher_of(tmp_path).publish(6)
        await group.receive(6)
        assert server.versions == [5, 6]
        assert not call.done()
        server.go.set()
        assert {one.version for group_ in await call for one in group_} == {6}

    run(both())


def test_completions_of_a_lost_server_are_sampled_again_by_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, other = Slow("generator 0", tmp_path, (2,)), Slow("generator 1", tmp_path)

    async def all_of_them() -> None:
        group = await group_of(lost, other)
        lost.go.set()
        other.go.set()
        calls = [group.generate([prompt], SAMPLING, count=2) for prompt in make_prompts()]
        same([one for [one] in await asyncio.gather(*calls)], await alone(2))

    run(all_of_them())
    assert lost.starts == 2
    assert capsys.readouterr().err.count("generator 0 died\nstarting generator 0 again") == 1


def test_a_server_that_cannot_be_started_ends_all_calls(tmp_path: Path) -> None:
    server = Slow("generator 0", tmp_path, range(2, 99))

    async def both() -> None:
        group = await group_of(server, max_restarts=2)
        server.go.set()
        calls = [group.generate([prompt], SAMPLING, count=3) for prompt in make_prompts()]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one) for one in found} == {WorkerLostError}

    run(both())


def test_a_server_that_is_lost_while_the_learner_publishes_starts_with_the_next_version(
    tmp_path: Path,
) -> None:
    """The version that it had is removed when the next one is published."""
    server = Slow("generator 0", tmp_path, (2,))

    async def both() -> None:
        group = await group_of(server)
        call = asyncio.ensure_future(group.generate(make_prompts(), SAMPLING))
        while not server.asked:
            await asyncio.sleep(0)
        await publisher_of(tmp_path).publish(6)
        server.go.set()  # it is lost now
        while server.starts < 2:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not call.done()
        await group.receive(6)
        assert {one.version for group_ in await call for one in group_} == {6}

    run(both())


def test_what_nobody_waits_for_is_not_sampled(tmp_path: Path) -> None:
    server = Slow("generator 0", tmp_path)

    async def both() -> None:
        group = await group_of(server)
        calls = [asyncio.ensure_future(group.generate([p], SAMPLING, count=4)) for p in make_prompts()]
        while not server.asked:
            await asyncio.sleep(0)
        for call in calls[:2]:  # the first is being sampled, the second waits
            call.cancel()
        await asyncio.gather(*calls[:2], return_exceptions=True)
        assert server.aborted == [("p0", number) for number in range(4)]
        server.go.set()
        same([one for [one] in await asyncio.gather(*calls[2:])], (await alone(4))[2:])

    run(both())
    assert [batch[0] for batch in server.asked] == ["p0#0", "p2#0", "p3#0", "p4#0"]


def test_a_server_that_batches_itself_gets_every_request_at_once(tmp_path: Path) -> None:
    servers = [Slow(f"generator {i}", tmp_path) for i in range(2)]

    async def both() -> None:
        for server in servers:
            server.batches_itself = True
        group = await group_of(*servers)
        call = asyncio.ensure_future(group.generate(make_prompts(), SAMPLING, count=2))
        while sum(len(server.asked) for server in servers) < 10:
            await asyncio.sleep(0)
        assert [len(server.asked) for server in servers] == [5, 5]
        for server in servers:
            server.go.set()
        same(await call, await alone(2))

    run(both())


def test_what_a_generator_raises_is_raised_to_those_who_asked(tmp_path: Path) -> None:
    server = Slow("generator 0", tmp_path)

    async def both() -> None:
        group = await group_of(server)
        server.go.set()
        bad = Prompt("long", (5,) * 64, "text")
        with pytest.raises(HoneError, match="no room for an answer"):
            await group.generate([bad], SAMPLING)
        same(await group.generate(make_prompts(), SAMPLING), await alone(1))

    run(both())


@pytest.mark.parametrize("batches_itself", [False, True])
def test_a_server_is_started_again_also_if_nobody_waits_for_what_was_lost(
    batches_itself: bool, tmp_path: Path
) -> None:
    server = Slow("generator 0", tmp_path, (2,))
    server.batches_itself = batches_itself
    begun, go = threading.Event(), threading.Event()

    async def both() -> None:
        group = await group_of(server)
        start = server.start

        def slow_start() -> None:
            begun.set()
            assert go.wait(30)
            start()

        server.start = slow_start  # type: ignore[method-assign]
        call = asyncio.ensure_future(group.generate(make_prompts()[:1], SAMPLING))
        server.go.set()
        assert await asyncio.to_thread(begun.wait, 30)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        go.set()
        same(await asyncio.wait_for(group.generate(make_prompts(), SAMPLING), 30), await alone(1))
        await group.receive(5)

    run(both())
    assert server.starts == 2


def test_after_a_restart_that_failed_later_calls_fail_at_once(tmp_path: Path) -> None:
    server = Slow("generator 0", tmp_path, range(2, 99))

    async def both() -> None:
        group = await group_of(server, max_restarts=1)
        server.go.set()
        for _ in range(2):
            with pytest.raises(WorkerLostError, match="generator 0 died"):
                await asyncio.wait_for(group.generate(make_prompts(), SAMPLING), 30)

    run(both())
