"""Generators outside of the learner's processes: where they read weights, and how they join an engine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hone.config import OnlineConfig
from hone.engine.base import Engine, GeneratorServer, Transport, WeightPublisher
from hone.engine.concurrent_group import ConcurrentGroup
from hone.engine.generator_group import GeneratorGroup
from hone.engine.weight_files import weights_folder
from hone.engine.weight_probe import WeightProbe
from hone.model.model_size import ModelSize
from hone.planning.memory_estimate import generator_bytes
from hone.planning.placement import device_of_this_process


def folder_for_weights(config: OnlineConfig, model: ModelSize, *, one_node: bool) -> Path:
    """Where the learner's ranks publish weights for generators in processes of their own."""
    on_cpu = device_of_this_process(config.cluster).type == "cpu"
    weights, _ = generator_bytes(model, config, on_cpu=on_cpu)
    return weights_folder(Path(config.checkpointing.checkpoint_dir), one_node=one_node, size=weights)


def batch_size_of(config: OnlineConfig) -> int | None:
    """Of built-in generators in processes of their own; None where they batch continuously."""
    policy = config.policy
    return None if policy.generation.continuous_batching else policy.generation_batch_size


def attach_generators(
    engine: Engine,
    servers: Sequence[GeneratorServer],
    publisher: WeightPublisher,
    config: OnlineConfig,
    weights: Path,
    *,
    batch_size: int | None,
    probe: WeightProbe | None = None,
) -> None:
    """Start the servers, and make them the generator of an engine. `batch_size`, `probe`: see GeneratorGroup."""
    kind = ConcurrentGroup if config.streams_rollouts else GeneratorGroup
    group = kind(servers, batch_size=batch_size, max_restarts=config.cluster.max_restarts, probe=probe)
    engine.resources.callback(shutil.rmtree, weights, ignore_errors=True)
    engine.resources.callback(group.close)
    try:
        group.start()
    except BaseException:
        engine.close()
        raise
    engine.generator, engine.transport = group, Transport(publisher, group)
    count = len(servers)
    engine.notices.append(
        f"completions by {', '.join(server.name for server in servers)}; weights by {weights}"
    )
    completions = config.algorithm.num_prompts_per_step * config.algorithm.num_generations_per_prompt
    if batch_size is not None and completions <= (count - 1) * batch_size:
        engine.notices.append(
            f"a step's {completions} completions are not {count} batches of policy.generation_batch_size={batch_size}: "
            f"some generators are idle. Set it to {-(-completions // count)} or less"
        )
