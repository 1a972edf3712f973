"""TRL's arguments, with those of transformers, PEFT and other trainers, as top-level names: `learning_rate=1e-4`."""

from __future__ import annotations

from typing import Any

from hone.config.alias import Alias, Context, KeyRule, NoEffect, flag
from hone.config.nested import MISSING
from hone.config.schema import ROOTS, EvalConfig, OnlineConfig, section_of

TRAINING: dict[str, str] = {
    "learning_rate": "policy.optimizer.kwargs.lr",
    **dict.fromkeys(
        ("max_seq_length", "max_seq_len", "sequence_len", "cutoff_len"), "policy.max_total_sequence_length"
    ),
    "gradient_checkpointing": "policy.activation_checkpointing",
    "num_train_epochs": "{section}.max_num_epochs",
    "eval_steps": "{section}.val_period",
    "save_steps": "checkpointing.save_period",
    "save_total_limit": "checkpointing.keep_top_k",
    "model_name_or_path": "policy.model_name",
    "train_dataset": "data.train.dataset_name",
    "eval_dataset": "data.validation.dataset_name",
    "lora_r": "policy.lora.dim",
    "lora_target_modules": "policy.lora.target_modules",
    "logging_dir": "logger.log_dir",
}
"""Of every training command."""
SAMPLING: dict[str, str] = {
    "num_generations": "{section}.num_generations_per_prompt",
    "max_completion_length": "policy.generation.max_new_tokens",
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
    "dpo": {
        "beta": "dpo.reference_policy_kl_penalty",
        "loss_type": "dpo.preference_loss",
        "label_smoothing": "dpo.label_smoothing",
    },
    "rm": {"center_rewards_coefficient": "rm.center_rewards_coefficient"},
    "grpo": {**CLIPPED, "num_iterations": "grpo.num_updates_per_rollout"},
    "ppo": {**CLIPPED, "num_ppo_epochs": "ppo.ppo_epochs", "vf_coef": "value_loss_fn.scale"},
    "distill": {
        **dict.fromkeys(("teacher_model", "teacher_model_name_or_path"), "teacher.model_name"),
        "lmbda": "distillation.on_policy_fraction",
    },
    "online-dpo": {key: f"online_dpo.{key}" for key in ("loss_type", "missing_eos_penalty")},
}
"""Aliases of one command."""
BATCH = "policy.train_global_batch_size=N (samples per update), policy.train_micro_batch_size=M (samples per forward)"
SCHEDULE = "policy.scheduler=[{name: torch.optim.lr_scheduler.…, kwargs: {…}}] (docs/configuration.md)"
REPLACEMENTS: dict[str, str] = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), BATCH
    ),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler", "warmup_steps", "warmup_ratio"), SCHEDULE),
    **dict.fromkeys(("logging_steps", "logging_strategy"), "nothing: every step is logged"),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), "eval_steps=N; 0 for none"),
    "save_strategy": "save_steps=N, or checkpointing.enabled=false",
    "resume_from_checkpoint": "nothing: the same command resumes from its folder",
    "scale_rewards": "grpo.normalize_rewards, which only hone grpo has",
    "ref_model": "nothing: the model that the run begins with is the reference",
    "peft_config": "policy.lora.dim=16 policy.lora.alpha=32 (docs/adapters.md)",
    "assistant_only_loss": "nothing: only assistant turns are trained on; sft.only_unmask_final=true: only the last",
    "reward_weights": "rewards.functions=[{name: NAME, weight: 0.5}]",
    "reward_model_path": "rewards.functions=[{name: reward_model, kwargs: {model: PATH}}]",
    "judge": "rewards.functions=[{name: judge, kwargs: {base_url: URL, model: NAME}}] (docs/rewards.md)",
    **dict.fromkeys(("deepspeed", "fsdp"), "nothing: FSDP spreads a model over cluster.gpus_per_node GPUs"),
}
"""TRL's names that Hone does not accept, and their replacements."""

