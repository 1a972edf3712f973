"""Settings that cannot work together, found before a model loads. Each message names the keys and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from hone.config.adapter_checks import adapters
from hone.config.metric_names import METRICS
from hone.config.preference_checks import preferences
from hone.config.schema import ROOTS, DPOConfig, EvalConfig, GRPOConfig, RMConfig, SFTConfig
from hone.config.schema.policy import GenerationConfig, PolicyConfig


def check(config: SFTConfig | DPOConfig | RMConfig | GRPOConfig | EvalConfig) -> list[str]:
    """Everything that is wrong, as sentences."""
    if isinstance(config, EvalConfig):
        return [*_environments(config), *_evaluation(config)]
    problems = [*_batches(config.policy), *_packing(config.policy), *_policy(config.policy), *_run(config)]
    if isinstance(config, DPOConfig):
        problems += preferences(config.dpo)
    if isinstance(config, GRPOConfig):
        problems += [
            *_environments(config),
            *_grpo(config),
            *_loss(config),
            *_sampling(config.policy.generation, "policy.generation"),
        ]
    return problems


def environments(config: GRPOConfig | EvalConfig) -> list[str]:
    """All `env_name`s of the data."""
    if isinstance(config, EvalConfig):
        return [config.data.env_name] if config.data.env_name is not None else []
    entries = [*(config.data.train or []), *(config.data.validation or [])]
    return sorted({entry.env_name for entry in entries if entry.env_name is not None})


def _environments(config: GRPOConfig | EvalConfig) -> Iterator[str]:
    for name in environments(config):
        if name != "math":
            yield f"env_name={name}: Hone has `math` alone; score completions by your own rewards.functions"


def _divides(whole: str, size: int, part: str, unit: int) -> str:
    near = max(unit, round(size / unit) * unit)
    return f"{whole}={size} is not a multiple of {part}={unit}: set {whole} to {near}, or change {part}"


def _batches(policy: PolicyConfig) -> Iterator[str]:
    size, micro = policy.train_global_batch_size, policy.train_micro_batch_size
    if micro is not None and size % micro:
        yield _divides("policy.train_global_batch_size", size, "policy.train_micro_batch_size", micro)


def _packing(policy: PolicyConfig) -> Iterator[str]:
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


def _policy(policy: PolicyConfig) -> Iterator[str]:
    yield from adapters(policy.lora, "policy.lora")
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


def _run(config: SFTConfig | DPOConfig | RMConfig | GRPOConfig) -> Iterator[str]:
    kind, loop = next(kind for kind, root in ROOTS.items() if type(config) is root), config.loop
    if loop.max_num_epochs is None and loop.max_num_steps is None:
        yield f"{kind}.max_num_epochs and {kind}.max_num_steps are both null, so the run has no end: set one"
    settings = config.checkpointing
    if settings.keep_top_k is not None and settings.keep_top_k < 1:
        yield f"checkpointing.keep_top_k={settings.keep_top_k}: keep at least 1, or null for all"
    if settings.enabled and settings.metric_name is not None:
        yield from _metric(config, kind, settings.metric_name)


def validates(config: SFTConfig | DPOConfig | RMConfig | GRPOConfig) -> bool:
    """Whether the run will have validation metrics: it has data for it, and a time to do it."""
    loop = config.loop
    has_data = bool(config.data.validation) or any(e.split_validation_size for e in config.data.train or ())
    return has_data and bool(loop.val_period or loop.val_at_start or loop.val_at_end)


def _metric(config: SFTConfig | DPOConfig | RMConfig | GRPOConfig, kind: str, name: str) -> Iterator[str]:
    split, colon, metric = name.partition(":")
    if not colon or split not in ("val", "train"):
        yield f"checkpointing.metric_name={name}: write val:NAME or train:NAME; null keeps the newest"
        return
    known = METRICS[kind][split]
    plain = metric.removeprefix(f"{split}_") if kind == "grpo" else metric
    if plain not in known and not plain.startswith("reward_"):
        near = difflib.get_close_matches(metric, known, 1, 0.4)
        meant = f": did you mean {split}:{near[0]}?" if near else f"; there are {', '.join(known)}"
        yield f"checkpointing.metric_name={name}: `hone {kind}` has no such metric{meant}"
    elif split == "val" and not validates(config):
        yield (
            f"checkpointing.metric_name={name} ranks checkpoints by validation, but there is none: give "
            "data.validation.dataset_name (or data.train.split_validation_size) and "
            f"{kind}.val_period, or set "
            "checkpointing.metric_name to null"
        )


def _grpo(config: GRPOConfig) -> Iterator[str]:
    grpo, policy = config.grpo, config.policy
    rollout = grpo.num_prompts_per_step * grpo.num_generations_per_prompt
    if rollout % policy.train_global_batch_size:
        yield (
            f"grpo.num_prompts_per_step={grpo.num_prompts_per_step} × grpo.num_generations_per_prompt="
            f"{grpo.num_generations_per_prompt} = {rollout} completions cannot be divided into "
            "optimizer steps of "
            f"policy.train_global_batch_size={policy.train_global_batch_size}: set it to {rollout} or "
            "a divisor of it"
        )
    if grpo.num_generations_per_prompt == 1 and grpo.use_leave_one_out_baseline:
        yield (
            "grpo.use_leave_one_out_baseline=true needs others in the group, but "
            "grpo.num_generations_per_prompt=1: "
            "set it to 2 or more"
        )
    if grpo.max_rollout_turns != 1:
        yield f"grpo.max_rollout_turns={grpo.max_rollout_turns}: rollouts are single-turn so far; set it to 1"
    if (grpo.stop_at_validation_metric is None) != (grpo.stop_at_validation_threshold is None):
        yield "grpo.stop_at_validation_metric and grpo.stop_at_validation_threshold go together: set both"
    elif grpo.stop_at_validation_metric is not None and not validates(config):
        yield (
            f"grpo.stop_at_validation_metric={grpo.stop_at_validation_metric} needs validation, but "
            "there is none: "
            "give data.validation.dataset_name and grpo.val_period"
        )
    low, high = grpo.advantage_clip_low, grpo.advantage_clip_high
    if low is not None and high is not None and low >= high:
        yield f"grpo.advantage_clip_low={low} is not below grpo.advantage_clip_high={high}"
    scale = grpo.reward_scaling
    if scale.enabled and scale.source_min >= scale.source_max:
        yield (
            f"grpo.reward_scaling.source_min={scale.source_min} is not below "
            f"grpo.reward_scaling.source_max={scale.source_max}"
        )
    shape = grpo.reward_shaping
    if shape.enabled and shape.overlong_buffer_length > shape.max_response_length:
        yield (
            f"grpo.reward_shaping.overlong_buffer_length={shape.overlong_buffer_length} is more than "
            f"grpo.reward_shaping.max_response_length={shape.max_response_length}: lower it"
        )
    if not config.rewards.functions and set(environments(config)) <= {"math"}:
        yield (
            "rewards.functions is empty, so nothing says which completions are good: list functions, such as "
            "rewards.functions='[{name: math}]' (or data.default.env_name=math)"
        )
    if policy.generation.temperature == 0:
        yield (
            "policy.generation.temperature=0 gives every completion of a group the same tokens, so "
            "there is nothing "
            "to learn from: set it to 1.0 (policy.generation.val_temperature=0 is for validation)"
        )


def _loss(config: GRPOConfig) -> Iterator[str]:
    loss = config.loss_fn
    for key in ("ratio_clip_min", "ratio_clip_max"):
        if getattr(loss, key) < 0:
            yield f"loss_fn.{key}={getattr(loss, key)} is negative: it is a distance from 1, such as 0.2"
    if loss.ratio_clip_min > 1:
        yield f"loss_fn.ratio_clip_min={loss.ratio_clip_min} is more than 1, but ratios are never negative"
    if loss.ratio_clip_c is not None and loss.ratio_clip_c <= 1:
        yield f"loss_fn.ratio_clip_c={loss.ratio_clip_c}: the dual clip's limit is more than 1, such as 3"
    if loss.constant_denominator is not None and not loss.token_level_loss:
        yield (
            "loss_fn.constant_denominator and loss_fn.token_level_loss=false are two ways to weigh "
            "tokens: set "
            "constant_denominator to null, or token_level_loss to true"
        )
    truncated = (loss.truncated_importance_sampling_ratio, loss.truncated_importance_sampling_type)
    if any(value is not None for value in truncated) and not loss.use_importance_sampling_correction:
        yield (
            "loss_fn.truncated_importance_sampling_ratio limits weights that are not used: set "
            "loss_fn.use_importance_sampling_correction=true, or the ratio and the type to null"
        )
    if (
        loss.truncated_importance_sampling_type is not None
        and loss.truncated_importance_sampling_ratio is None
    ):
        yield (
            f"loss_fn.truncated_importance_sampling_type={loss.truncated_importance_sampling_type} needs "
            "loss_fn.truncated_importance_sampling_ratio"
        )
    if loss.use_kl_in_reward and not loss.reference_policy_kl_penalty:
        yield "loss_fn.use_kl_in_reward=true needs loss_fn.reference_policy_kl_penalty above 0"
    updates = config.grpo.num_updates_per_rollout * (
        config.grpo.num_prompts_per_step
        * config.grpo.num_generations_per_prompt
        // config.policy.train_global_batch_size
    )
    if loss.force_on_policy_ratio and updates > 1:
        yield (
            f"loss_fn.force_on_policy_ratio=true takes the ratio as 1, but there are {updates} "
            "optimizer steps per "
            "rollout: set policy.train_global_batch_size to the whole rollout, and "
            "grpo.num_updates_per_rollout to 1"
        )


def _sampling(generation: GenerationConfig, head: str) -> Iterator[str]:
    if any(not text for text in generation.stop_strings or ()):
        yield f"{head}.stop_strings holds an empty text, which every completion has: remove it"
    if any(token < 0 for token in generation.stop_token_ids or ()):
        yield f"{head}.stop_token_ids={generation.stop_token_ids}: ids of tokens are not negative"


def _evaluation(config: EvalConfig) -> Iterator[str]:
    settings, generation = config.eval, config.generation
    yield from _sampling(generation, "generation")
    if settings.k_value > settings.num_tests_per_prompt:
        yield (
            f"eval.k_value={settings.k_value} is more than "
            f"eval.num_tests_per_prompt={settings.num_tests_per_prompt}: "
            "sample at least k answers for each problem"
        )
    elif settings.metric == "cons@k" and settings.num_tests_per_prompt % settings.k_value:
        yield _divides(
            "eval.num_tests_per_prompt", settings.num_tests_per_prompt, "eval.k_value", settings.k_value
        )
    if settings.num_tests_per_prompt > 1 and generation.temperature == 0:
        yield (
            f"eval.num_tests_per_prompt={settings.num_tests_per_prompt} with generation.temperature=0 "
            "gives the same "
            "answer every time: set a temperature such as 0.6, or num_tests_per_prompt to 1"
        )
