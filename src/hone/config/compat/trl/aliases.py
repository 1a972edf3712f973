"""The short names that people type: lr, epochs, model, and TRL's. One table for files, the command line and Python.

Each is an accepted spelling of one of our keys, at the top level of a configuration: `hone sft lr=1e-4`.
"""

from __future__ import annotations

from typing import Any

from hone.config.alias import Spelling
from hone.config.compat.nemo_rl.computed import ONLINE, Context, batch_size
from hone.config.compat.nemo_rl.values import PRECISION, choice, optimizer_class
from hone.config.kinds import section_of

LR = "policy.optimizer.kwargs"
NAMES: dict[str, str] = {
    **dict.fromkeys(("lr", "learning_rate"), f"{LR}.lr"),
    "weight_decay": f"{LR}.weight_decay",
    "max_grad_norm": "policy.max_grad_norm",
    **dict.fromkeys(
        ("max_length", "max_seq_length", "max_seq_len", "sequence_len", "cutoff_len"),
        "policy.max_total_sequence_length",
    ),
    **dict.fromkeys(
        ("gradient_checkpointing", "activation_checkpointing"), "policy.activation_checkpointing"
    ),
    **dict.fromkeys(("max_steps", "steps", "num_steps"), "{section}.max_num_steps"),
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs", "num_train_epochs"), "{section}.max_num_epochs"),
    **dict.fromkeys(("eval_steps", "val_interval"), "{section}.val_period"),
    "seed": "{section}.seed",
    "save_steps": "checkpointing.save_period",
    "save_total_limit": "checkpointing.keep_top_k",
    **dict.fromkeys(("model", "model_name", "model_name_or_path"), "policy.model_name"),
    **dict.fromkeys(("output_dir", "save_dir", "checkpoint_dir"), "checkpointing.checkpoint_dir"),
    **dict.fromkeys(("dataset", "dataset_name", "train_dataset", "train_file"), "data.train.dataset_name"),
    **dict.fromkeys(("eval_dataset", "validation_file", "val_dataset"), "data.validation.dataset_name"),
    **dict.fromkeys(("micro_batch_size", "mini_batch_size"), "policy.train_micro_batch_size"),
    "disable_dropout": "policy.disable_dropout",
    "trust_remote_code": "policy.trust_remote_code",
    "packing": "policy.sequence_packing.enabled",
    "chat_template": "policy.tokenizer.chat_template",
    **dict.fromkeys(("lora_r", "lora_rank"), "policy.lora.dim"),
    "lora_alpha": "policy.lora.alpha",
    "lora_dropout": "policy.lora.dropout",
    "lora_target_modules": "policy.lora.target_modules",
    "run_name": "logger.wandb.name",
    "logging_dir": "logger.log_dir",
    **dict.fromkeys(("gpus", "num_gpus", "n_gpus"), "cluster.gpus_per_node"),
    **dict.fromkeys(("nodes", "num_nodes", "nnodes"), "cluster.num_nodes"),
}
"""Of every training command."""
SAMPLING: dict[str, str] = {
    "num_generations": "{section}.num_generations_per_prompt",
    **dict.fromkeys(("max_completion_length", "max_new_tokens"), "policy.generation.max_new_tokens"),
    **{
        key: f"policy.generation.{key}"
        for key in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    },
    "log_completions": "logger.log_rollouts",
    "reward_funcs": "rewards.functions",
}
"""Of commands that sample."""
CLIPPED: dict[str, str] = {
    **dict.fromkeys(("beta", "kl_coef"), "loss_fn.reference_policy_kl_penalty"),
    "epsilon": "loss_fn.ratio_clip_min,loss_fn.ratio_clip_max",
    "epsilon_high": "loss_fn.ratio_clip_max",
    "use_bias_correction_kl": "loss_fn.use_bias_correction_kl",
    "delta": "loss_fn.ratio_clip_c",
}
OF: dict[str, dict[str, str]] = {
    "sft": {},
    "dpo": {"label_smoothing": "dpo.label_smoothing"},
    "rm": {"center_rewards_coefficient": "rm.center_rewards_coefficient"},
    "grpo": {**CLIPPED, "num_iterations": "grpo.num_updates_per_rollout"},
    "ppo": {**CLIPPED, "num_ppo_epochs": "ppo.ppo_epochs", "vf_coef": "value_loss_fn.scale"},
    "distill": {
        **dict.fromkeys(("teacher_model", "teacher_model_name_or_path"), "teacher.model_name"),
        "lmbda": "distillation.on_policy_fraction",
    },
}
EVALUATION: dict[str, str] = {
    **dict.fromkeys(("model", "model_name", "model_name_or_path"), "generation.model_name"),
    **dict.fromkeys(("dataset", "dataset_name"), "data.dataset_name"),
    **dict.fromkeys(("output_dir", "save_path"), "eval.save_path"),
    **{key: f"generation.{key}" for key in ("temperature", "top_p", "top_k", "max_new_tokens", "batch_size")},
    **dict.fromkeys(("max_length", "max_model_len"), "generation.max_model_len"),
    "seed": "eval.seed",
    "limit": "data.limit",
    "num_samples": "eval.num_tests_per_prompt",
    "chat_template": "tokenizer.chat_template",
}
BATCH = "policy.train_global_batch_size=N (samples an update) and policy.train_micro_batch_size=M (of them at a time)"
SCHEDULE = "policy.scheduler=[{name: torch.optim.lr_scheduler.…, kwargs: {…}}] (docs/configuration.md)"
INSTEAD: dict[str, str] = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), BATCH
    ),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler", "warmup_steps", "warmup_ratio"), SCHEDULE),
    **dict.fromkeys(("logging_steps", "logging_strategy"), "nothing: every step is logged"),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), "eval_steps=N; 0 for none"),
    "save_strategy": "save_steps=N, or checkpointing.enabled=false",
    "resume_from_checkpoint": "nothing: the same command goes on where its folder stands",
    "resume": "nothing: the same command goes on where its folder stands",
    "scale_rewards": "grpo.normalize_rewards",
    "ref_model": "nothing: the model that the run begins with is the reference",
    "peft_config": "policy.lora.dim=16 policy.lora.alpha=32 (docs/adapters.md)",
    "use_lora": "policy.lora.enabled=true",
    "lora": "policy.lora.enabled=true",
    "assistant_only_loss": "nothing: assistant turns alone are trained on; sft.only_unmask_final for the last",
    "reward_weights": "rewards.functions=[{name: NAME, weight: 0.5}]",
    "deepspeed": "nothing: FSDP spreads a model over cluster.gpus_per_node GPUs",
    "fsdp": "nothing: FSDP spreads a model over cluster.gpus_per_node GPUs",
}
"""Names that mean something else here, and what to write."""

