"""Settings that cannot work together: one message, naming the keys and the fix."""

from __future__ import annotations

from typing import Any

import pytest

from hone.config import load
from hone.errors import ConfigError

CASES: list[tuple[str, list[str], list[str]]] = [
    (
        "sft",
        ["policy.train_global_batch_size=10", "policy.train_micro_batch_size=4"],
        [
            "policy.train_global_batch_size=10",
            "policy.train_micro_batch_size=4",
            "set policy.train_global_batch_size",
        ],
    ),
    (
        "grpo",
        [
            "grpo.num_prompts_per_step=5",
            "policy.train_global_batch_size=64",
            "grpo.num_generations_per_prompt=8",
        ],
        [
            "grpo.num_prompts_per_step=5",
            "grpo.num_generations_per_prompt=8",
            "policy.train_global_batch_size=64",
        ],
    ),
    (
        "grpo",
        ["grpo.num_generations_per_prompt=1", "grpo.adv_estimator.name=grpo"],
        ["grpo.adv_estimator.name=grpo", "grpo.num_generations_per_prompt=1", "every advantage would be 0"],
    ),
    (
        "sft",
        ["policy.dynamic_batching.enabled=true", "policy.sequence_packing.enabled=true"],
        ["policy.dynamic_batching.enabled", "policy.sequence_packing.enabled", "set one of them to false"],
    ),
    (
        "sft",
        [
            "policy.sequence_packing.enabled=true",
            "policy.sequence_packing.train_mb_tokens=100",
            "policy.max_total_sequence_length=1024",
        ],
        ["policy.sequence_packing.train_mb_tokens=100", "policy.max_total_sequence_length=1024"],
    ),
    ("grpo", ["loss_fn.ratio_clip_min=-0.1"], ["loss_fn.ratio_clip_min=-0.1"]),
    ("grpo", ["loss_fn.ratio_clip_c=0.5"], ["loss_fn.ratio_clip_c=0.5", "more than 1"]),
    ("sft", ["checkpointing.keep_top_k=0"], ["checkpointing.keep_top_k=0"]),
    ("sft", ["checkpointing.metric_name=val:acuracy"], ["checkpointing.metric_name=val:acuracy"]),
    ("grpo", ["checkpointing.metric_name=val:acuracy"], ["did you mean val:accuracy?"]),
    ("grpo", ["checkpointing.metric_name=accuracy"], ["val:NAME"]),
    ("grpo", ["grpo.stop_at_validation_metric=accuracy"], ["grpo.stop_at_validation_threshold"]),
    (
        "grpo",
        [
            "grpo.stop_at_validation_metric=accuracy",
            "grpo.stop_at_validation_threshold=0.5",
            "~data.validation",
        ],
        ["grpo.stop_at_validation_metric=accuracy", "data.validation.dataset_name"],
    ),
    ("grpo", ["policy.generation.temperature=-1"], ["policy.generation.temperature=-1"]),
    ("grpo", ["policy.generation.temperature=0"], ["policy.generation.temperature=0"]),
    ("grpo", ["policy.generation.top_p=1.5"], ["policy.generation.top_p=1.5"]),
    ("grpo", ["policy.generation.top_k=-2"], ["policy.generation.top_k=-2"]),
    ("grpo", ["policy.generation.min_p=1.5"], ["policy.generation.min_p=1.5"]),
    (
        "ppo",
        ["policy.generation.repetition_penalty=1.1"],
        ["policy.generation.repetition_penalty=1.1", "val_repetition_penalty is for validation"],
    ),
    (
        "eval",
        [
            "generation.continuous_batching=true",
            "generation.kv_cache_tokens=9",
            "generation.max_model_len=10",
        ],
        ["generation.kv_cache_tokens=9 does not hold one sequence of generation.max_model_len=10"],
    ),
    (
        "eval",
        ["generation.min_new_tokens=20", "generation.max_new_tokens=10"],
        ["generation.min_new_tokens=20 is more than generation.max_new_tokens=10"],
    ),
    ("grpo", ["rewards.functions=[]"], ["rewards.functions is empty"]),
    (
        "grpo",
        ["rewards.functions=[{name: math, datasets: [gsm8k]}]"],
        ["rewards.functions.0.datasets names 'gsm8k'", "hone/word-problems"],
    ),
    ("grpo", ["rewards.functions=[{name: math, envs: [maze]}]"], ["rewards.functions.0.envs names 'maze'"]),
    ("grpo", ["rewards.functions=[{name: math, weight: {5: 1.0}}]"], ["a schedule begins at step 0"]),
    ("grpo", ["rewards.functions=[{name: math, weight: {0: 1.0, -3: 1.0}}]"], ["-3 is no step"]),
    ("grpo", ["rewards.functions=[{name: math, weight_schedule: cosine}]"], ["weight_schedule"]),
    ("grpo", ["rewards.sandbox.timeout_s=0"], ["rewards.sandbox.timeout_s"]),
    ("grpo", ["data.default.env_name=code", "rewards.functions=[]"], ["env_name=code"]),
    ("grpo", ["loss_fn.force_on_policy_ratio=true", "grpo.num_updates_per_rollout=2"], ["2 optimizer steps"]),
    (
        "grpo",
        ["loss_fn.constant_denominator=512", "loss_fn.token_level_loss=false"],
        ["loss_fn.token_level_loss"],
    ),
    (
        "grpo",
        ["loss_fn.truncated_importance_sampling_ratio=2", "loss_fn.use_importance_sampling_correction=false"],
        ["loss_fn.use_importance_sampling_correction"],
    ),
    ("grpo", ["grpo.advantage_clip_low=1", "grpo.advantage_clip_high=0"], ["grpo.advantage_clip_low=1"]),
    ("grpo", ["grpo.reward_scaling.enabled=true", "grpo.reward_scaling.source_min=1"], ["source_max=1.0"]),
    (
        "sft",
        [
            "policy.lora.enabled=true",
            "policy.lora.target_modules=[q_proj]",
            "policy.lora.match_all_linear=true",
        ],
        ["policy.lora.match_all_linear"],
    ),
    ("sft", ["policy.scheduler=[{name: a.B}, {name: c.D}]"], ["2 phases and 0 milestones"]),
    ("sft", ["sft.max_num_epochs=null", "~sft.max_num_steps"], ["sft.max_num_epochs", "sft.max_num_steps"]),
    (
        "eval",
        ["eval.k_value=4", "eval.num_tests_per_prompt=1"],
        ["eval.k_value=4", "eval.num_tests_per_prompt=1"],
    ),
    (
        "eval",
        ["eval.num_tests_per_prompt=4", "generation.temperature=0"],
        ["eval.num_tests_per_prompt=4", "generation.temperature=0"],
    ),
]


