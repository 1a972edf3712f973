"""Settings that cannot work together, found before a model loads. Each message names the keys and the fix."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator

from hone.config.checks.adapters import adapters
from hone.config.checks.environments import turns
from hone.config.checks.online import divides, environments, online, sampling, validates
from hone.config.checks.preferences import REFERENCE_FREE, preferences
from hone.config.compat.nemo_rl.rules import swapped
from hone.config.kinds import section_of
from hone.config.loading.layers import shown
from hone.config.schema import (
    DPOConfig,
    EvalConfig,
    OnlineConfig,
    PPOConfig,
    RLConfig,
    RMConfig,
    SFTConfig,
    kind_of,
)
from hone.config.schema.environments import EnvConfig
from hone.config.schema.model import ModelConfig
from hone.registry import spec_of


def check(config: SFTConfig | DPOConfig | RMConfig | OnlineConfig | EvalConfig) -> list[str]:
    """Everything that is wrong, as sentences."""
    if isinstance(config, EvalConfig):
        return [*_environments(config), *_evaluation(config)]
    problems = [*_batches(config.policy), *_packing(config.policy), *_policy(config.policy), *_run(config)]
    if isinstance(config, DPOConfig):
        problems += [*preferences(config.dpo), *_dropout(config)]
    if isinstance(config, OnlineConfig):
        problems += [*_environments(config), *online(config)]
    if isinstance(config, PPOConfig) and (value := config.critic) is not None:
        problems += map(swapped, [*_batches(value), *_packing(value), *_policy(value)])
    return problems


def _dropout(config: DPOConfig) -> Iterator[str]:
    if not config.policy.disable_dropout and config.dpo.preference_loss.keys() - REFERENCE_FREE:
        yield (
            "policy.disable_dropout=false: the reference's log-probabilities are computed once and without dropout, so "
            "that the policy's would not compare with them; set it to true, or dpo.preference_loss to one of "
            f"{', '.join(sorted(REFERENCE_FREE))}"
        )


def _environments(config: OnlineConfig | EvalConfig) -> Iterator[str]:
    """Environments that data name, and turns that something answers."""
    known = config.env.named if isinstance(config, RLConfig | EvalConfig) else {}
    for name in environments(config):
        if name not in EnvConfig.not_entries and name not in known:
            there = f"; there are {', '.join(known)}" if known else ""
            yield (
                f"env_name={name}: there is no env.{name}.path or env.{name}.tools that says what it is{there}. "
                "Completions alone are scored by your own rewards.functions"
            )
    if not isinstance(config, RLConfig | EvalConfig):
        return
    yield from turns(config)


def _batches(policy: ModelConfig) -> Iterator[str]:
    size, micro = policy.train_global_batch_size, policy.train_micro_batch_size
    if micro is not None and size % micro:
        yield divides("policy.train_global_batch_size", size, "policy.train_micro_batch_size", micro)


def _packing(policy: ModelConfig) -> Iterator[str]:
    if policy.dynamic_batching.enabled and policy.sequence_packing.enabled:
        yield (
            "policy.dynamic_batching.enabled and policy.sequence_packing.enabled are both true, but "
            "a micro-batch is "
            "filled in one way only: set one of them to false"
        )
    longest = policy.max_total_sequence_length
    for name in ("dynamic_batching", "sequence_packing"):
        settings = getattr(policy, name)
        for key in ("train_mb_tokens", "logprob_mb_tokens") if settings.enabled else ():
            budget = getattr(settings, key)
            if budget is not None and budget < longest * policy.sequences_per_unit:
                if policy.sequences_per_unit > 1:
                    yield (
                        f"policy.{name}.{key}={budget} is less than twice "
                        f"policy.max_total_sequence_length={longest}, so the longest pair does not fit: set it to "
                        f"at least {longest * policy.sequences_per_unit}"
                    )
                    continue
                yield (
                    f"policy.{name}.{key}={budget} is less than "
                    f"policy.max_total_sequence_length={longest}, so the "
                    f"longest sequence does not fit: set it to at least {longest}"
                )


def _policy(policy: ModelConfig) -> Iterator[str]:
    yield from adapters(policy.lora, "policy.lora", policy.cpu_offload)
    if policy.pipeline_parallel_size > 1:
        yield (
            f"policy.pipeline_parallel_size={policy.pipeline_parallel_size}: Hone has no pipelines, FSDP spreads the "
            "layers' weights over all ranks. Set it to 1"
        )
    yield from _optimizer(policy)
    phases = policy.scheduler or []
    named = [phase for phase in phases if phase.milestones is None]
    milestones = [phase.milestones for phase in phases if phase.milestones is not None]
    if any(phase.name is None for phase in named) or any(phase.name for phase in phases if phase.milestones):
        yield "policy.scheduler: each entry is either {name, kwargs} or the last one, {milestones: […]}"
    elif len(milestones) > 1 or (len(named) - 1 != sum(map(len, milestones)) and phases):
        yield (
            f"policy.scheduler has {len(named)} phases and {sum(map(len, milestones))} milestones: give "
            f"{max(0, len(named) - 1)}, the steps at which the next phase begins"
        )


def _optimizer(policy: ModelConfig) -> Iterator[str]:
    """Arguments that every optimizer has as numbers."""
    given = policy.optimizer.kwargs
    for key in ("lr", "weight_decay", "eps", "momentum"):
        value = given.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            yield f"policy.optimizer.kwargs.{key}={shown(value)}: expected a number, at least 0"
    betas = given.get("betas", [])
    if not isinstance(betas, list | tuple) or not all(isinstance(beta, int | float) for beta in betas):
        yield f"policy.optimizer.kwargs.betas={shown(betas)}: expected a list of numbers, such as [0.9, 0.999]"


def _run(config: SFTConfig | DPOConfig | RMConfig | OnlineConfig) -> Iterator[str]:
    kind, loop = kind_of(config), config.loop
    own = section_of(kind)
    cluster, cores = config.cluster, os.cpu_count() or 1
    most = max(64, 8 * cores)
    if cluster.ray_address is None and cluster.num_nodes == 1 and (cluster.cpu_workers_per_node or 0) > most:
        yield (
            f"cluster.cpu_workers_per_node={cluster.cpu_workers_per_node}: this machine has {cores} cores: set at most "
            f"{most}"
        )
    if loop.max_num_epochs is None and loop.max_num_steps is None:
        yield f"{own}.max_num_epochs and {own}.max_num_steps are both null, so the run has no end: set one"
    settings = config.checkpointing
    if settings.keep_top_k is not None and settings.keep_top_k < 1:
        yield f"checkpointing.keep_top_k={settings.keep_top_k}: keep at least 1, or null for all"
    if settings.enabled and settings.metric_name is not None:
        yield from _metric(config, kind, settings.metric_name)


def _metric(config: SFTConfig | DPOConfig | RMConfig | OnlineConfig, kind: str, name: str) -> Iterator[str]:
    split, colon, metric = name.partition(":")
    if not colon or split not in ("val", "train"):
        yield f"checkpointing.metric_name={name}: write val:NAME or train:NAME; null keeps the newest"
        return
    known = getattr(spec_of(kind).metrics, split)
    plain = metric.removeprefix(f"{split}_") if isinstance(config, OnlineConfig) else metric
    if plain not in known and not plain.startswith("reward_"):
        near = difflib.get_close_matches(metric, known, 1, 0.4)
        meant = f": did you mean {split}:{near[0]}?" if near else f"; there are {', '.join(known)}"
        yield f"checkpointing.metric_name={name}: `hone {kind}` has no such metric{meant}"
    elif split == "val" and not validates(config):
        yield (
            f"checkpointing.metric_name={name} ranks checkpoints by validation, but there is none: give "
            "data.validation.dataset_name (or data.train.split_validation_size) and "
            f"{section_of(kind)}.val_period, or set "
            "checkpointing.metric_name to null"
        )


def _evaluation(config: EvalConfig) -> Iterator[str]:
    settings, generation = config.eval, config.generation
    yield from sampling(generation, "generation")
    if settings.k_value > settings.num_tests_per_prompt:
        yield (
            f"eval.k_value={settings.k_value} is more than "
            f"eval.num_tests_per_prompt={settings.num_tests_per_prompt}: "
            "sample at least k answers for each problem"
        )
    elif settings.metric == "cons@k" and settings.num_tests_per_prompt % settings.k_value:
        yield divides(
            "eval.num_tests_per_prompt", settings.num_tests_per_prompt, "eval.k_value", settings.k_value
        )
    if settings.num_tests_per_prompt > 1 and generation.temperature == 0:
        yield (
            f"eval.num_tests_per_prompt={settings.num_tests_per_prompt} with generation.temperature=0 "
            "gives the same "
            "answer every time: set a temperature such as 0.6, or num_tests_per_prompt to 1"
        )
