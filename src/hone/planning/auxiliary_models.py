"""The models of a run beside the policy (a value model, a teacher): their settings, their sizes, and their checks."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from hone.config import TrainingConfig
from hone.config.schema import ModelConfig, own_section
from hone.errors import ConfigError
from hone.model.loading import load_tokenizer
from hone.model.model_size import ModelSize, load_model_size


def readable_tokens(config: TrainingConfig) -> int | None:
    """Number of rows of the teacher's embeddings, which may be padded to another size than the student's: the teacher
    can read only tokens below it. None without a teacher."""
    teacher = config.teacher_model
    return None if teacher is None else _size_of(teacher).vocabulary


def model_size_of_run(config: TrainingConfig) -> ModelSize:
    """The sizes of the policy, with those of the models beside it. Raises ModelError (see `load_model_size`)."""
    value, teacher = config.critic, config.teacher_model
    return replace(
        _size_of(config.policy),
        value=None if value is None else _size_of(value),
        teacher=None if teacher is None else _size_of(teacher),
    )


def _size_of(model: ModelConfig) -> ModelSize:
    head = {"scalar": model.has_scalar_head, "trust_remote_code": model.trust_remote_code}
    return load_model_size(model.model_name, model.hf_config_overrides, **head)


def check_auxiliary_models(
    config: TrainingConfig, size: ModelSize, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise ConfigError for a value model or a teacher that does not go with the policy. No weight is read."""
    if (value := config.critic) is not None and size.value is not None:
        check_length(value, size.value.context)
        _check_same_tokens("value", value, config.policy, tokenizer)
    if (teacher := config.teacher_model) is not None and size.teacher is not None:
        _check_same_tokens("teacher", teacher, config.policy, tokenizer)
        _check_teacher(config, teacher, size.teacher, size.vocabulary, tokenizer)


def _check_same_tokens(
    part: str, model: ModelConfig, policy: ModelConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise ConfigError when the model of section `part` would read the policy's tokens as others."""
    name = model.tokenizer.name
    if name == policy.tokenizer.name:
        return
    own = load_tokenizer(name, trust_remote_code=model.trust_remote_code)
    if own.get_vocab() != tokenizer.get_vocab():
        noun = "value model" if part == "value" else part
        raise ConfigError(
            f"{part}.tokenizer.name={name} has another vocabulary than policy.tokenizer.name={policy.tokenizer.name}, "
            f"but the {noun} reads the policy's tokens: name a model of the policy's family as {part}.model_name"
        )


def _check_teacher(
    config: TrainingConfig,
    teacher: ModelConfig,
    size: ModelSize,
    vocabulary: int,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Raise ConfigError for a teacher that cannot read the policy's texts, or lacks some of its `vocabulary` tokens."""
    policy, longest = config.policy, teacher.max_total_sequence_length
    if size.context is not None and longest > size.context:
        raise ConfigError(
            f"teacher.max_total_sequence_length={longest} is more than the {size.context} positions of "
            f"{teacher.model_name}: lower it and policy.max_total_sequence_length, or extend the model with "
            "teacher.hf_config_overrides"
        )
    k, most = config.teacher_topk, min(size.vocabulary, vocabulary)
    if k > most:
        raise ConfigError(
            f"{own_section(config)}.topk_logits_k={k} is more than the {most} tokens that {policy.model_name} and "
            f"{teacher.model_name} both have: set it to {most} for all of them"
        )
    text, last = max(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    if last >= most:
        part, model = ("teacher", teacher) if last >= size.vocabulary else ("policy", policy)
        raise ConfigError(
            f"{part}.model_name={model.model_name} has embeddings for {most} tokens, but the tokenizer has more, up to "
            f"{last} ('{text}'), which the model could not read: name a model with all of them"
        )


def check_length(policy: ModelConfig, limit: int | None) -> None:
    """Raise ConfigError when sequences may be longer than the model's positions."""
    wanted = policy.max_total_sequence_length
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"policy.max_total_sequence_length={wanted} is more than the {limit} positions of "
            f"{policy.model_name}: lower it to {limit}, or extend the model with {policy.part}.hf_config_overrides"
        )