AHEAD = "grpo.async_rollouts=lookahead"
CASES += [
    (
        "grpo",
        ["grpo.async_rollouts=stream", "grpo.max_staleness=0"],
        ["grpo.max_staleness=0", "Set grpo.max_staleness to 1 or more, or grpo.async_rollouts to null"],
    ),
    (
        "ppo",
        ["ppo.async_ppo.enabled=true", "ppo.async_ppo.recompute_kv_cache_after_weight_updates=true"],
        ["ppo.async_ppo.recompute_kv_cache_after_weight_updates=true", "set it to false"],
    ),
    (
        "grpo",
        [AHEAD, "policy.generation.colocated.enabled=true"],
        [AHEAD, "Set policy.generation.colocated.enabled to false"],
    ),
    (
        "grpo",
        [AHEAD, "loss_fn.disable_ppo_ratio=true", "loss_fn.use_importance_sampling_correction=false"],
        [AHEAD, "loss_fn.disable_ppo_ratio=true", "set loss_fn.use_importance_sampling_correction to true"],
    ),
]


@pytest.mark.parametrize(("kind", "overrides", "expected"), CASES)
def test_refused(kind: Any, overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(kind, None, overrides)
    message = str(caught.value)
    assert not message[0].isdigit(), message  # one problem, not several
    for text in expected:
        assert text in message


ACCEPTED: list[tuple[str, list[str]]] = [
    ("grpo", ["grpo.num_prompts_per_step=16"]),  # two optimizer steps per rollout
    ("grpo", ["policy.generation.max_new_tokens=100000"]),  # clamped by the context
    ("grpo", ["checkpointing.metric_name=train:reward"]),
    ("grpo", ["checkpointing.metric_name=val:reward_format"]),
    ("grpo", ["checkpointing.metric_name=val:val_reward"]),
    ("sft", ["checkpointing.metric_name=train:loss"]),
    ("sft", ["checkpointing.keep_top_k=null"]),
    ("sft", ["policy.scheduler={name: torch.optim.lr_scheduler.ConstantLR, kwargs: {factor: 1.0}}"]),
]


@pytest.mark.parametrize(("kind", "overrides"), ACCEPTED)
def test_accepted(kind: Any, overrides: list[str]) -> None:
    load(kind, None, overrides)
