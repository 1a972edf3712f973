"""A reward model. The model itself is in `hone.rollout.rewards.reward_model`, imported only where it runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from hone.rollout.rewards.functions.common import BadOption


def reward_model(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    model: str | None = None,
    template: str | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    precision: str = "float32",
    device: str | None = None,
    trust_remote_code: bool = False,
    timeout_s: float = 600.0,
    **columns: Any,
) -> list[float | None]:
    """What a reward model says of the prompt with its completion (see `hone.rollout.rewards.reward_model`).

    It runs in one process, which holds the model, and is given the whole batch; `timeout_s` bounds that call.
    """
    held = _held(model, template, batch_size, max_length, precision, device, trust_remote_code)
    return [*held.score(prompts, completions)]


def _prepare(model: str | None = None, timeout_s: float = 600.0, **options: Any) -> None:
    """Load the model when the run starts, not when the first completion is scored."""
    settings = {
        "template": None,
        "batch_size": 16,
        "max_length": None,
        "precision": "float32",
        "device": None,
        "trust_remote_code": False,
    }
    _held(model, *(settings | options).values())


@functools.cache
def _held(model: str | None, *options: Any) -> Any:
    """The one model of this process."""
    from hone.errors import HoneError
    from hone.rollout.rewards.reward_model import RewardModel

    if model is None:
        raise BadOption("needs kwargs.model: the name or folder of a reward model")
    names = ("template", "batch_size", "max_length", "precision", "device", "trust_remote_code")
    try:
        return RewardModel(model, **dict(zip(names, options, strict=True)))
    except HoneError as error:
        raise BadOption(f"cannot be used: {error}") from error


reward_model.prepare = _prepare  # type: ignore[attr-defined]  # called once, when the function is loaded
reward_model.judges = False  # type: ignore[attr-defined]
reward_model.alone = True  # type: ignore[attr-defined]  # one process, not each worker of the pool
