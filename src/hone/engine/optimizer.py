"""Optimizers and learning-rate schedules by dotted name, as configured."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from hone.config.schema import PolicyConfig
from hone.errors import ConfigError


def _class(name: str, key: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={name}: no such class; give a dotted name such as torch.optim.AdamW") from error


def _make(cls: Any, key: str, *args: Any, **kwargs: Any) -> Any:
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        accepted = [name for name in inspect.signature(cls).parameters if name not in ("params", "optimizer")]
        raise ConfigError(f"{key}: {error}; it takes {', '.join(accepted)}") from error
    return cls(*args, **kwargs)


def build_optimizer(policy: PolicyConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """`policy.optimizer.name` on all trainable parameters, in one group (weight decay on all, as upstream)."""
    cls = _class(policy.optimizer.name, "policy.optimizer.name")
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return _make(cls, "policy.optimizer.kwargs", trainable, **policy.optimizer.kwargs)


def build_scheduler(policy: PolicyConfig, optimizer: Optimizer) -> LRScheduler | None:
    """The list of `policy.scheduler`: one schedule, or several with the milestones between them; None is constant."""
    parts, milestones = [], []
    for entry in policy.scheduler or ():
        if entry.milestones is not None:
            milestones = list(entry.milestones)
        else:
            parts.append(entry)
    schedules = [
        _make(_class(entry.name, "policy.scheduler.name"), "policy.scheduler.kwargs", optimizer, **entry.kwargs)
        for entry in parts
    ]
    if not schedules:
        return None
    if len(schedules) == 1:
        return schedules[0]
    if len(milestones) != len(schedules) - 1:
        raise ConfigError(
            f"policy.scheduler has {len(schedules)} schedules and {len(milestones)} milestones: "
            f"give {len(schedules) - 1}, the steps at which the next begins"
        )
    return SequentialLR(optimizer, schedules, milestones)
