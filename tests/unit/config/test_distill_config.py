"""Settings of `hone distill`: what follows what, and what cannot work together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hone.config import load
from hone.config.infer_algorithm import infer_algorithm
from hone.config.schema.distill import DistillConfig
from hone.errors import ConfigError

OWN = [
    "policy.model_name=models/small",
    "teacher.model_name=models/large",
    "data.train.dataset_name=train.jsonl",
]


def loaded(*overrides: str) -> DistillConfig:
    return load("distill", None, [*OWN, *overrides]).config


def test_the_teachers_settings_follow_the_students() -> None:
    config = loaded(
        "policy.train_micro_batch_size=4",
        "policy.sequence_packing.enabled=true",
        "policy.precision=float32",
        "policy.max_total_sequence_length=128",
        "policy.lora.enabled=true",
        "policy.activation_checkpointing=true",
        "teacher.logprob_batch_size=2",
    )
    teacher = config.teacher
    assert (teacher.precision, teacher.max_total_sequence_length) == ("float32", 128)
    settings = teacher.as_model_config(config.policy)
    assert (settings.model_name, settings.tokenizer.name) == ("models/large", "models/large")
    assert settings.sequence_packing.enabled
    assert settings.sequence_packing.logprob_mb_tokens == 256
    assert not settings.lora.enabled
    assert not settings.activation_checkpointing
    assert config.policy.lora.enabled
    assert config.policy.tokenizer.name == "models/small"
    assert config.policy.sequence_packing.logprob_mb_tokens == 512


def test_the_temperature_is_that_of_sampling_unless_given() -> None:
    assert loaded("policy.generation.temperature=0.7").loss_fn.temperature == 0.7
    assert loaded("policy.generation.temperature=0.7", "loss_fn.temperature=2.0").loss_fn.temperature == 2.0


def test_prompts_without_validation_need_no_rewards() -> None:
    assert loaded().rewards.functions == []
    assert not loaded().uses_reference_model
    with pytest.raises(
        ConfigError, match=r"validation cannot score completions.*set data\.validation to null"
    ):
        loaded("data.validation.dataset_name=held_out.jsonl")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distillation.on_policy_fraction=1.5", "on_policy_fraction"),
        (
            "distillation.num_prompts_per_step=100 policy.train_global_batch_size=64 "
            "distillation.num_generations_per_prompt=1",
            r"distillation\.num_prompts_per_step=100 .* optimizer steps of",
        ),
        ("loss_fn.temperature=0.0", r"loss_fn\.temperature"),
        ("loss_fn.reference_policy_kl_penalty=0.1", r"loss_fn\.reference_policy_kl_penalty"),
        ("distillation.reward_scaling.enabled=true", "reward_scaling"),
        ("teacher.lora.enabled=true", r"teacher\.lora"),
        ("teacher.model_name=models/small", "is the student itself"),
        ("checkpointing.metric_name=val:preference_loss", "`hone distill` has no such metric"),
    ],
)
def test_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(*override.split(" "))


def test_spellings_of_the_loop_mean_its_section() -> None:
    config = loaded("trainer.max_steps=7", "trainer.limit_val_batches=2", "training.batch_size=32")
    assert config.distillation.max_num_steps == 7
    assert config.distillation.max_val_samples == 2 * config.distillation.val_batch_size
    assert (config.distillation.num_prompts_per_step, config.policy.train_global_batch_size) == (32, 32)


def test_the_file_of_a_distillation_is_known_as_one(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("distillation: {topk_logits_k: 4}\nloss_fn: {kl_type: forward}\n")
    assert infer_algorithm(str(path), []) == "distill"
    kinds: list[Any] = ["grpo", "sft"]
    for kind in kinds:
        with pytest.raises(
            ConfigError, match=r"for distillation \(its section `distillation`\): run `hone distill`"
        ):
            load(kind, path, OWN)
