"""AdaLoRA's rank schedule (arXiv 2303.10512) as part of an optimizer step, also for sharded adapters.

PEFT's allocator decides which directions are removed. It needs full tensors: each rank gathers the adapters, which are
small, computes the same result, and keeps its own part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from hone.engine.distributed.collectives import full_tensor
from hone.errors import CheckpointError
from hone.model.adapters import NAME


class RankSchedule:
    """Reduces the adapters' rank from the initial to the target rank during the run."""

    def __init__(self, model: nn.Module) -> None:
        tuner: Any = model.base_model
        self.settings, self.allocator, self.model = tuner.peft_config[NAME], tuner.rankallocator, tuner.model

    @staticmethod
    def of(model: nn.Module) -> RankSchedule | None:
        """The schedule of a model with AdaLoRA adapters; None for any other model."""
        base: Any = getattr(model, "base_model", None)
        return RankSchedule(model) if hasattr(base, "rankallocator") else None

    def penalize(self) -> float:
        """Add the gradient of the penalty for non-orthogonal factors (the paper's equation 4), and return the penalty.

        It is called once per update. PEFT adds the penalty to a model's own loss, which Hone does not use.
        """
        found = [(name, p) for name, p in self._adapters() if ".lora_A." in name or ".lora_B." in name]
        values = [full_tensor(p.detach()).clone().requires_grad_() for _, p in found]
        total = torch.zeros((), device=values[0].device)
        with torch.enable_grad():
            for (name, _), value in zip(found, values, strict=True):
                product = value @ value.T if ".lora_A." in name else value.T @ value
                eye = torch.eye(len(product), device=product.device, dtype=product.dtype)
                total = total + torch.linalg.matrix_norm(product - eye)
            total = total * (self.settings.orth_reg_weight / len(found))
            gradients = torch.autograd.grad(total, values)
        for (_, parameter), gradient in zip(found, gradients, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(_like(parameter, gradient))
        return float(total.detach())

    def advance(self, update: int) -> float:
        """Prune after the optimizer's step number `update` (from 1), before the gradients are cleared. Returns the
        mean rank."""
        final = self.settings.total_step - self.settings.tfinal
        view = _Whole(self._adapters())
        if update <= final:
            if not self.allocator.exp_avg_ipt:  # the first update is the last that counts
                self.allocator.update_ipt(view)
            _, pattern = self.allocator.update_and_allocate(view, update, force_mask=update == final)
            if pattern:
                self.settings.rank_pattern = pattern
        elif self.settings.rank_pattern:
            self.allocator.mask_using_rank_pattern(view, self.settings.rank_pattern)
        view.give_back()
        return self.mean_rank()

    def mean_rank(self) -> float:
        """The mean number of remaining directions per matrix."""
        kept = self.settings.rank_pattern
        count = self.allocator.init_bgt if not kept else sum(sum(row) for row in kept.values())
        return count / len(self.allocator.name_set)

    def _adapters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if "lora_" in name and p.requires_grad]

    def state_dict(self) -> dict[str, Any]:
        """The schedule's state besides the weights: tensors, numbers and lists."""
        return {
            "pattern": self.settings.rank_pattern or {},
            "importance": dict(self.allocator.exp_avg_ipt),
            "uncertainty": dict(self.allocator.exp_avg_unc),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state. Raises CheckpointError if it belongs to other adapters."""
        names = {name: p.device for name, p in self._adapters()}
        if not state["importance"].keys() <= names.keys():
            raise CheckpointError(
                "the checkpoint's AdaLoRA ranks belong to other modules than policy.lora names"
            )
        self.settings.rank_pattern = state["pattern"] or None
        self.allocator.exp_avg_ipt = {name: t.to(names[name]) for name, t in state["importance"].items()}
        self.allocator.exp_avg_unc = {name: t.to(names[name]) for name, t in state["uncertainty"].items()}
        self.allocator.ipt = {name: torch.zeros_like(t) for name, t in self.allocator.exp_avg_ipt.items()}


class _Whole:
    """A view of the adapters as full tensors for PEFT's allocator. In one process, these are the parameters."""

    def __init__(self, parameters: list[tuple[str, nn.Parameter]]) -> None:
        self.parameters = parameters
        self.seen: list[tuple[str, Any]] = []
        for name, parameter in parameters:
            if isinstance(parameter, DTensor):
                piece = full_tensor(parameter.detach()).clone()
                piece.grad = full_tensor(parameter.grad) if parameter.grad is not None else None
                self.seen.append((name, piece))
            else:
                self.seen.append((name, parameter))

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        return iter(self.seen)

    @torch.no_grad()
    def give_back(self) -> None:
        """Copy the masked values to the parts that this rank holds."""
        for (name, parameter), (_, piece) in zip(self.parameters, self.seen, strict=True):
            if isinstance(parameter, DTensor) and ".lora_E." in name:
                parameter.copy_(_like(parameter, piece))


def _like(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """A full tensor, present on every rank, sharded as the parameter is."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