_WHERE = {"wandb": "logger.wandb_enabled", "mlflow": "logger.mlflow_enabled", "tensorboard": ""}


def _report_to(value: Any, context: Context) -> dict[str, Any]:
    names = value if isinstance(value, list) else [value]
    if any(name not in (*_WHERE, "none", "all", None) for name in names):
        raise ValueError(f"expected some of {', '.join(_WHERE)}, or none")
    found: dict[str, Any] = {_WHERE[name]: True for name in names if _WHERE.get(name)}
    return found if "tensorboard" in names else {**found, "logger.tensorboard_enabled": False}


def _half(precision: str) -> Any:
    return choice("expected one of", {"true": precision, "false": "float32"})


def _as_text(translate: Any) -> Any:
    return lambda value: translate(str(value).lower())


def common(kind: str) -> list[Spelling]:
    """The short names that a command takes."""
    loop = section_of(kind)
    if kind == "eval":
        return [Spelling(name, (key,)) for name, key in EVALUATION.items()]
    names = {**NAMES, **(SAMPLING if loop in ONLINE else {}), **OF[kind]}
    found = [
        Spelling(
            name,
            tuple(key.format(section=loop).split(",")),
            beats=("epsilon",) if name == "epsilon_high" else (),
        )
        for name, key in names.items()
    ]
    found += [
        Spelling(name, ("policy.train_global_batch_size",), compute=batch_size)
        for name in ("batch_size", "global_batch_size", "train_batch_size")
    ]
    found += [
        Spelling("bf16", ("policy.precision",), _as_text(_half("bfloat16"))),
        Spelling("fp16", ("policy.precision",), _as_text(_half("float16"))),
        Spelling("precision", ("policy.precision",), PRECISION),
        Spelling("optimizer", ("policy.optimizer.name",), optimizer_class),
        Spelling("report_to", ("logger.wandb_enabled",), compute=_report_to),
    ]
    if kind == "dpo":
        found += [
            Spelling("beta", ("dpo.reference_policy_kl_penalty",)),
            Spelling("loss_type", ("dpo.preference_loss",)),
        ]
    if loop in ONLINE:
        backend = choice("expected", {"true": "vllm", "false": "builtin"})
        found.append(Spelling("use_vllm", ("policy.generation.backend",), _as_text(backend)))
    return found


def meant(kind: str, name: str) -> str | None:
    """Our key for a short name, whatever section it was written in; None for another name."""
    return next((spelling.to[0] for spelling in common(kind) if spelling.path == name), None)
