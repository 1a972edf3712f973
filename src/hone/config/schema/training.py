"""Settings that every training run has: model, data, checkpoints, logs, devices, and how long it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from hone.config.checks.conditions import ConditionalSettings
from hone.config.dependent_defaults.settings import Adjustment, Settings
from hone.config.schema.base import ConfigModel, CountOrAll, RunConfig, section
from hone.config.schema.data import DataConfig
from hone.config.schema.model import ModelConfig
from hone.config.schema.roots import algorithm_of, own_section
from hone.config.schema.run import CheckpointingConfig, ClusterConfig, LoggerConfig


class AlgorithmSection(ConfigModel):
    """Length of a run, its validations, and its seed."""

    max_num_epochs: CountOrAll = 1
    """Passes over the training data; null or -1: no limit but max_num_steps."""
    max_num_steps: CountOrAll = None
    """Maximum number of steps; null or -1: no limit but max_num_epochs."""
    val_period: int = Field(10, ge=0)
    """Steps between validations; 0: none in between."""
    val_at_start: bool = False
    """Validate before the first step."""
    val_at_end: bool = False
    """Validate after the last step."""
    seed: int = Field(42, ge=0)
    """Seed of data order, sampling and initialisation."""


class TrainingConfig(RunConfig):
    """Settings of any training command. An algorithm adds its own section, named in its `AlgorithmSpec`."""

    conditional: ClassVar[tuple[ConditionalSettings, ...]] = ()
    """The algorithm's own settings that are read only under a condition."""

    policy: ModelConfig = section(ModelConfig)
    data: DataConfig = section(DataConfig)
    checkpointing: CheckpointingConfig = section(CheckpointingConfig)
    logger: LoggerConfig = section(LoggerConfig)
    cluster: ClusterConfig = section(ClusterConfig)

    @property
    def algorithm(self) -> Any:
        """The algorithm's own section, an `AlgorithmSection`."""
        return getattr(self, own_section(self))

    @property
    def uses_reference_model(self) -> bool:
        """Whether the initial policy is kept, frozen, beside the policy."""
        return False

    @property
    def critic(self) -> ModelConfig | None:
        """Settings of the value model, if the run trains one."""
        return None

    @property
    def teacher_model(self) -> ModelConfig | None:
        """Settings of the frozen teacher, if the run has one."""
        return None

    @property
    def teacher_topk(self) -> int:
        """Number of the teacher's most likely tokens that are compared at each target."""
        return 0

    @property
    def logits_temperature(self) -> float:
        """Divides the logits before log-probabilities are taken."""
        return 1.0

    def problems(self) -> Iterator[str]:
        """What is wrong with the algorithm's own settings: sentences that name the keys and the fix."""
        yield from ()

    def adjustments(self, settings: Settings) -> Iterator[Adjustment]:
        """Defaults of the algorithm's own settings that have to agree with a given setting."""
        yield from ()

    @model_validator(mode="after")
    def _default_folder(self) -> Self:
        if self.checkpointing.checkpoint_dir is None:
            self.checkpointing.checkpoint_dir = f"results/{algorithm_of(self)}"
        return self
