"""The configuration of `hone grpo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from hone.config.checks.conditions import ConditionalSettings, only_for
from hone.config.dependent_defaults.settings import Adjustment, Settings
from hone.config.schema.base import ConfigModel, section
from hone.config.schema.online import PolicyGradientConfig, RLSection

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
    """The advantage estimator."""

    name: Literal["grpo", "rloo", "reinforce_plus_plus", "gdpo", "maxrl"] = "grpo"
    """`grpo`: reward minus the group's baseline (use_leave_one_out_baseline, normalize_rewards). `rloo`: reward minus
    the mean of the group's other rewards. `reinforce_plus_plus`: rewards divided by their standard deviation over the
    rollout. `gdpo`: as `grpo` for each reward function, then the weighted sum, divided by its standard deviation over
    the rollout. `maxrl`: reward minus the group's mean, divided by that mean."""
    minus_baseline: bool = True
    """reinforce_plus_plus: first subtract the group's mean (REINFORCE++-baseline)."""
    reward_weights: list[float] | None = None
    """gdpo: one weight per reward function, in alphabetical order of the functions' names; null: the functions' own
    weights."""


class GRPOSection(RLSection):
    """Group relative policy optimization: rollouts, advantages, validations."""

    passes_key: ClassVar[str | None] = "num_updates_per_rollout"

    preset: Preset | None = None
    """The published settings of a method (docs/rl.md); settings that you give take precedence. null: none."""
    num_updates_per_rollout: int = Field(1, ge=1)
    """Passes of the optimizer over each rollout."""
    adv_estimator: GRPOEstimatorConfig = section(GRPOEstimatorConfig)
    normalize_rewards: bool = True
    """`grpo`, `gdpo`: divide advantages by the group's standard deviation."""
    use_leave_one_out_baseline: bool = True
    """`grpo`, `gdpo`: a completion's baseline is the mean of the group's other rewards; false: the group's mean."""
    advantage_clip_low: float | None = None
    """Lower limit of advantages; null: none."""
    advantage_clip_high: float | None = None
    """Upper limit of advantages; null: none."""


class GRPOConfig(PolicyGradientConfig):
    """All settings of `hone grpo`."""

    conditional: ClassVar[tuple[ConditionalSettings, ...]] = (
        only_for("grpo gdpo", "grpo: normalize_rewards use_leave_one_out_baseline"),
    )

    grpo: GRPOSection = section(GRPOSection)

    def problems(self) -> Iterator[str]:
        """Settings that an advantage estimator excludes, and limits of advantages that exclude each other."""
        grpo, name, functions = self.grpo, self.grpo.adv_estimator.name, self.rewards.functions
        weights, in_reward = grpo.adv_estimator.reward_weights, self.loss_fn.use_kl_in_reward
        if weights is not None and name != "gdpo":
            yield f"grpo.adv_estimator.reward_weights is for gdpo, but grpo.adv_estimator.name={name}: set it to null"
        elif weights is not None and len(weights) != len(functions):
            yield (
                f"grpo.adv_estimator.reward_weights has {len(weights)} numbers, but rewards.functions has "
                f"{len(functions)} functions: give one for each, in alphabetical order of their names"
            )
        if name == "gdpo":
            for key in ("reward_scaling", "reward_shaping"):
                if getattr(grpo, key).enabled:
                    yield (
                        f"grpo.{key}.enabled=true changes the sum of the rewards, but gdpo learns from each of them: "
                        "set it to false, and make it a reward function (such as `length`)"
                    )
            if in_reward:
                yield "loss_fn.use_kl_in_reward=true: gdpo learns from the reward functions alone; set it to false"
        if name == "maxrl":
            scale, shape = grpo.reward_scaling, grpo.reward_shaping
            shaped = shape.enabled and shape.stop_properly_penalty_coef is None
            if shaped or (scale.enabled and scale.target_min < 0):
                yield (
                    "grpo.adv_estimator.name=maxrl divides by a group's mean reward, so no reward may be negative: set "
                    "grpo.reward_scaling.target_min to 0, and grpo.reward_shaping.enabled to false"
                )
            if in_reward:
                yield "loss_fn.use_kl_in_reward=true makes rewards negative, which maxrl cannot use; set it to false"
        low, high = grpo.advantage_clip_low, grpo.advantage_clip_high
        if low is not None and high is not None and low >= high:
            yield f"grpo.advantage_clip_low={low} is not below grpo.advantage_clip_high={high}"

    def adjustments(self, settings: Settings) -> Iterator[Adjustment]:
        """reward_weights select gdpo; gdpo and maxrl turn off what they exclude."""
        name, weights = "grpo.adv_estimator.name", "grpo.adv_estimator.reward_weights"
        if settings.given(weights) and settings[weights] is not None:
            yield Adjustment(name, "gdpo", weights)
        if settings[name] in ("gdpo", "maxrl"):
            yield Adjustment("grpo.reward_shaping.enabled", False, name)
            if settings[name] == "gdpo":
                yield Adjustment("grpo.reward_scaling.enabled", False, name)
            yield Adjustment("loss_fn.use_kl_in_reward", False, name)
