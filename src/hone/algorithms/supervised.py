"""The shape of a method, and what all of them do alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hone.config.schema import SupervisedSection
from hone.data.finding_log import FindingLog
from hone.types import Sample, TrainedModel


class Data(Protocol):
    """What a method draws from."""

    @property
    def counts(self) -> Mapping[str, int]: ...

    @property
    def epoch(self) -> int: ...

    @property
    def finding_log(self) -> FindingLog: ...

    @property
    def validation(self) -> list[Sample]: ...

    def total_steps(self, batch: int) -> int: ...

    def next(self, n: int) -> list[Sample]: ...

    def unread_columns(self) -> list[str]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class SupervisedAlgorithm(ABC):
    """One run's algorithm. `state_dict` is what a checkpoint keeps of it besides the model: where it stands in its
    data, and whatever its loss has gathered."""

    section: SupervisedSection

    def __init__(self, config: Any, data: Data) -> None:
        self.config, self.data = config, data
        self.section = config.loop

    async def prepare(self, learner: TrainedModel, draws: int) -> None:  # noqa: B027 (most need nothing)
        """Before a run is resumed, while the learner still has the weights that it began with: work out what is needed
        of them, for the first `draws` rows of the run."""

    @abstractmethod
    async def step(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """One optimizer step on one global batch; `loss` is among its metrics."""

    @abstractmethod
    async def measure(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """Metrics of held-out samples, without a step."""

    def describe(self, metrics: dict[str, float], samples: Sequence[Sample]) -> dict[str, float]:
        """The step's metrics as they are written down: nothing that was left out goes unsaid."""
        counts = self.data.counts
        return {
            "train_loss": metrics.pop("loss"),
            **metrics,
            "epoch": float(self.data.epoch),
            "samples": float(len(samples)),
            "target_tokens": float(sum(sample.num_targets for sample in samples)),
            "truncated_samples": float(counts.get("truncated", 0)),
            "excluded_samples": float(counts.get("excluded", 0)),
            "altered_samples": float(counts.get("altered", 0)),
        }

    def held_out(self) -> list[Sample]:
        """The held-out samples that a validation looks at."""
        size = self.section.val_batches * self.section.val_global_batch_size
        samples = self.data.validation
        if size <= 0:
            return samples
        units = dict.fromkeys(sample.unit or sample.id for sample in samples)
        taken = set(list(units)[:size])
        return [sample for sample in samples if (sample.unit or sample.id) in taken]

    def left_out(self) -> str:
        """A sentence about the rows that are not trained on at all; empty when there are none."""
        return ""

    def notes(self) -> list[str]:
        """What is to be told of the data before the first step."""
        left_out = self.left_out()
        return [*([left_out] if left_out else []), *self.data.unread_columns()]

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.data.load_state_dict(state)
