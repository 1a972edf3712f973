"""Completions by request: awaited, cancelled, and decoded across a change of the weights."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import make_learner, make_model, run

from hone.engine.local.continuous_batching import ContinuousBatching
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.request_generator import RequestGenerator
from hone.errors import HoneError, ModelError
from hone.model.weights import named_weights
from hone.types import Prompt, Rollout, Sampling, sample_of

SAMPLING = Sampling(max_new_tokens=12, seed=1, ignore_eos=True)


def make(max_rows: int = 4) -> LocalGenerator:
    return make_generator(make_model(), max_rows=max_rows, continuous=ContinuousBatching())


def requests_of(prompts: list[Prompt], count: int) -> list[Prompt]:
    return [replace(prompt, first_completion=number) for prompt in prompts for number in range(count)]


class Steps:
    """Counts the steps of a generator's batch, and holds the one of number `hold_at` until `go` is set."""

    def __init__(self, generator: LocalGenerator, hold_at: int) -> None:
        self.count, self.hold_at, self.go = 0, hold_at, threading.Event()
        with generator.decoding(1):
            pass  # it tries its caches, once
        generator.model.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1
        if self.count == self.hold_at:
            assert self.go.wait(30)

    async def held(self) -> None:
        """Return when the step is held."""
        while self.count < self.hold_at:
            await asyncio.sleep(0.001)


def test_requests_have_the_tokens_of_one_call() -> None:
    prompts = make_prompts()

    async def ask() -> list[Any]:
        async with RequestGenerator(make()) as requests:
            first = [
                asyncio.ensure_future(requests.generate_one(prompt, SAMPLING))
                for prompt in requests_of(prompts, 2)[::-1]
            ]
            done = await asyncio.gather(*first)
            await asyncio.sleep(0.01)  # idle: the next request begins anew
            return [*done[::-1], await requests.generate_one(prompts[0], replace(SAMPLING, seed=2))]

    *found, last = run(ask())
    expected = run(make().generate(prompts, SAMPLING, count=2))
    assert [one.tokens for one in found] == [one.tokens for each in expected for one in each]
    other = run(make().generate(prompts[:1], replace(SAMPLING, seed=2)))
    assert last.tokens == other[0][0].tokens


def test_a_cancelled_request_makes_room_for_others() -> None:
    prompts, generator = make_prompts((5, 6)), make(max_rows=1)
    made = Steps(generator, hold_at=2)

    async def ask() -> Any:
        async with RequestGenerator(generator) as requests:
            endless = replace(SAMPLING, max_new_tokens=50)
            blocked = asyncio.ensure_future(requests.generate_one(prompts[0], endless))
            waiting = asyncio.ensure_future(requests.generate_one(prompts[1], SAMPLING))
            await made.held()
            blocked.cancel()
            await asyncio.wait([blocked])
            made.go.set()
            done = await waiting
            assert blocked.cancelled()
            assert made.count == 2 + 12
            assert not requests.batcher.busy
            return done

    assert run(ask()).tokens == run(make().generate(prompts, SAMPLING))[1][0].tokens


@pytest.mark.parametrize("recompute", [False, True])
def test_weights_change_between_two_steps(recompute: bool) -> None:
    prompt = make_prompts((20,))[0]
    generator = make()
    made = Steps(generator, hold_at=4)

    async def change(requests: RequestGenerator) -> None:
        async with requests.paused():
            await asyncio.sleep(0.02)
            assert made.count == 4
            generator.load_weights(1, named_weights(make_model(seed=5)))

    async def ask() -> Any:
        async with RequestGenerator(generator, recompute=recompute) as requests:
            task = asyncio.ensure_future(requests.generate_one(prompt, SAMPLING))
            await made.held()
            changing = asyncio.ensure_future(change(requests))
            await asyncio.sleep(0)  # it waits for the step
            made.go.set()
            await changing
            return await task

    done = run(ask())
    assert [tuple(span) for span in done.versions] == [(0, 0, 4), (1, 4, 12)]
    learner = make_learner(generator.model)
    sample = sample_of(Rollout(prompt, done, ""))
    gap = (sample.token_columns["generation_logprobs"] - run(learner.forward([sample]))[0]).abs()
    assert float(gap[:4].min()) > 1e-4  # of the first weights
    assert (float(gap[4:].max()) < 1e-4) == recompute


def test_an_error_reaches_each_request_that_waits() -> None:
    generator = make()
    with torch.no_grad():
        generator.model.get_output_embeddings().weight[7] = 3e38

    async def ask() -> None:
        async with RequestGenerator(generator) as requests:
            tasks = [requests.generate_one(prompt, SAMPLING) for prompt in make_prompts((3, 4))]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in done] == [ModelError, ModelError]
            with pytest.raises(ModelError):
                await requests.generate_one(make_prompts((5,))[0], SAMPLING)

    with pytest.raises(ModelError, match="gives logits that are not finite"):  # on leaving
        run(ask())


def test_a_prompt_without_tokens_fails_alone() -> None:
    async def ask() -> None:
        async with RequestGenerator(make()) as requests:
            with pytest.raises(HoneError, match="has no tokens"):
                await requests.generate_one(Prompt("empty", (), ""), SAMPLING)
            await requests.generate_one(make_prompts((3,))[0], SAMPLING)

    run(ask())


def test_leaving_cancels_what_is_outstanding() -> None:
    async def ask() -> Any:
        async with RequestGenerator(make()) as requests:
            task = asyncio.ensure_future(
                requests.generate_one(make_prompts((3,))[0], replace(SAMPLING, max_new_tokens=50))
            )
            await asyncio.sleep(0.01)
        await asyncio.wait([task])
        return task

    assert run(ask()).cancelled()