_TRACKERS = {"wandb": "logger.wandb_enabled", "mlflow": "logger.mlflow_enabled", "tensorboard": ""}


def _report_to(value: Any, context: Context) -> dict[str, Any]:
    names = value if isinstance(value, list) else [value]
    if any(name not in (*_TRACKERS, "none", "all", None) for name in names):
        raise ValueError(f"expected some of {', '.join(_TRACKERS)}, or none")
    found: dict[str, Any] = {_TRACKERS[name]: True for name in names if _TRACKERS.get(name)}
    return found if "tensorboard" in names else {**found, "logger.tensorboard_enabled": False}


def _beta(value: Any) -> Any:
    """A beta, given alone or as a list of one. Raises ValueError for TRL's list of betas by epoch."""
    if isinstance(value, list) and len(value) > 1:
        raise ValueError(f"expected one beta, or betas by step: {{0: {value[0]}, STEP: {value[1]}}}")
    return value[0] if isinstance(value, list) and value else value


VLLM = "policy.generation.vllm_cfg."
VLLM_KEYS = {
    "gpu_memory_utilization": "gpu_memory_utilization",
    "tensor_parallel_size": "tensor_parallel_size",
    "server_timeout": "server_timeout_s",
}
SERVER_KEYS = ("vllm_mode", "vllm_server_base_url", "vllm_server_host", "vllm_server_port")


def _server_url(value: Any, context: Context) -> dict[str, Any]:
    """The URL of TRL's server, which several of its settings name. The defaults are TRL's, but for the host: a server
    listens on 0.0.0.0 and is reached at localhost."""
    mode, base, host, port = (context.written(key) for key in SERVER_KEYS)
    if mode not in (MISSING, "server", "colocate"):
        raise ValueError("expected server or colocate")
    if mode == "colocate":
        if value == mode:
            return {f"{VLLM}server_urls": []}
        raise NoEffect("vllm_mode is colocate")
    if base in (MISSING, None):
        host = "localhost" if host in (MISSING, None, "0.0.0.0") else host
        base = f"http://{host}:{8000 if port in (MISSING, None) else port}"
    return {f"{VLLM}server_urls": [base]}


def aliases(algorithm: str) -> list[Alias]:
    """TRL's names that a command accepts."""
    root = ROOTS[algorithm]
    if issubclass(root, EvalConfig):
        return [Alias("model_name_or_path", ("generation.model_name",))]
    online = issubclass(root, OnlineConfig)
    names = {**TRAINING, **(SAMPLING if online else {}), **OF.get(algorithm, {})}
    found = [
        Alias(
            name,
            tuple(key.format(section=section_of(algorithm)).split(",")),
            beats=("epsilon",) if name == "epsilon_high" else (),
        )
        for name, key in names.items()
    ]
    found += [
        Alias("bf16", ("policy.precision",), flag("expected one of", "bfloat16", "float32")),
        Alias("fp16", ("policy.precision",), flag("expected one of", "float16", "float32")),
        Alias("report_to", ("logger.wandb_enabled",), compute=_report_to),
    ]
    if algorithm == "online-dpo":
        found.append(Alias("beta", ("online_dpo.beta",), _beta))
    if online:
        found.append(Alias("use_vllm", ("policy.generation.backend",), flag("expected", "vllm", "builtin")))
        found += [Alias(key, (f"{VLLM}server_urls",), compute=_server_url) for key in SERVER_KEYS]
        found += [Alias(f"vllm_{key}", (VLLM + to,)) for key, to in VLLM_KEYS.items()]
        sleeps = flag("expected", 1, 0)
        found.append(Alias("vllm_enable_sleep_mode", (f"{VLLM}sleep_level",), sleeps))
    return found


def rules(algorithm: str) -> list[KeyRule]:
    """TRL has no key of this kind: each is read as one of ours, or refused with what to write in its place."""
    return []
