"""Where a step of the online loop gets its rollouts: sampled when it needs them, or while the step before trains."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from types import MappingProxyType, NoneType
from typing import Any

from hone.config.schema import RLConfig
from hone.data import PromptData
from hone.errors import CheckpointError, DataError, RewardError, TrainingError
from hone.rollout.dynamic_sampling import DynamicSamplingSpec, Weight, sample_informative_groups
from hone.rollout.sampler import OnEnd, RolloutSampler
from hone.training.background_thread import BackgroundThread
from hone.training.rollout_batch import RolloutBatch, from_state, staleness, to_state

ROLLOUT_ERRORS = (DataError, RewardError, TrainingError)
"""What is wrong with rollouts; other errors end the run wherever they occur."""
OF_ROLLOUTS = re.compile(
    r"(rewards|env|data)\.|policy\.generation\.(?!colocated|vllm_cfg)"
    r"|\w+\.(reward_|num_generations|num_prompts|max_rollout|overlong|use_dynamic|dynamic_sampling|batch_multiplier)"
)
"""Settings with which rollouts are drawn, sampled and rewarded."""


class RolloutSource:
    """Samples the rollouts of a step from the weights before it. Holds the position in the data."""

    next_parts: Mapping[str, str] = MappingProxyType({})
    """After which part of a step the progress line says something else than usual."""

    def __init__(
        self, sampler: RolloutSampler, data: PromptData, total_steps: int, weight: Weight | None = None
    ) -> None:
        """`weight`: see DynamicSamplingSpec."""
        self.sampler, self.data, self.total_steps, self.weight = sampler, data, total_steps, weight
        self.next: RolloutBatch | None = None
        """Rollouts that are ahead: of the next step."""

    async def take(self, step: int, on_end: OnEnd) -> RolloutBatch:
        """The rollouts of a step. Raises RewardError, TrainingError (see sample_informative_groups)."""
        batch, self.next = self.next, None
        return batch or await self._sample(step, on_end)

    async def train(
        self, step: int, update: Coroutine[Any, Any, dict[str, float]], on_end: OnEnd
    ) -> dict[str, float]:
        """Await `update`, the optimizer steps of `step`."""
        metrics = await update
        on_end("training")
        return metrics

    def last_step(self, step: int) -> int | None:
        """After `step`, the last one that has rollouts or prompts; None while the data go on."""
        if not self.data.exhausted:
            return None
        return step if self.next is None else self.next.step

    def state_dict(self) -> dict[str, Any]:
        """The position in the data."""
        return self.data.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with the rollouts that were ahead, whether or not this run samples ahead."""
        state = dict(state)
        tickets = state.pop("tickets", {})
        if tickets.get("order") or tickets.get("dropped"):
            raise CheckpointError(
                "the checkpoint has prompts in flight, which only async_rollouts=stream goes on with: set it as "
                "before, or begin a new run from the checkpoint's weights (hone convert)"
            )
        found = state.pop("next_rollouts", None)
        self.next = None if found is None else from_state(found)
        self.data.load_state_dict(state)

    def notices_after(self, changed: Sequence[str]) -> list[str]:
        """About rollouts of the checkpoint that were made before these settings changed."""
        if self.next is None or not (keys := [key for key in changed if OF_ROLLOUTS.match(key)]):
            return []
        return [
            f"the rollouts of step {self.next.step} are the checkpoint's, sampled and rewarded before a change of "
            f"{', '.join(keys)}: it takes effect from step {self.next.step + 1} on"
        ]

    async def _sample(self, step: int, on_end: OnEnd) -> RolloutBatch:
        sampler, config = self.sampler, self.sampler.config
        sampler.pool.set_progress(step - 1, self.total_steps)
        sample = partial(sampler.sample, on_end=on_end)
        if isinstance(config, RLConfig) and config.algorithm.use_dynamic_sampling:
            wanted = DynamicSamplingSpec.of(config.algorithm, self.weight)
            # The last step may find too few groups. The first may not: the run would end without having trained.
            filled = await sample_informative_groups(
                self.data.next, sample, wanted, last=lambda: self.data.exhausted and step > 1
            )
            batch = RolloutBatch(step, filled.groups, filled.drawn, filled.metrics())
        else:
            groups = await sample(self.data.next(config.algorithm.num_prompts_per_step))
            batch = RolloutBatch(step, groups, groups)
        batch.metrics["epoch"] = float(self.data.epoch)
        batch.reported = sampler.pool.metrics()
        return batch

    async def aclose(self) -> None:
        """Stop sampling."""

    def end_at(self, step: int) -> None:
        """There are no rollouts after those of `step`."""
        self.total_steps = step


