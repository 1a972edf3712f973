"""Create the configured optimizer and learning-rate schedule, given by dotted names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from hone.config.schema import ModelConfig
from hone.engine.distributed.collectives import full_tensor
from hone.errors import ConfigError

SCHEDULE_EXAMPLE = "torch.optim.lr_scheduler.LinearLR"


def _class(name: str, key: str, base: type) -> Any:
    module, _, attribute = name.rpartition(".")
    example = f"give a dotted name such as {'torch.optim.AdamW' if base is Optimizer else SCHEDULE_EXAMPLE}"
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={name}: no such class; {example}") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{key}={name}: this is not a subclass of {base.__name__}; {example}")
    _check_step(cls, key)
    return cls


def _make(cls: Any, key: str, *args: Any, **kwargs: Any) -> Any:
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        accepted = [name for name in inspect.signature(cls).parameters if name not in ("params", "optimizer")]
        raise ConfigError(f"{key}: {error}; it takes {', '.join(accepted)}") from error
    try:
        return cls(*args, **kwargs)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{key}: {cls.__name__} does not take {kwargs}: {error}") from error


def _check_step(cls: Any, key: str) -> None:
    """Raise ConfigError if `step` needs an argument: a closure (LBFGS) or a metric (ReduceLROnPlateau)."""
    parameters = list(inspect.signature(cls.step).parameters.values())[1:]
    needs = [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needs:
        raise ConfigError(
            f"{key}={cls.__name__} needs {needs[0]} at each step, which is not supported: choose another class"
        )


def build_optimizer(policy: ModelConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer `policy.optimizer.name` for all trainable parameters, with weight decay on all, as in NeMo RL."""
    cls = _class(policy.optimizer.name, "policy.optimizer.name", Optimizer)
    alike = by_mesh(parameter for parameter in parameters if parameter.requires_grad)
    groups = [{"params": group} for group in alike]
    return _make(cls, "policy.optimizer.kwargs", groups, **policy.optimizer.kwargs)


def check_optimizer(policy: ModelConfig) -> None:
    """Raise ConfigError if the optimizer or the schedule cannot be created as configured."""
    build_scheduler(policy, build_optimizer(policy, [nn.Parameter(torch.zeros(1))]))


def by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters grouped by mesh and placements, since PyTorch's multi-tensor operations need equal ones. In one
    process there is one group."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        sharding = (parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else None
        groups.setdefault(sharding, []).append(parameter)
    return list(groups.values())


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale gradients down to a global L2 norm of at most `limit`. Returns the norm before, 0-dim, the same on every
    rank. A weight that several ranks hold counts once.
    """
    groups = by_mesh(parameter for parameter in parameters if parameter.grad is not None)
    norms = [full_tensor(get_total_norm([p.grad for p in group if p.grad is not None])) for group in groups]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) != 1 else norms[0]
    if limit is not None:
        for group in groups:
            clip_grads_with_norm_(group, limit, norm)
    return norm


def build_scheduler(policy: ModelConfig, optimizer: Optimizer) -> LRScheduler | None:
    """The schedule of `policy.scheduler`: one schedule, or several with milestones between them. None is constant."""
    parts, milestones = [], []
    for entry in policy.scheduler or ():
        if entry.milestones is not None:
            milestones = list(entry.milestones)
        elif entry.name is not None:
            parts.append((_class(entry.name, "policy.scheduler.name", LRScheduler), entry.kwargs))
        else:
            raise ConfigError(
                f"policy.scheduler: an entry needs a name (such as {SCHEDULE_EXAMPLE}) or milestones"
            )
    schedules = [_make(cls, "policy.scheduler.kwargs", optimizer, **kwargs) for cls, kwargs in parts]
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
