"""Which modules, and which weights of experts, get an adapter.

A layer's experts are not linear modules but three-dimensional weights, which PEFT adapts as parameters. By itself PEFT
finds them in some architectures only, and ignores `exclude_modules` for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hone.errors import ConfigError

if TYPE_CHECKING:
    from hone.config.schema.lora import LoraConfig

FUSED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "w1": "gate_up_proj", "w3": "gate_up_proj"}
ONE_BY_ONE = {**FUSED, "down_proj": "down_proj", "w2": "down_proj", "gate": "gate.weight"}
"""Names of an expert's matrices in models where each is a module, and the weight that holds all experts'."""


@dataclass
class Targets:
    """Full names of modules and of weights."""

    modules: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    """Linear modules that are named but get no adapter: dense and shared experts of architectures in which PEFT takes
    their names (gate_proj, up_proj, down_proj) for those of the other experts' matrices."""


def is_linear(module: nn.Module) -> bool:
    """Whether it is a matrix product, which an adapter can extend (GPT-2 has a class of its own)."""
    return isinstance(module, nn.Linear | Conv1D)


def has_experts(model: PreTrainedModel) -> bool:
    """Whether some of a model's layers hold experts in three-dimensional weights."""
    return bool(_experts(model))


def targets_of(model: PreTrainedModel, lora: LoraConfig, head: Sequence[str] = ()) -> Targets:
    """What `policy.lora` names in a model with experts. `head`: modules that are trained as a whole.

    Raises ConfigError for names of which an expert's weight holds more than is named.
    """
    experts, found = _experts(model), Targets()
    named = lora.target_modules
    excluded = [*lora.exclude_modules, *head, *(ONE_BY_ONE.get(name, name) for name in lora.exclude_modules)]
    routers = [f"{name}.weight" for name, part in model.named_modules() if _is_router(name, part, experts)]
    old = set(ONE_BY_ONE) if routers else set()  # names that PEFT itself takes for those of experts
    output = model.get_output_embeddings()
    for name, module in model.named_modules():
        linear = is_linear(module) and module is not output
        if linear and _matches(name, named or [name]) and not _matches(name, excluded):
            (found.without if name.rpartition(".")[2] in old else found.modules).append(name)
    for name in [*experts, *routers]:
        holder, _, leaf = name.rpartition(".")
        wanted = not named or _matches(name, named) or _matches(holder, named)
        full = f"{holder.rpartition('.')[2]}.{leaf}"
        wanted |= any(ONE_BY_ONE.get(old_name) in (leaf, full) for old_name in named)
        if wanted and not (_matches(name, excluded) or _matches(holder, excluded)):
            found.parameters.append(name)
    if any(name.endswith(".gate_up_proj") for name in found.parameters):
        _check_fused(named)
    if not (found.modules or found.parameters):
        raise ConfigError(
            f"policy.lora.target_modules={named or 'all linear modules'} without policy.lora.exclude_modules="
            f"{lora.exclude_modules} leaves no module of this model"
            + (f" that PEFT can adapt: it cannot adapt {_by_layer(found.without)}" if found.without else "")
        )
    return found


def notice(model: PreTrainedModel, lora: LoraConfig, *, part: str) -> list[str]:
    """A notice about modules that `lora` names and PEFT cannot adapt in this model."""
    without = targets_of(model, lora, lora.modules_to_save).without if has_experts(model) else []
    if not without:
        return []
    return [
        f"{part}.lora: no adapters on {_by_layer(without)}: PEFT takes these names for those of the experts' matrices "
        f"in {model.config.model_type} models. These modules are not trained"
    ]


def _by_layer(names: Sequence[str]) -> str:
    """Names of modules, those of several layers once: model.layers.*.mlp.shared_expert.up_proj."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))


def check_experts(lora: LoraConfig) -> None:
    """Raise ConfigError for kinds of adapters that experts' weights do not support."""
    kinds = {
        "adalora.enabled=true": lora.adalora.enabled,
        "use_dora=true": lora.use_dora,
        f"dropout={lora.dropout:g}": lora.dropout > 0,
        f"init_lora_weights={lora.init_lora_weights}": lora.modifies_base_weights
        or lora.init_lora_weights == "orthogonal",
    }
    for setting in (setting for setting, given in kinds.items() if given):
        raise ConfigError(
            f"policy.lora.{setting} does not work for the weights of experts: change it, or set "
            "policy.lora.exclude_modules=[experts,gate]"
        )


def check_transposed(model: PreTrainedModel, lora: LoraConfig) -> None:
    """Raise ConfigError where PEFT would decompose a transposed weight as if it were not transposed."""
    if lora.init_lora_weights == "olora" and any(isinstance(module, Conv1D) for module in model.modules()):
        raise ConfigError(
            f"policy.lora.init_lora_weights=olora does not work for {model.config.model_type} models, whose weights "
            "are transposed: use pissa"
        )


def _experts(model: PreTrainedModel) -> list[str]:
    """Names of the three-dimensional weights of experts."""
    return [
        name
        for name, weight in model.named_parameters()
        if weight.dim() == 3 and name.rpartition(".")[0].endswith("experts")
    ]


def _is_router(name: str, module: nn.Module, experts: Sequence[str]) -> bool:
    """A router whose weight PEFT adapts as a parameter: `gate`, beside experts, and no linear module."""
    beside = f"{name.rpartition('.')[0]}.experts."
    custom = name.endswith(".gate") and not isinstance(module, nn.Linear) and hasattr(module, "weight")
    return custom and any(expert.startswith(beside) for expert in experts)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def _check_fused(named: Sequence[str]) -> None:
    for one, other in (("gate_proj", "up_proj"), ("w1", "w3")):
        if (one in named) != (other in named):
            given, missing = (one, other) if one in named else (other, one)
            raise ConfigError(
                f"policy.lora.target_modules names {given} without {missing}: of experts both are one weight. "
                f"Name both, or policy.lora.exclude_modules=[experts]"
            )


def ranks_of(targets: Targets, lora: LoraConfig) -> dict[str, Any]:
    """PEFT's settings for weights of experts: those that hold two matrices get twice the rank, at the same scale."""
    fused = any(name.endswith(".gate_up_proj") for name in targets.parameters)
    pattern = r".*\.gate_up_proj"
    return {
        "target_parameters": targets.parameters,
        "rank_pattern": {pattern: 2 * lora.dim} if fused else {},
        "alpha_pattern": {pattern: 2 * lora.alpha} if fused else {},
    }
