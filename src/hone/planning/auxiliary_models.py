"""The models beside the policy, a value model or a teacher: their settings and sizes, and whether they fit to it."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from hone.config import TrainingConfig
from hone.config.schema import ModelConfig
from hone.config.schema.distill import DistillConfig
from hone.config.schema.ppo import PPOConfig
from hone.errors import ConfigError
from hone.model.loading import load_tokenizer
from hone.model.model_size import ModelSize, load_model_size


def value_settings(config: TrainingConfig) -> ModelConfig | None:
    """The settings of the run's value model, if it has one."""
    return config.critic if isinstance(config, PPOConfig) else None


def teacher_settings(config: TrainingConfig) -> ModelConfig | None:
    """The settings of the run's teacher, if it has one."""
    return config.teacher.as_model_config(config.policy) if isinstance(config, DistillConfig) else None


def readable_tokens(config: TrainingConfig) -> int | None:
    """So many tokens can the run's teacher read: the rows of its embeddings, which may be fewer than the student's, as
    both are padded. None without a teacher."""
    teacher = teacher_settings(config)
    return None if teacher is None else _shape(teacher).vocabulary


def model_size_of_run(config: TrainingConfig) -> ModelSize:
    """The sizes of the policy, with those of the models beside it. Raises ModelError (see `load_model_size`)."""
    policy, value, teacher = config.policy, value_settings(config), teacher_settings(config)
    shape = _shape(policy)
    if value is not None:
        shape = replace(shape, beside=_shape(value))
    if teacher is not None:
        shape = replace(shape, teacher=_shape(teacher))
    return shape


def _shape(model: ModelConfig) -> ModelSize:
    return load_model_size(
        model.model_name,
        model.hf_config_overrides,
        scalar=model.has_scalar_head,
        trust_remote_code=model.trust_remote_code,
    )


def check_same_tokens(
    part: str,
    name: str,
    policy: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    trust_remote_code: bool = False,
) -> None:
    """Raise ConfigError when the model of section `part`, whose tokenizer is `name`, would read the policy's tokens as
    others."""
    if name == policy.tokenizer.name:
        return
    if load_tokenizer(name, trust_remote_code=trust_remote_code).get_vocab() != tokenizer.get_vocab():
        model = "value model" if part == "value" else part
        raise ConfigError(
            f"{part}.tokenizer.name={name} has another vocabulary than policy.tokenizer.name={policy.tokenizer.name}: "
            f"the {model} reads the policy's tokens; name one of the policy's family as {part}.model_name"
        )


def check_auxiliary_models(
    config: TrainingConfig, shape: ModelSize, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise ConfigError for a model that cannot stand beside the policy. No weight is read."""
    if (value := value_settings(config)) is not None and shape.beside is not None:
        check_length(value, shape.beside.context)
        check_same_tokens(
            "value", value.tokenizer.name, config.policy, tokenizer, trust_remote_code=value.trust_remote_code
        )
    if isinstance(config, DistillConfig) and shape.teacher is not None:
        check_teacher(config, shape.teacher, shape.vocabulary, tokenizer)


def check_teacher(
    config: DistillConfig, shape: ModelSize, vocabulary: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise ConfigError for a teacher that reads other tokens than the policy does, whose vocabulary is given, or fewer
    of them."""
    teacher, policy = config.teacher, config.policy
    check_same_tokens(
        "teacher", teacher.tokenizer.name, policy, tokenizer, trust_remote_code=teacher.trust_remote_code
    )
    longest = teacher.max_total_sequence_length
    if shape.context is not None and longest > shape.context:
        raise ConfigError(
            f"teacher.max_total_sequence_length={longest} is more than the {shape.context} positions of "
            f"{teacher.model_name}: lower it and policy.max_total_sequence_length, or extend the model with "
            "teacher.hf_config_overrides"
        )
    k, most = config.distillation.topk_logits_k, min(shape.vocabulary, vocabulary)
    if k > most:
        raise ConfigError(
            f"distillation.topk_logits_k={k} is more than the {most} tokens that {policy.model_name} and "
            f"{teacher.model_name} both have: set it to {most} for all of them"
        )
    text, last = max(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    if last >= most:
        part, model = ("teacher", teacher) if last >= shape.vocabulary else ("policy", policy)
        raise ConfigError(
            f"{part}.model_name={model.model_name} has embeddings for {most} tokens, but the tokenizer has more, up to "
            f"{last} ('{text}'): a text may hold what the model cannot read; name a model with all of them"
        )


def check_length(policy: ModelConfig, limit: int | None) -> None:
    """Raise ConfigError when sequences may be longer than the model's positions."""
    wanted = policy.max_total_sequence_length
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"policy.max_total_sequence_length={wanted} is more than the {limit} positions of "
            f"{policy.model_name}: lower it to {limit}, or extend the model with {policy.part}.hf_config_overrides"
        )
