"""Settings around the training: data, length, processes, checkpoints and the metric that ranks them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence

from hone.config.schema import EvalConfig, OnlineConfig, TrainingConfig
from hone.config.schema.data import DatasetSource
from hone.config.schema.roots import algorithm_of, own_section
from hone.registry import spec_of


def validates(config: TrainingConfig) -> bool:
    """Whether the run has validation data and validates at some step."""
    settings = config.algorithm
    has_data = bool(config.data.validation) or any(e.split_validation_size for e in config.data.train or ())
    return has_data and bool(settings.val_period or settings.val_at_start or settings.val_at_end)


def data(config: TrainingConfig | EvalConfig) -> Iterator[str]:
    """Datasets without a name."""
    evaluation = isinstance(config, EvalConfig)
    if isinstance(config, EvalConfig) and config.eval.has_own_data:
        return
    sources: Sequence[DatasetSource] = [config.data] if evaluation else config.data.train or []  # type: ignore[union-attr, list-item]
    if not sources or any(source.dataset_name is None for source in sources):
        key = "data.dataset_name" if evaluation else "data.train.dataset_name"
        model = "generation" if evaluation else "policy"
        yield (
            f"{key} is not set: give a file (JSONL, JSON, Parquet), a folder or a Hugging Face dataset, such "
            f"as {key}=rows.jsonl. Only embedded models bring data; {model}.model_name is "
            f"{getattr(config, model).model_name}"
        )
    elif not isinstance(config, EvalConfig) and any(
        source.dataset_name is None for source in config.data.validation or []
    ):
        yield "data.validation.dataset_name is not set: name the data, or set data.validation to null"


def length(config: TrainingConfig) -> Iterator[str]:
    """A run without an end, and more CPU processes than a machine can hold."""
    cluster, cores, section = config.cluster, os.cpu_count() or 1, own_section(config)
    most = max(64, 8 * cores)
    if cluster.ray_address is None and cluster.num_nodes == 1 and (cluster.cpu_workers_per_node or 0) > most:
        yield (
            f"cluster.cpu_workers_per_node={cluster.cpu_workers_per_node}: this machine has {cores} cores: set at most "
            f"{most}"
        )
    if config.algorithm.max_num_epochs is None and config.algorithm.max_num_steps is None:
        yield f"{section}.max_num_epochs and {section}.max_num_steps are both null, so the run has no end: set one"


def checkpoints(config: TrainingConfig) -> Iterator[str]:
    """How many are kept, and the metric that ranks them."""
    settings = config.checkpointing
    if settings.keep_top_k is not None and settings.keep_top_k < 1:
        yield f"checkpointing.keep_top_k={settings.keep_top_k}: keep at least 1, or null for all"
    if settings.enabled and settings.metric_name is not None:
        yield from _metric(config, settings.metric_name)


def _metric(config: TrainingConfig, name: str) -> Iterator[str]:
    split, colon, metric = name.partition(":")
    if not colon or split not in ("val", "train"):
        yield f"checkpointing.metric_name={name}: write val:NAME or train:NAME; null keeps the newest"
        return
    algorithm = algorithm_of(config)
    known = getattr(spec_of(algorithm).metrics, split)
    plain = metric.removeprefix(f"{split}_") if isinstance(config, OnlineConfig) else metric
    if plain not in known and not plain.startswith("reward_"):
        near = difflib.get_close_matches(metric, known, 1, 0.4)
        meant = f": did you mean {split}:{near[0]}?" if near else f"; there are {', '.join(known)}"
        yield f"checkpointing.metric_name={name}: `hone {algorithm}` has no such metric{meant}"
    elif split == "val" and not validates(config):
        yield (
            f"checkpointing.metric_name={name} ranks checkpoints by validation, but there is none: give "
            "data.validation.dataset_name (or data.train.split_validation_size) and "
            f"{own_section(config)}.val_period, or set checkpointing.metric_name to null"
        )
