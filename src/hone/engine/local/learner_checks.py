"""Checks whether a learner's settings work with its model and mesh."""

from __future__ import annotations

from hone.config.schema import ModelConfig
from hone.errors import ConfigError
from hone.model.adapters import base_of
from hone.model.balancing import Balance, coefficient_of
from hone.model.mesh import Mesh
from hone.model.scorer import TokenScorer


def check_packing(scorer: TokenScorer, policy: ModelConfig) -> None:
    """Raise ConfigError if packed samples would attend to each other."""
    if policy.sequence_packing.enabled and not scorer.supports_packing:
        raise ConfigError(
            f"policy.sequence_packing.enabled: packed samples would see each other in a "
            f"{scorer.model.config.model_type} model. Set policy.sequence_packing.enabled=false "
            "(with policy.dynamic_batching.enabled=true there is little padding)"
        )


def check_one_piece(mesh: Mesh | None, setting: str, other: str) -> None:
    """Raise ConfigError on a mesh with tensor or context ranks, which `setting` does not support."""
    if mesh is not None and (mesh.size("tensor") > 1 or mesh.size("context") > 1):
        raise ConfigError(
            f"{setting} does not work with tensor or context parallelism: set it to {other}, or tensor_parallel_size "
            "and context_parallel_size to 1"
        )


def balance_of(scorer: TokenScorer, policy: ModelConfig) -> Balance | None:
    """The balancing loss of a mixture of experts; None if its weight is 0. Raises ConfigError if the mesh has tensor or
    context ranks."""
    weight = coefficient_of(base_of(scorer.model).config, policy.router_aux_loss_coef)
    if not weight:
        return None
    check_one_piece(scorer.mesh, f"{policy.part}.router_aux_loss_coef={weight:g}", "0")
    return Balance(scorer.model, weight, policy.part)
