"""Changes of a reward after the reward functions: scaling, then shaping by length. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hone.errors import ConfigError

if TYPE_CHECKING:
    from hone.config.schema import RLSection


def scale(reward: float, source_min: float, source_max: float, target_min: float, target_max: float) -> float:
    """Clamp the reward to [source_min, source_max] and map it linearly onto [target_min, target_max]."""
    if source_max <= source_min:
        raise ConfigError(f"reward_scaling: source_max={source_max:g} is not above source_min={source_min:g}")
    clamped = min(max(reward, source_min), source_max)
    return target_min + (clamped - source_min) / (source_max - source_min) * (target_max - target_min)


def overlong_penalty(length: int, max_length: int, buffer_length: int, penalty: float) -> float:
    """DAPO's soft punishment of long responses, Eq. 13 of arXiv 2503.14476, times `penalty`. Never positive.

    0 up to max_length - buffer_length tokens, then falling linearly to -penalty at max_length, and -penalty beyond.
    """
    if not 0 <= buffer_length <= max_length:
        raise ConfigError(
            f"reward_shaping: overlong_buffer_length ({buffer_length}) must lie between 0 and "
            f"max_response_length ({max_length})"
        )
    over = length - (max_length - buffer_length)
    if over <= 0:
        return 0.0
    return -penalty * min(1.0, over / buffer_length) if buffer_length else -penalty


def stop_properly(reward: float, truncated: bool, coef: float) -> float:
    """`coef` (0 to 1) times the reward of a truncated response; a negative reward is not reduced."""
    if not 0 <= coef <= 1:
        raise ConfigError(f"reward_shaping.stop_properly_penalty_coef must lie between 0 and 1, not {coef:g}")
    return min(reward, coef * reward) if truncated else reward


def shape_reward(reward: float, length: int, truncated: bool, settings: RLSection) -> float:
    """The reward used for training, of a response of `length` tokens: scaled, then shaped, each if enabled.

    With `stop_properly_penalty_coef` set, it takes the place of the overlong penalty.
    Raises ConfigError for settings that contradict each other.
    """
    scaling, shaping = settings.reward_scaling, settings.reward_shaping
    if scaling.enabled:
        reward = scale(reward, scaling.source_min, scaling.source_max, scaling.target_min, scaling.target_max)
    if not shaping.enabled:
        return reward
    if shaping.stop_properly_penalty_coef is not None:
        return stop_properly(reward, truncated, shaping.stop_properly_penalty_coef)
    return reward + overlong_penalty(
        length, shaping.max_response_length, shaping.overlong_buffer_length, shaping.overlong_buffer_penalty
    )
