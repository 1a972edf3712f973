"""The protocol of algorithms that learn from given examples, and what they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hone.config.schema.supervised import SupervisedSection
from hone.data import PreferenceData
from hone.data.finding_log import FindingLog
from hone.types import Batch, LossFn, Outputs, Sample, Totals, TrainedModel


class Data(Protocol):
    """A resumable source of training samples."""

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
    """An algorithm of the supervised loop, for one run. `AlgorithmSpec.build` names the class.

    The loop (`hone.training.supervised`) calls

        algorithm = SFT(config, tokenizer)          reads and checks the data; raises DataError, ConfigError
        await algorithm.prepare(learner, draws)     the weights are those that the run begins with
        algorithm.load_state_dict(state)            if there is a checkpoint
        samples = algorithm.data.next(size)
        metrics = await algorithm.step(learner, samples)
        held_out = await algorithm.measure(learner, algorithm.held_out())

    All state that `step` carries to the next step, and the position in the data, must be in `state_dict`: a killed
    run resumes from it, bit for bit. So must what `prepare` computes from the initial weights, which a resumed run no
    longer has."""

    section: SupervisedSection

    def __init__(self, config: Any, data: Data) -> None:
        self.config, self.data = config, data
        self.section = config.algorithm

    async def prepare(self, learner: TrainedModel, draws: int) -> None:  # noqa: B027 (most need nothing)
        """Compute what the algorithm needs from the initial weights, for the first `draws` rows. Called before a
        checkpoint is loaded."""

    @abstractmethod
    async def step(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """One optimizer step on one global batch; `loss` is among its metrics."""

    @abstractmethod
    async def measure(self, learner: TrainedModel, samples: Sequence[Sample]) -> dict[str, float]:
        """Metrics of held-out samples, without a step."""

    def describe(self, metrics: dict[str, float], samples: Sequence[Sample]) -> dict[str, float]:
        """The step's metrics as they are logged, with counts of truncated and excluded samples."""
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
        """The samples of a validation."""
        size = self.section.val_batches * self.section.val_global_batch_size
        samples = self.data.validation
        if size <= 0:
            return samples
        units = dict.fromkeys(sample.unit or sample.id for sample in samples)
        taken = set(list(units)[:size])
        return [sample for sample in samples if (sample.unit or sample.id) in taken]

    def left_out(self) -> str:
        """A sentence about the rows that are not trained on; empty if there are none."""
        return ""

    def notes(self) -> list[str]:
        """Notices on the data, printed before the first step."""
        return [*filter(None, [self.left_out()]), *self.data.unread_columns()]

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.data.load_state_dict(state)


class PairAlgorithm(SupervisedAlgorithm):
    """An algorithm that learns from comparisons: a unit is a pair, or one rated answer."""

    data: PreferenceData

    def describe(self, metrics: dict[str, float], samples: Sequence[Sample]) -> dict[str, float]:
        return super().describe(metrics, samples) | {"units": float(len({sample.unit for sample in samples}))}

    def left_out(self) -> str:
        return self.data.excluded_notice()


def evaluate_loss(loss: LossFn, samples: Sequence[Sample], outputs: Sequence[Tensor]) -> dict[str, float]:
    """`loss` and its metrics on held-out samples, without a backward. `outputs`: the model's log-probabilities or
    values of each sample's targets. Shapes: `_N` targets, `_S` sequences."""
    lengths_S = torch.tensor([values.numel() for values in outputs])
    batch = Batch(
        ids=[sample.id for sample in samples],
        tokens_N=torch.cat([sample.tokens_T[sample.loss_mask_T] for sample in samples]),
        sequence_N=torch.repeat_interleave(torch.arange(len(samples)), lengths_S),
        lengths_S=lengths_S,
        sequence_columns={
            name: torch.tensor([sample.sequence_columns[name] for sample in samples])
            for name in samples[0].sequence_columns
        },
    )
    sums = {name: float(column.sum()) for name, column in batch.sequence_columns.items()}
    values_N = torch.cat(list(outputs))
    totals = Totals(float(lengths_S.sum()), float(len(samples)), sums)
    result = loss(Outputs(values_N, values_N=values_N), batch, totals)
    return {"loss": float(result.loss), **{name: float(value) for name, value in result.metrics.items()}}
