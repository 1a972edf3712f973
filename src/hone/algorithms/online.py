"""The protocol of algorithms that learn from the policy's own samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hone.types import Group, Learner, LogprobModel, Rollout, Sample, Teacher


class Models(Protocol):
    """The models of a run: those of the algorithm's `AlgorithmSpec.models` that its settings ask for; else None."""

    @property
    def learner(self) -> Learner:
        """The policy."""
        ...

    @property
    def reference(self) -> LogprobModel | None: ...

    @property
    def value(self) -> Learner | None: ...

    @property
    def teacher(self) -> Teacher | None: ...


class OnlineAlgorithm(ABC):
    """An algorithm of the online loop, for one run. `AlgorithmSpec.build` names the class.

    The loop (`hone.training.online`) samples and scores, then calls

        algorithm = GRPO(config)
        groups = ...                                              completions of num_prompts_per_step prompts, scored
        metrics = await algorithm.step(models, groups, step_number)     from 1
        await engine.sync_weights(step_number)                          the generator samples from the new weights

    Hazards. The groups of step n were sampled from the weights after step n - 1 (`Sample.versions`); after the first
    optimizer step of a rollout they are off-policy, so old log-probabilities must be computed before it. A rollout with
    `reward is None` failed, one with `excluded` set is not to be trained on: neither is a reward of 0. An algorithm
    keeps nothing from one step to the next: no checkpoint would hold it. What changes over a run is a function of
    `step_number`.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    async def step(self, models: Models, groups: Sequence[Group], step_number: int) -> dict[str, float]:
        """Advantages, losses and optimizer steps on the groups of one step. Returns metrics, `loss` among them."""

    def weight_of_reward(self) -> Callable[[Rollout, str], float] | None:
        """The weight of one of a rollout's rewards, if each reward has an advantage of its own; None if their sum has
        one. Dynamic sampling needs it to tell which groups have a gradient."""
        return None

    def is_on_policy_step(self, step_number: int) -> bool:
        """Whether this step learns from the policy's samples; else from answers of the data (`step_on_answers`)."""
        return True

    async def step_on_answers(self, models: Models, samples: Sequence[Sample]) -> dict[str, float]:
        """Optimizer steps on answers that the data has."""
        raise NotImplementedError

    def needs_answers(self) -> bool:
        """Whether any step learns from answers of the data. Rows without one are then refused before a model is
        loaded."""
        return False
