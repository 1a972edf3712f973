"""Arguments of a call -> settings: sections as dicts, dotted keys, and the names that TRL's users know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hone.config.kinds import section_of
from hone.config.overrides import Override
from hone.config.trees import split_path
from hone.errors import ConfigError

LR = "policy.optimizer.kwargs"
ONLINE = ("grpo", "ppo", "distill")
TRL: dict[str, str] = {
    "learning_rate": f"{LR}.lr",
    "weight_decay": f"{LR}.weight_decay",
    "max_grad_norm": "policy.max_grad_norm",
    "max_length": "policy.max_total_sequence_length",
    "gradient_checkpointing": "policy.activation_checkpointing",
    "disable_dropout": "policy.disable_dropout",
    "max_steps": "{section}.max_num_steps",
    "num_train_epochs": "{section}.max_num_epochs",
    "eval_steps": "{section}.val_period",
    "seed": "{section}.seed",
    "trust_remote_code": "policy.trust_remote_code",
    "save_steps": "checkpointing.save_period",
    "save_total_limit": "checkpointing.keep_top_k",
}
"""TRL's name of a setting, and ours, where they mean the same."""
TRL_ONLINE: dict[str, str] = {
    "num_generations": "{section}.num_generations_per_prompt",
    "max_completion_length": "policy.generation.max_new_tokens",
    "temperature": "policy.generation.temperature",
    "top_p": "policy.generation.top_p",
    "top_k": "policy.generation.top_k",
    "min_p": "policy.generation.min_p",
    "repetition_penalty": "policy.generation.repetition_penalty",
}
TRL_OF: dict[str, dict[str, str]] = {
    "grpo": {
        "beta": "loss_fn.reference_policy_kl_penalty",
        "epsilon": "loss_fn.ratio_clip_min,loss_fn.ratio_clip_max",
        "epsilon_high": "loss_fn.ratio_clip_max",
        "num_iterations": "grpo.num_updates_per_rollout",
        "use_bias_correction_kl": "loss_fn.use_bias_correction_kl",
    },
    "dpo": {"beta": "dpo.reference_policy_kl_penalty"},
}
ARGUMENT = {"train_dataset": "dataset", "eval_dataset": "validation", "output_dir": "folder"}
BATCH = "policy={'train_global_batch_size': N, 'train_micro_batch_size': M}: N samples an update, M at a time"
OTHERWISE = {
    "args": "give its settings as arguments, such as learning_rate=1e-5",
    "processing_class": "policy={'tokenizer': {'name': ...}}; without it the model's own is used",
    "tokenizer": "policy={'tokenizer': {'name': ...}}; without it the model's own is used",
    "peft_config": "policy={'lora': {'enabled': True, 'dim': 16, 'alpha': 32}}",
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": BATCH,
    "gradient_accumulation_steps": BATCH,
    "bf16": "policy={'precision': 'bfloat16'}",
    "fp16": "policy={'precision': 'float16'}",
    "report_to": "logger={'wandb_enabled': True}; metrics.csv and TensorBoard are always written",
    "run_name": "logger={'wandb': {'name': ...}}, or folder",
    "logging_steps": "nothing: every step is logged",
    "logging_dir": "logger={'log_dir': ...}",
    "lr_scheduler_type": "policy={'scheduler': [...]} (docs/configuration.md)",
    "warmup_steps": "policy={'scheduler': [...]} (docs/configuration.md)",
    "warmup_ratio": "policy={'scheduler': [...]} (docs/configuration.md)",
    "eval_strategy": "eval_steps=N; 0 for none",
    "save_strategy": "save_steps=N, or checkpointing={'enabled': False}",
    "resume_from_checkpoint": "nothing: the same call goes on where the folder stands",
    "loss_type": "loss_fn={...} for the policy loss, dpo={...} for preferences (docs/configuration.md)",
    "scale_rewards": "grpo={'normalize_rewards': ...}",
    "use_vllm": "policy={'generation': {'backend': ...}}",
    "ref_model": "nothing: the model that the run begins with is the reference",
    "callbacks": "nothing of the kind; metrics are in Result.history",
    "optim": "policy={'optimizer': {'name': 'torch.optim.AdamW'}}",
    "reward_processing_classes": "reward_funcs=[{'name': 'reward_model', 'kwargs': {...}}]",
}
"""TRL's arguments that mean something else here, and what to write."""


def settings_of(kind: str, given: Mapping[str, Any]) -> list[Override]:
    """Keyword arguments, or a mapping of settings: keys may be dotted, values sections. Raises ConfigError for TRL's
    arguments that have no equal here, saying what to write."""
    known = {**TRL, **(TRL_ONLINE if kind in ONLINE else {}), **TRL_OF.get(kind, {})}
    found: list[Override] = []
    for name, value in given.items():
        if name in OTHERWISE and not (name == "tokenizer" and isinstance(value, Mapping)):
            raise ConfigError(f"{name}= is not an argument of hone.{kind}: write {OTHERWISE[name]}")
        keys = known[name].format(section=section_of(kind)).split(",") if name in known else [name]
        if name == "epsilon" and "epsilon_high" in given:
            keys = keys[:1]
        for key in keys:
            found.append(Override(split_path(key), plain(value)))
    return found


def plain(value: Any) -> Any:
    """What YAML can hold, of what Python has besides: paths, tuples, numbers of NumPy. Functions are left."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not callable(value) and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def named(model: Any, argument: str) -> str | None:
    """A model by name or folder. Raises ConfigError for a model that is in memory."""
    if model is None or isinstance(model, str):
        return model
    if isinstance(model, Path):
        return str(model)
    raise ConfigError(
        f"{argument} is a {type(model).__name__}: give a Hugging Face name or a folder. What is in memory can be "
        "written there: model.save_pretrained(FOLDER) and tokenizer.save_pretrained(FOLDER)"
    )


def arguments_of(settings: dict[str, Any], **own: Any) -> dict[str, Any]:
    """The call's own arguments, with those that TRL names otherwise taken out of `settings`. Raises ConfigError for one
    that is given under both names."""
    for theirs, ours in ARGUMENT.items():
        if theirs not in settings:
            continue
        value = settings.pop(theirs)
        if own.get(ours) is not None:
            raise ConfigError(f"{theirs}= and {ours}= are the same argument: give one")
        own[ours] = value
    return own
