"""A reward model as a reward function. The model is loaded in its worker only."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

from hone.rollout.rewards.functions.common import BadOption

_OPTIONS = ("template", "batch_size", "max_length", "precision", "device", "trust_remote_code")


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
    """The score of a reward model for the prompt with its completion (see hone.rollout.rewards.reward_model).

    One process holds the model and gets the whole batch; `timeout_s` limits that call.
    """
    held = _held(model, template, batch_size, max_length, precision, device, trust_remote_code)
    return [*held.score(prompts, completions)]


def _prepare(model: str | None = None, timeout_s: float = 600.0, **options: Any) -> None:
    """Load the model when the run starts."""
    defaults = inspect.signature(reward_model).parameters
    _held(model, *(options.get(name, defaults[name].default) for name in _OPTIONS))


@functools.cache
def _held(model: str | None, *options: Any) -> Any:
    """The one model of this process."""
    from hone.errors import HoneError
    from hone.rollout.rewards.reward_model import RewardModel

    try:
        return RewardModel(str(model), **dict(zip(_OPTIONS, options, strict=True)))
    except HoneError as error:
        raise BadOption(f"cannot be used: {error}") from error


def _check(model: str | None = None, **_: Any) -> None:
    """Raise BadOption or ModelError for a model that is not named, or whose folder is not there. Reads no weights."""
    from hone.model.loading import resolve

    if model is None:
        raise BadOption("needs kwargs.model: the name or folder of a reward model")
    resolve(model)


reward_model.check = _check  # type: ignore[attr-defined]
reward_model.prepare = _prepare  # type: ignore[attr-defined]  # called once, when the function is loaded
reward_model.judges = False  # type: ignore[attr-defined]
reward_model.alone = True  # type: ignore[attr-defined]  # one process, not each worker of the pool
