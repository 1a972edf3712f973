"""Settings of the online loop that cannot work together: rollouts, rewards, the loss, a value model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from hone.config.checks import losses
from hone.config.kinds import section_of
from hone.config.schema import (
    DistillConfig,
    DPOConfig,
    EvalConfig,
    GRPOConfig,
    OnlineConfig,
    PPOConfig,
    RLConfig,
    RMConfig,
    SFTConfig,
    kind_of,
)
from hone.config.schema.model import SamplingConfig


def online(config: OnlineConfig) -> Iterator[str]:
    """Everything that is wrong with a run of the online loop, as sentences."""
    kind = section_of(kind_of(config))
    yield from _rollouts(config, kind)
    if isinstance(config, RLConfig):
        yield from _rewards(config, kind)
        yield from losses.loss(config, kind)
    if isinstance(config, GRPOConfig):
        yield from _grpo(config)
    if isinstance(config, PPOConfig):
        yield from _ppo(config)
    if isinstance(config, DistillConfig):
        yield from _distill(config)
    yield from sampling(config.policy.generation, "policy.generation")


def environments(config: OnlineConfig | EvalConfig) -> list[str]:
    """All `env_name`s of the data."""
    if isinstance(config, EvalConfig):
        return [config.data.env_name] if config.data.env_name is not None else []
    entries = [*(config.data.train or []), *(config.data.validation or [])]
    return sorted({entry.env_name for entry in entries if entry.env_name is not None})


def divides(whole: str, size: int, part: str, unit: int) -> str:
    """The sentence about a size that is no multiple of its part."""
    near = max(unit, round(size / unit) * unit)
    return f"{whole}={size} is not a multiple of {part}={unit}: set {whole} to {near}, or change {part}"


def validates(config: SFTConfig | DPOConfig | RMConfig | OnlineConfig) -> bool:
    """Whether the run will have validation metrics: it has data for it, and a time to do it."""
    loop = config.loop
    has_data = bool(config.data.validation) or any(e.split_validation_size for e in config.data.train or ())
    return has_data and bool(loop.val_period or loop.val_at_start or loop.val_at_end)


def _rollouts(config: OnlineConfig, kind: str) -> Iterator[str]:
    """The section of the command's own name."""
    loop, policy = config.loop, config.policy
    rollout = loop.num_prompts_per_step * loop.num_generations_per_prompt
    if rollout % policy.train_global_batch_size:
        yield (
            f"{kind}.num_prompts_per_step={loop.num_prompts_per_step} × {kind}.num_generations_per_prompt="
            f"{loop.num_generations_per_prompt} = {rollout} completions cannot be divided into "
            "optimizer steps of "
            f"policy.train_global_batch_size={policy.train_global_batch_size}: set it to {rollout} or "
            "a divisor of it"
        )
    if loop.max_rollout_turns != 1 and not isinstance(config, RLConfig):
        yield f"{kind}.max_rollout_turns={loop.max_rollout_turns}: there are no environments here; set it to 1"
    if (loop.stop_at_validation_metric is None) != (loop.stop_at_validation_threshold is None):
        yield f"{kind}.stop_at_validation_metric and {kind}.stop_at_validation_threshold go together: set both"
    elif loop.stop_at_validation_metric is not None and not validates(config):
        yield (
            f"{kind}.stop_at_validation_metric={loop.stop_at_validation_metric} needs validation, but "
            "there is none: "
            f"give data.validation.dataset_name and {kind}.val_period"
        )


def _rewards(config: RLConfig, kind: str) -> Iterator[str]:
    """Rewards that are learnt from."""
    loop, policy = config.loop, config.policy
    scale = loop.reward_scaling
    if scale.enabled and scale.source_min >= scale.source_max:
        yield (
            f"{kind}.reward_scaling.source_min={scale.source_min} is not below "
            f"{kind}.reward_scaling.source_max={scale.source_max}"
        )
    yield from losses.dynamic_sampling(loop, kind)
    shape = loop.reward_shaping
    if shape.enabled and shape.overlong_buffer_length > shape.max_response_length:
        yield (
            f"{kind}.reward_shaping.overlong_buffer_length={shape.overlong_buffer_length} is more than "
            f"{kind}.reward_shaping.max_response_length={shape.max_response_length}: lower it"
        )
    yield from _sources(config)
    rewarded = config.env.path or any(one.path for one in config.env.named.values())
    if not config.rewards.functions and not rewarded and set(environments(config)) <= {"math"}:
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
    if policy.generation.repetition_penalty != 1:
        yield (
            f"policy.generation.repetition_penalty={policy.generation.repetition_penalty:g} samples from probabilities "
            "that the learner does not have, so its gradient would be of another policy: set it to 1.0 "
            "(policy.generation.val_repetition_penalty is for validation)"
        )


