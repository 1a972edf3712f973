"""Settings of a trained model that cannot work together: batches, packing, adapters, optimizer, scheduler.

The policy and the value model have the same settings, `policy.*` and `value.*`: `model.part` is the section's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from hone.config.nested import shown
from hone.config.schema.lora import LoraConfig
from hone.config.schema.model import ModelConfig


def not_a_multiple(whole: str, size: int, part: str, unit: int) -> str:
    """The sentence about a size that is not a multiple of its part."""
    near = max(unit, round(size / unit) * unit)
    return f"{whole}={size} is not a multiple of {part}={unit}: set {whole} to {near}, or change {part}"


def model_problems(model: ModelConfig) -> Iterator[str]:
    """What is wrong with the settings of one trained model."""
    head = model.part
    size, micro = model.train_global_batch_size, model.train_micro_batch_size
    if micro is not None and size % micro:
        yield not_a_multiple(f"{head}.train_global_batch_size", size, f"{head}.train_micro_batch_size", micro)
    yield from _token_budgets(model, head)
    yield from _adapters(model.lora, head, model.cpu_offload)
    if model.pipeline_parallel_size > 1:
        yield (
            f"{head}.pipeline_parallel_size={model.pipeline_parallel_size}: Hone has no pipeline parallelism, FSDP "
            "shards the layers' weights over all ranks. Set it to 1"
        )
    yield from _optimizer(model, head)
    yield from _scheduler(model, head)


def _token_budgets(model: ModelConfig, head: str) -> Iterator[str]:
    if model.dynamic_batching.enabled and model.sequence_packing.enabled:
        yield (
            f"{head}.dynamic_batching.enabled and {head}.sequence_packing.enabled are both true: set one of them to "
            "false"
        )
    longest, per_unit = model.max_total_sequence_length, model.sequences_per_unit
    for section in ("dynamic_batching", "sequence_packing"):
        settings = getattr(model, section)
        for key in ("train_mb_tokens", "logprob_mb_tokens") if settings.enabled else ():
            budget = getattr(settings, key)
            if budget is not None and budget < longest * per_unit:
                twice, what = ("twice ", "pair") if per_unit > 1 else ("", "sequence")
                yield (
                    f"{head}.{section}.{key}={budget} is less than {twice}{head}.max_total_sequence_length={longest}, "
                    f"so the longest {what} does not fit: set it to at least {longest * per_unit}"
                )


def _optimizer(model: ModelConfig, head: str) -> Iterator[str]:
    """Arguments that every optimizer has as numbers."""
    given = model.optimizer.kwargs
    for key in ("lr", "weight_decay", "eps", "momentum"):
        value = given.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            yield f"{head}.optimizer.kwargs.{key}={shown(value)}: expected a number, at least 0"
    betas = given.get("betas", [])
    if not isinstance(betas, list | tuple) or not all(isinstance(beta, int | float) for beta in betas):
        yield f"{head}.optimizer.kwargs.betas={shown(betas)}: expected a list of numbers, such as [0.9, 0.999]"


def _scheduler(model: ModelConfig, head: str) -> Iterator[str]:
    phases = model.scheduler or []
    named = [phase for phase in phases if phase.milestones is None]
    milestones = [phase.milestones for phase in phases if phase.milestones is not None]
    if any(phase.name is None for phase in named) or any(phase.name for phase in phases if phase.milestones):
        yield f"{head}.scheduler: each entry is either {{name, kwargs}} or the last one, {{milestones: […]}}"
    elif len(milestones) > 1 or (len(named) - 1 != sum(map(len, milestones)) and phases):
        yield (
            f"{head}.scheduler has {len(named)} phases and {sum(map(len, milestones))} milestones: give "
            f"{max(0, len(named) - 1)}, the steps at which the next phase begins"
        )


def _adapters(lora: LoraConfig, part: str, offload: bool | None) -> Iterator[str]:
    if not lora.enabled:
        return
    head, init = f"{part}.lora", lora.init_lora_weights
    if lora.target_modules and lora.match_all_linear:
        yield (
            f"{head}.target_modules names modules, but {head}.match_all_linear=true takes all: set "
            "match_all_linear to false, or target_modules to []"
        )
    if not lora.target_modules and not lora.match_all_linear:
        yield f"{head}.match_all_linear=false and {head}.target_modules=[] leave no module"
    if init == "orthogonal" and lora.dim % 2:
        yield f"{head}.init_lora_weights=orthogonal needs an even rank: set {head}.dim to {lora.dim + 1}"
    if lora.use_dora and lora.modifies_base_weights:
        yield (
            f"{head}.use_dora=true and {head}.init_lora_weights={init} each decompose the base weights: set one of "
            "them only"
        )
    if lora.load_in_4bit and lora.modifies_base_weights:
        yield (
            f"{head}.init_lora_weights={init} changes the base weights, which {head}.load_in_4bit=true keeps in 4 "
            "bits: set init_lora_weights to null"
        )
    if lora.load_in_4bit and offload:
        yield f"{head}.load_in_4bit=true and {part}.cpu_offload=true exclude each other: set one of them to false"
    if lora.adapter_path is not None and (lora.adalora.enabled or init is not None):
        key = "adalora.enabled" if lora.adalora.enabled else "init_lora_weights"
        yield f"{head}.adapter_path and {head}.{key} define two different adapters: leave one of them out"
    if lora.adalora.enabled:
        yield from _adalora(lora, head)


def _adalora(lora: LoraConfig, head: str) -> Iterator[str]:
    settings = lora.adalora
    if lora.trainable_token_indices:
        yield (
            f"{head}.adalora.enabled=true does not support {head}.trainable_token_indices: name embed_tokens in "
            f"{head}.modules_to_save"
        )
    for key in ("use_rslora", "use_dora", "load_in_4bit", "init_lora_weights"):
        if getattr(lora, key) not in (False, None):
            yield f"{head}.adalora.enabled=true and {head}.{key}={getattr(lora, key)} exclude each other: set one"
    if lora.rank <= lora.dim:
        yield f"{head}.adalora.init_r={lora.rank} is not above {head}.dim={lora.dim}, the mean rank left: raise it"
    if settings.total_step is None:
        yield (
            f"{head}.adalora.enabled=true needs {head}.adalora.total_step, the updates that the run makes: `hone plan` "
            "counts them"
        )
    elif settings.tinit + settings.tfinal >= settings.total_step:
        yield (
            f"{head}.adalora.tinit={settings.tinit} and {head}.adalora.tfinal={settings.tfinal} leave none of the "
            f"{head}.adalora.total_step={settings.total_step} updates for ranks to fall in: lower them"
        )