class LookaheadSource(RolloutSource):
    """Samples the rollouts of step k + 1 while step k trains: from the weights after step k - 1, all of them.

    Which weights sample what does not depend on time, so two runs are alike. A checkpoint of step k holds the rollouts
    of step k + 1, which its weights could not sample again. The first step, and the first after a checkpoint without
    them, samples its own.

    Needs a generator outside of the learner's processes. The learner computes in a thread of its own, so that this
    event loop can serve generators, rewards and environments meanwhile.
    """

    next_parts = MappingProxyType({"training": "waiting for rollouts"})

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._failure: tuple[Exception, dict[str, Any]] | None = None
        """Why the next step has no rollouts, and the position in the data before it drew its prompts."""

    async def take(self, step: int, on_end: OnEnd) -> RolloutBatch:
        """The rollouts of a step, and how many steps old the weights were that sampled them."""
        if self._failure is not None:
            raise self._failure[0]
        if self.next is not None:
            on_end("reward")
        batch = await super().take(step, on_end)
        batch.metrics |= staleness(batch.drawn, step - 1)
        return batch

    async def train(
        self, step: int, update: Coroutine[Any, Any, dict[str, float]], on_end: OnEnd
    ) -> dict[str, float]:
        """Await `update`, and sample the rollouts of the next step meanwhile. The next step raises what is wrong with
        them: this one may be the last, if it reaches its goal."""
        if step >= self.total_steps or self.data.exhausted:
            return await super().train(step, update, on_end)
        start, before = time.perf_counter(), self.data.state_dict()
        sampling = asyncio.ensure_future(_timed(self._sample(step + 1, lambda part: None)))
        learner = BackgroundThread(update)
        try:
            both: list[asyncio.Future[Any]] = [learner.future, sampling]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if sampling.done() and not isinstance(sampling.exception(), (NoneType, *ROLLOUT_ERRORS)):
                await sampling  # a lost worker, or a signal that came while this thread was at work on them
            metrics = await learner.result()
            trained = time.perf_counter() - start
            on_end("training")
            try:
                self.next, sampled = await sampling
            except ROLLOUT_ERRORS as error:
                self._failure = error, before
                return metrics
        except BaseException:
            learner.stop()
            sampling.cancel()
            await asyncio.gather(learner.future, sampling, return_exceptions=True)
            raise
        on_end("waiting")
        longer = max(trained, sampled)
        return metrics | {
            "learner_idle_share": 1 - trained / longer,
            "generator_idle_share": 1 - sampled / longer,
        }

    def last_step(self, step: int) -> int | None:
        """As RolloutSource's; the step that raises is one."""
        last = super().last_step(step)
        return last if last is None or self._failure is None else step + 1

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, and the rollouts of the next step."""
        position = super().state_dict() if self._failure is None else self._failure[1]
        return position | {"next_rollouts": None if self.next is None else to_state(self.next)}


async def _timed(sampling: Coroutine[Any, Any, RolloutBatch]) -> tuple[RolloutBatch, float]:
    """A batch, and the seconds that it took."""
    start = time.perf_counter()
    return await sampling, time.perf_counter() - start
