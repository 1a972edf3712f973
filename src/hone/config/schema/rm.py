"""The configuration of `hone rm`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hone.config.paths import LocalPath
from hone.config.schema.base import RunConfig, section
from hone.config.schema.data import PreferenceDataConfig
from hone.config.schema.dpo import DPOCheckpointingConfig, PairPolicyConfig
from hone.config.schema.run import ClusterConfig, LoggerConfig
from hone.config.schema.sft import SupervisedSection


class RMSection(SupervisedSection):
    """Reward models: what they learn from, how long, and when to validate."""

    reward_model_type: Literal["bradley_terry", "regression"] = "bradley_terry"
    """`bradley_terry`: from pairs, of which one is better (with a column `margin`: by how much). `regression`: from
    answers with a number each, their column `score`."""
    use_margins: bool = True
    """Ask that a pair's scores differ by its row's margin, where it has one."""
    center_rewards_coefficient: float | None = Field(None, ge=0)
    """Factor of the squared sum of a pair's scores, which keeps scores around 0 (0.01 is usual); null: not kept."""


class RMPolicyConfig(PairPolicyConfig):
    """The model that is trained: a language model, which gets a new head, or a reward model. Sizes of batches count
    pairs."""

    has_scalar_head: ClassVar[bool] = True


class RMCheckpointingConfig(DPOCheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    checkpoint_dir: LocalPath = "results/rm"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""


class RMConfig(RunConfig):
    """All settings of `hone rm`."""

    policy: RMPolicyConfig = section(RMPolicyConfig)
    rm: RMSection = section(RMSection)
    data: PreferenceDataConfig = section(PreferenceDataConfig)
    checkpointing: RMCheckpointingConfig = section(RMCheckpointingConfig)
    logger: LoggerConfig = section(LoggerConfig)
    cluster: ClusterConfig = section(ClusterConfig)

    @property
    def loop(self) -> RMSection:
        """How long the run is, when it validates, what it draws with: the section of the command's own name."""
        return self.rm
