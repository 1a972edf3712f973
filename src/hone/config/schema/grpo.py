"""The configuration of `hone grpo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hone.config.paths import LocalPath
from hone.config.schema.base import ConfigModel, section
from hone.config.schema.online import PolicyGradientConfig, RLSection
from hone.config.schema.run import OnlineCheckpointingConfig

Preset = Literal[
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "sapo",
    "rloo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "gdpo",
    "maxrl",
]
"""Each is a file of `hone.config.presets`."""


class GRPOEstimatorConfig(ConfigModel):
    """What an advantage is measured against, and in what unit."""

    name: Literal["grpo", "rloo", "reinforce_plus_plus", "gdpo", "maxrl"] = "grpo"
    """`grpo`: relative to the group, as the two settings below `grpo` say. `rloo`: reward minus the mean of the
    group's others. `reinforce_plus_plus`: rewards in units of the whole rollout's standard deviation. `gdpo`: each
    reward function by itself as in `grpo`, then their weighted sum in units of its standard deviation over the rollout.
    `maxrl`: reward minus the group's mean, over that mean."""
    minus_baseline: bool = True
    """reinforce_plus_plus: take the group's mean off first (REINFORCE++-baseline)."""
    reward_weights: list[float] | None = None
    """gdpo: a weight for each reward function, in the alphabetical order of their names; null: their own weights."""


class GRPOSection(RLSection):
    """Group relative policy optimization: rollouts, advantages, validation."""

    preset: Preset | None = None
    """A method's own settings (docs/rl.md), below those that are given; null: none."""
    num_updates_per_rollout: int = Field(1, ge=1)
    """Passes of the optimizer over each rollout."""
    adv_estimator: GRPOEstimatorConfig = section(GRPOEstimatorConfig)
    normalize_rewards: bool = True
    """`grpo`, `gdpo`: divide advantages by the group's standard deviation."""
    use_leave_one_out_baseline: bool = True
    """`grpo`, `gdpo`: the baseline of a completion is the mean of the others of its group; false: the group's mean."""
    advantage_clip_low: float | None = None
    """Lower limit of advantages; null: none."""
    advantage_clip_high: float | None = None
    """Upper limit of advantages; null: none."""

    @property
    def updates_per_rollout(self) -> int:
        """Passes of the optimizer over each rollout."""
        return self.num_updates_per_rollout


class GRPOCheckpointingConfig(OnlineCheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    checkpoint_dir: LocalPath = "results/grpo"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""


class GRPOConfig(PolicyGradientConfig):
    """All settings of `hone grpo`."""

    grpo: GRPOSection = section(GRPOSection)
    checkpointing: GRPOCheckpointingConfig = section(GRPOCheckpointingConfig)

    @property
    def loop(self) -> GRPOSection:
        """How long the run is, when it validates, what it draws with: the section of the command's own name."""
        return self.grpo
