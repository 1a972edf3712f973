"""Reward scaling and shaping against numbers worked out by hand."""

from __future__ import annotations

import pytest

from hone.config.schema.grpo import GRPOConfig, GRPOSection
from hone.errors import ConfigError
from hone.rollout.reward_shaping import overlong_penalty, scale, shape_reward, stop_properly


def test_rewards_are_clamped_and_scaled() -> None:
    assert [scale(r, 0.0, 1.0, -1.0, 1.0) for r in (0.0, 0.25, 0.5, 1.0)] == [-1.0, -0.5, 0.0, 1.0]
    assert [scale(r, 0.0, 1.0, -1.0, 1.0) for r in (-9.0, 9.0)] == [-1.0, 1.0]
    assert scale(3.0, 2.0, 6.0, 10.0, 0.0) == 7.5  # the target may run downwards
    with pytest.raises(ConfigError, match="source_max"):
        scale(0.0, 1.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (20481, -1.0), (99999, -1.0)],
)
def test_overlong_penalty_with_the_lengths_of_the_dapo_paper(length: int, penalty: float) -> None:
    """Expected maximum 16,384 and a soft punishment cache of 4,096 tokens: L_max = 20,480."""
    assert overlong_penalty(length, 20480, 4096, 1.0) == penalty
    assert overlong_penalty(length, 20480, 4096, 0.5) == penalty / 2


def test_overlong_penalty_without_a_buffer_or_with_an_impossible_one() -> None:
    assert [overlong_penalty(n, 10, 0, 2.0) for n in (10, 11)] == [0.0, -2.0]
    with pytest.raises(ConfigError, match="overlong_buffer_length"):
        overlong_penalty(1, 10, 11, 1.0)


def test_a_truncated_response_keeps_a_part_of_its_reward() -> None:
    assert stop_properly(2.0, truncated=True, coef=0.25) == 0.5
    assert stop_properly(2.0, truncated=False, coef=0.25) == 2.0
    assert stop_properly(-2.0, truncated=True, coef=0.25) == -2.0  # cutting a failure short is no success
    with pytest.raises(ConfigError, match="between 0 and 1"):
        stop_properly(1.0, truncated=True, coef=1.5)


def section(scaling: dict | None = None, shaping: dict | None = None) -> GRPOSection:
    sections = {
        "reward_scaling": scaling or {},
        "reward_shaping": {"max_response_length": 10, **(shaping or {})},
    }
    return GRPOConfig.model_validate({"grpo": sections}).grpo


def test_shape_scales_first_and_does_nothing_unless_enabled() -> None:
    scaling = {"enabled": True, "target_min": -1.0, "target_max": 1.0}
    dapo = {"enabled": True, "overlong_buffer_length": 4, "overlong_buffer_penalty": 1.0}
    assert shape_reward(1.0, 9, True, section()) == 1.0
    assert shape_reward(0.0, 9, True, section(scaling)) == -1.0
    assert shape_reward(1.0, 9, False, section(None, dapo)) == 0.25
    assert shape_reward(0.0, 9, False, section(scaling, dapo)) == -1.75
    properly = {**dapo, "stop_properly_penalty_coef": 0.5}
    assert shape_reward(1.0, 10, True, section(scaling, properly)) == 0.5
    assert shape_reward(1.0, 10, False, section(scaling, properly)) == 1.0
