"""The configuration of `hone sft`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hone.config.schema.base import ConfigModel, CountOrAll, RunConfig, section
from hone.config.schema.data import DataConfig
from hone.config.schema.model import ModelConfig, OptimizerConfig
from hone.config.schema.run import CheckpointingConfig, ClusterConfig, LoggerConfig


class SupervisedSection(ConfigModel):
    """What every run of the supervised loop says about itself: how long, and when to validate."""

    max_num_epochs: CountOrAll = 1
    """Passes over the training data; null or -1: as many as max_num_steps takes."""
    max_num_steps: CountOrAll = None
    """Optimizer steps at most; null or -1: as many as the epochs have."""
    val_period: int = Field(10, ge=0)
    """Steps between validations; 0: none in between."""
    val_batches: int = Field(8, ge=-1)
    """Batches of each validation; 0 or -1: the whole validation data."""
    val_global_batch_size: int = Field(32, ge=1)
    """Sequences of a validation batch."""
    val_at_start: bool = True
    """Validate before the first step."""
    val_at_end: bool = False
    """Validate after the last step."""
    seed: int = Field(42, ge=0)
    """Seed of everything that is drawn."""


class SFTSection(SupervisedSection):
    """Supervised fine-tuning: how long, and when to validate."""

    only_unmask_final: bool = False
    """Train on the last assistant turn only, rather than on all of them."""


def _adamw() -> dict[str, Any]:
    return {"lr": 5.0e-6, "weight_decay": 0.1, "betas": [0.9, 0.98], "eps": 1.0e-5}


class SFTOptimizerConfig(OptimizerConfig):
    """An optimizer class and its arguments."""

    kwargs: dict[str, Any] = Field(default_factory=_adamw)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class SFTPolicyConfig(ModelConfig):
    """The model that is trained."""

    disable_dropout: bool = False
    """Turn off the dropout that the model came with (GPT-2's 0.1). An adapter's is `lora.dropout`."""
    optimizer: SFTOptimizerConfig = section(SFTOptimizerConfig)


class SFTConfig(RunConfig):
    """All settings of `hone sft`."""

    policy: SFTPolicyConfig = section(SFTPolicyConfig)
    sft: SFTSection = section(SFTSection)
    data: DataConfig = section(DataConfig)
    checkpointing: CheckpointingConfig = section(CheckpointingConfig)
    logger: LoggerConfig = section(LoggerConfig)
    cluster: ClusterConfig = section(ClusterConfig)

    @property
    def loop(self) -> SFTSection:
        """How long the run is, when it validates, what it draws with: the section of the command's own name."""
        return self.sft