def _sources(config: RLConfig) -> Iterator[str]:
    """Functions for some datasets or environments: names that no data has would never be judged, and nobody told."""
    entries = [*(config.data.train or []), *(config.data.validation or [])]
    names = {entry.dataset_name for entry in entries if entry.dataset_name is not None}
    files = {PurePath(name) for name in names if PurePath(name).suffix or name.startswith("/")}
    datasets = names | {path.name.split(".")[0] for path in files}
    for number, function in enumerate(config.rewards.functions):
        for key, given, known in (
            ("datasets", function.datasets, sorted(datasets)),
            ("envs", function.envs, environments(config)),
        ):
            for name in given or ():
                if name not in known:
                    yield (
                        f"rewards.functions.{number}.{key} names '{name}', which no data has: "
                        f"there is {', '.join(known) or 'none'}"
                    )


def _grpo(config: GRPOConfig) -> Iterator[str]:
    grpo = config.grpo
    yield from losses.estimator(config)
    low, high = grpo.advantage_clip_low, grpo.advantage_clip_high
    if low is not None and high is not None and low >= high:
        yield f"grpo.advantage_clip_low={low} is not below grpo.advantage_clip_high={high}"


SHARED = (
    *("tensor_parallel_size", "context_parallel_size", "pipeline_parallel_size", "dp_replicate_size"),
    *("sequence_parallel", "cpu_offload", "max_total_sequence_length"),
)
"""What the policy and its value model have alike: they read the same sequences on the same devices."""


def _ppo(config: PPOConfig) -> Iterator[str]:
    ppo, estimator, policy, value = config.ppo, config.ppo.adv_estimator, config.policy, config.critic
    if value is None:
        if ppo.policy_training_start_step:
            yield (
                f"ppo.policy_training_start_step={ppo.policy_training_start_step} trains a value model first, but "
                f"ppo.adv_estimator.name={estimator.name} has none: set it to 0, or the estimator to gae"
            )
        if ppo.whiten_rewards:
            yield f"ppo.whiten_rewards=true does nothing for ppo.adv_estimator.name={estimator.name}: set it to false"
        return
    rollout = ppo.num_prompts_per_step * ppo.num_generations_per_prompt
    if rollout % value.train_global_batch_size:
        yield divides(
            "the completions of a rollout",
            rollout,
            "value.train_global_batch_size",
            value.train_global_batch_size,
        )
    steps = ppo.max_num_steps
    if steps is not None and ppo.policy_training_start_step >= steps:
        yield (
            f"ppo.policy_training_start_step={ppo.policy_training_start_step} leaves no step of "
            f"ppo.max_num_steps={steps} in which the policy is trained: lower it"
        )
    for key in SHARED:
        mine, theirs = getattr(value, key), getattr(policy, key)
        if mine is not None and mine != theirs and not (theirs is None and mine in (1, False)):
            yield (
                f"value.{key}={mine} and policy.{key}={theirs}: both models share devices and sequences; "
                f"leave value.{key} out"
            )


def _distill(config: DistillConfig) -> Iterator[str]:
    loss, teacher, policy = config.loss_fn, config.teacher, config.policy
    given = loss.model_fields_set
    for key, kind in (("mixed_kl_weight", "mixed"), ("jsd_beta", "jsd")):
        value, default = getattr(loss, key), type(loss).model_fields[key].default
        if loss.kl_type != kind and key in given and value != default:
            yield f"loss_fn.{key}={value} does nothing for loss_fn.kl_type={loss.kl_type}: it is for {kind}"
    if teacher.max_total_sequence_length < policy.max_total_sequence_length:
        yield (
            f"teacher.max_total_sequence_length={teacher.max_total_sequence_length} is less than "
            f"policy.max_total_sequence_length={policy.max_total_sequence_length}, but the teacher reads the student's "
            "sequences: leave it out"
        )
    if not config.rewards.functions and validates(config) and set(environments(config)) <= {"math"}:
        yield (
            "rewards.functions is empty, so nothing says which validation answers are right: list functions, such as "
            "rewards.functions='[{name: math}]' (or data.default.env_name=math), or set data.validation to null"
        )
    same = [teacher.model_name, teacher.hf_config_overrides] == [
        policy.model_name,
        policy.hf_config_overrides,
    ]
    if same and policy.lora.adapter_path is None:
        yield (
            f"teacher.model_name={teacher.model_name} is the student itself, which has nothing to learn from it: name "
            "a better model"
        )


def sampling(generation: SamplingConfig, head: str) -> Iterator[str]:
    """How completions are drawn: `generation` of GRPO, PPO and evaluation."""
    if any(not text for text in generation.stop_strings or ()):
        yield f"{head}.stop_strings holds an empty text, which every completion has: remove it"
    if any(token < 0 for token in generation.stop_token_ids or ()):
        yield f"{head}.stop_token_ids={generation.stop_token_ids}: ids of tokens are not negative"
    if generation.min_new_tokens > generation.max_new_tokens:
        yield (
            f"{head}.min_new_tokens={generation.min_new_tokens} is more than {head}.max_new_tokens="
            f"{generation.max_new_tokens}: lower it"
        )
