"""Rollouts that never wait: prompts are sampled all the time, and a step trains on the groups that are finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from hone.config.schema import RLSection
from hone.rollout.dynamic_sampling import (
    DynamicSamplingResult,
    DynamicSamplingSpec,
    classify_group,
    no_informative_group,
)
from hone.rollout.environments.episode_result import NO_REWARD
from hone.rollout.rewards.scoring_batch import Scoring, Tally
from hone.rollout.sampler import OnEnd
from hone.rollout.timeline import GENERATOR
from hone.rollout.workers.failure_budget import FailureBudget
from hone.training.background_thread import BackgroundThread
from hone.training.rollout_batch import RolloutBatch, from_state, spans_per_rollout, staleness
from hone.training.rollout_source import OF_ROLLOUTS, ROLLOUT_ERRORS, RolloutSource
from hone.training.tickets import STALE, Ledger, Ticket
from hone.types import Group


class StreamSource(RolloutSource):
    """Keeps prompts in flight while the learner trains. Weights arrive while completions are sampled: those go on with
    the new ones, so a completion may come from several versions (`Completion.versions`).

    No token that is trained on comes from weights older than `max_staleness` versions before those that it trains.
    Every prompt that was drawn is exactly one of trained, dropped with a cause, or open (`Ledger`); a checkpoint holds
    the open ones. Which groups a step trains on depends on time.

    The learner computes in a thread of its own, so that this event loop can serve generators, rewards and environments.
    """

    next_parts = MappingProxyType({"waiting": "training"})

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        section = self.sampler.config.algorithm
        assert isinstance(section, RLSection)
        # A limit of failures is for all groups of a step (`_check_failures`), not for each of them; and a validation
        # counts only its own.
        self.scoring = Scoring(max_failure_fraction=1.0, tally=Tally())
        self.group_sampler = replace(self.sampler, scoring=self.scoring)
        self.dynamic: DynamicSamplingSpec | None = None
        if section.use_dynamic_sampling:
            self.dynamic = DynamicSamplingSpec.of(section, self.weight)
        self.ledger = Ledger(
            section.num_prompts_per_step, section.max_staleness, section.extra_prompts_in_flight
        )
        self._version = self._trained = 0
        self._changed, self._failed = asyncio.Event(), asyncio.Event()
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sampled: set[str] = set()
        """Groups that were finished since the step before; others are of a checkpoint."""
        self._waited = 0.0

    async def take(self, step: int, on_end: OnEnd) -> RolloutBatch:
        """The rollouts of a step: the first groups to be finished, as far as the bound allows. Raises what went wrong
        with any group since the step before."""
        start, self._version, self._trained = time.perf_counter(), step - 1, step - 1
        self.sampler.pool.set_progress(step - 1, self.total_steps)
        self._resume()
        self._drop_stale(step - 1)
        self._draw()
        while (chosen := self._choose(step)) is None:
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        groups = self.ledger.take(chosen)
        self._trained = step
        self._drop_stale(step)
        batch = self._batch(step, groups)
        self._check_failures([group for group in batch.drawn if group.id in self._sampled])
        self._sampled.clear()
        self._waited = time.perf_counter() - start
        on_end("waiting")
        return batch

    async def train(
        self, step: int, update: Coroutine[Any, Any, dict[str, float]], on_end: OnEnd
    ) -> dict[str, float]:
        """Await `update` while prompts are sampled. The next step raises what is wrong with their rollouts; a lost
        worker or a signal ends this one."""
        start = time.perf_counter()
        self._draw()
        learner, failed = BackgroundThread(update), asyncio.ensure_future(self._failed.wait())
        try:
            either: list[asyncio.Future[Any]] = [learner.future, failed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not learner.future.done() and self._failure is not None:
                raise self._failure
            metrics = await learner.result()
        except BaseException:
            learner.stop()
            await asyncio.gather(learner.future, return_exceptions=True)
            raise
        finally:
            failed.cancel()
        on_end("training")
        trained = time.perf_counter() - start
        return metrics | {
            "learner_idle_share": self._waited / (self._waited + trained),
            "generator_idle_share": self.sampler.timeline.idle_share(GENERATOR),
        }

    def last_step(self, step: int) -> int | None:
        """After `step`, the last one that has rollouts or prompts; None while the data go on."""
        return step + -(-len(self.ledger.open) // self.ledger.size) if self.data.exhausted else None

    async def aclose(self) -> None:
        """Give up what is being sampled; it stays open in the checkpoint."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, and the open tickets."""
        return self.data.state_dict() | {"tickets": self.ledger.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; what was being sampled is sampled anew. Rollouts that a `lookahead` run left are trained
        on first."""
        state = dict(state)
        tickets, ahead = state.pop("tickets", None), state.pop("next_rollouts", None)
        self.data.load_state_dict(state)
        if tickets is not None:
            self.ledger.load_state_dict(tickets, self.data.again)
        if ahead is not None:
            self._take_over(from_state(ahead))

    def notices_after(self, changed: Sequence[str]) -> list[str]:
        """About groups of the checkpoint that were made before these settings changed."""
        keys = [key for key in changed if OF_ROLLOUTS.match(key)]
        finished = sum(ticket.group is not None for ticket in self.ledger.open.values())
        if not keys or not finished:
            return []
        return [
            f"{finished} groups of the checkpoint were sampled and rewarded before a change of {', '.join(keys)}: they "
            "are trained on as they are"
        ]

    def _take_over(self, batch: RolloutBatch) -> None:
        """Open a ticket for each group to train on, and close one for each of the others."""
        trained = {id(group) for group in batch.groups}
        for group in batch.drawn:
            versions = [
                rollout.completion.version for rollout in group.rollouts if rollout.completion.versions
            ]
            begun = min(versions, default=batch.step - 1)
            ticket = Ticket(group.id, group.rollouts[0].prompt, begun, group=group)
            self.ledger.open[group.id] = ticket
            if id(group) not in trained:
                self.ledger.drop(ticket, next((r.excluded for r in group.rollouts if r.excluded), "surplus"))

    def _resume(self) -> None:
        """Begin anew what a checkpoint's run was sampling."""
        for ticket in self.ledger.open.values():
            if ticket.group is None and ticket.task is None:
                ticket.version = self._version
                self._start(ticket)

    def _draw(self) -> None:
        """Start to sample as many further prompts as there is room for."""
        if self._failure is not None:
            return
        left = self.total_steps - self._trained
        needed = left * self.ledger.size + (self.ledger.extra if left else 0)
        room = min(self.ledger.room(self._version, self._trained), needed - len(self.ledger.open))
        before = self.data.state_dict()
        try:
            prompts = self.data.next(max(0, room))
        except ROLLOUT_ERRORS as error:  # the prompts are drawn again when the run is started again
            self.data.load_state_dict(before)
            self._fail(error)
            return
        for prompt in prompts:
            ticket = self.ledger.open[prompt.id] = Ticket(prompt.id, prompt, self._version)
            self._start(ticket)

    def _fail(self, error: BaseException) -> None:
        """The next step raises the error; a lost worker or a signal ends the present one."""
        self._failure = self._failure or error
        if not isinstance(error, ROLLOUT_ERRORS):
            self._failed.set()

    def _start(self, ticket: Ticket) -> None:
        ticket.task = asyncio.ensure_future(self._sample_ticket(ticket))
        self._tasks.add(ticket.task)
        ticket.task.add_done_callback(self._tasks.discard)

    async def _sample_ticket(self, ticket: Ticket) -> None:
        try:
            [group] = await self.group_sampler.sample([ticket.prompt])
            self._finish(ticket, group)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # `take` or `train` raises it
            self._fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._changed.set()

    def _finish(self, ticket: Ticket, group: Group) -> None:
        ticket.group = group
        self._sampled.add(ticket.id)
        if self.dynamic is not None and (kind := classify_group(group, self.dynamic.weight)) != "informative":
            self.ledger.drop(ticket, kind)
            if not self._sampled_enough():
                self._draw()

    def _sampled_enough(self) -> bool:
        """Whether dynamic sampling has dropped as many groups as a step may sample."""
        spec = self.dynamic
        return spec is not None and len(self.ledger.dropped) >= spec.batch * spec.max_batches

    def _choose(self, step: int) -> list[Ticket] | None:
        if self._failure is not None:
            return []
        ended = self.data.exhausted or self._sampled_enough()
        chosen = self.ledger.choose(step - 1, more=not ended)
        if chosen == [] and self.dynamic is not None and (step == 1 or not self.data.exhausted):
            raise no_informative_group(self._dynamic_result([]), self.dynamic)
        return chosen

    def _drop_stale(self, version: int) -> None:
        """Drop the groups that are too old for the step that trains the weights of `version`."""
        for ticket in self.ledger.drop_stale(version):
            if ticket.task is not None:
                ticket.task.cancel()

    def _batch(self, step: int, groups: list[Group]) -> RolloutBatch:
        metrics = staleness(groups, step - 1) | {"weight_versions": spans_per_rollout(groups)}
        if self.dynamic is not None:
            metrics |= self._dynamic_result(groups).metrics()
        dropped, self.ledger.dropped = self.ledger.dropped, []
        drawn = groups + [one.group for one in dropped if one.finished]
        metrics |= {
            "epoch": float(self.data.epoch),
            "groups_open": float(len(self.ledger.open)),
            "groups_stale": float(sum(one.why == STALE for one in dropped)),
        }
        aborted = [one.group for one in dropped if not one.finished]
        reported = self.sampler.pool.metrics(self.scoring.tally)
        return RolloutBatch(step, groups, drawn, metrics, reported, aborted)

    def _dynamic_result(self, groups: Sequence[Group]) -> DynamicSamplingResult:
        """What dynamic sampling has done since the step before."""
        dropped = [one.group for one in self.ledger.dropped if one.why != STALE]
        result = DynamicSamplingResult(list(groups), [*groups, *dropped], batches=1)
        assert self.dynamic is not None
        for kind in (classify_group(group, self.dynamic.weight) for group in dropped):
            result.counts[kind] = result.counts.get(kind, 0) + 1
        result.missing = max(0, self.ledger.size - len(groups))
        return result

    def _check_failures(self, groups: Sequence[Group]) -> None:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        failures = FailureBudget(self.sampler.config.rewards.max_failure_fraction, len(rollouts))
        for number, rollout in enumerate(rollouts):
            if rollout.failure and rollout.failure != NO_REWARD:
                failures.add(number, rollout.failure, rollout.failure.split(":")[0])
        failures.check("rollouts failed", "rewards.timeout_s")
