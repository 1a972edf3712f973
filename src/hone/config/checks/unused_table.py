"""Which settings are read only where others say so. See `dormant`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hone.config.checks.online import validates
from hone.config.dependent_defaults import Settings


@dataclass(frozen=True)
class Dormant:
    """Keys that nothing reads while `active` is false. `{section}` is the run's own; `.*` is all below."""

    keys: tuple[str, ...]
    active: Callable[[Settings], bool]
    reason: str
    kinds: tuple[str, ...]


def _on(key: str) -> Callable[[Settings], bool]:
    return lambda s: bool(s[key.format(section=s.section)])


def _is(key: str, *values: object) -> Callable[[Settings], bool]:
    return lambda s: s[key.format(section=s.section)] in values


def _never(s: Settings) -> bool:
    return False


def _clips(s: Settings) -> bool:
    return not (s["loss_fn.use_sapo"] or s["loss_fn.disable_ppo_ratio"])


def _validates(s: Settings) -> bool:
    return validates(s.config)


def _several(s: Settings) -> bool:
    return bool(s.config.cluster.is_distributed)


def _answered(s: Settings) -> bool:
    return bool(s.config.env.is_configured or s.config.env.named)


def _critic(s: Settings) -> bool:
    return s.config.critic is not None


SUPERVISED = ("sft", "dpo", "rm")
ONLINE = ("grpo", "ppo", "distill")
REWARDED = ("grpo", "ppo")
_NAME = "{section}.adv_estimator.name"
_LORA_OF_ADAPTER = ("dim", "alpha", "use_rslora", "use_dora", "target_modules")
_ENV = (
    *("kwargs", "num_workers", "timeout_s", "load_timeout_s", "memory_limit_mb"),
    *("max_observation_chars", "reward_weight", "max_wait_s"),
)


def _adapters(model: str, kinds: tuple[str, ...]) -> tuple[Dormant, ...]:
    head = f"{model}.lora"
    return (
        Dormant(
            (f"{head}.bnb_4bit_quant_type", f"{head}.bnb_4bit_use_double_quant"),
            _on(f"{head}.load_in_4bit"),
            f"{head}.load_in_4bit is off",
            kinds,
        ),
        Dormant(
            tuple(f"{head}.{key}" for key in _LORA_OF_ADAPTER),
            lambda s: s[f"{head}.adapter_path"] is None,
            f"the adapter of {head}.adapter_path has its own",
            kinds,
        ),
    )


TABLE: tuple[Dormant, ...] = (
    Dormant(
        ("logger.wandb.*",),
        _on("logger.wandb_enabled"),
        "logger.wandb_enabled is off",
        (*SUPERVISED, *ONLINE),
    ),
    Dormant(
        ("logger.mlflow.*",),
        _on("logger.mlflow_enabled"),
        "logger.mlflow_enabled is off",
        (*SUPERVISED, *ONLINE),
    ),
    Dormant(
        ("checkpointing.higher_is_better",),
        lambda s: s["checkpointing.metric_name"] is not None,
        "no metric ranks the checkpoints",
        (*SUPERVISED, *ONLINE),
    ),
    Dormant(
        tuple(f"{{section}}.{key}" for key in ("val_batches", "val_global_batch_size")),
        _validates,
        "there is no validation",
        SUPERVISED,
    ),
    Dormant(
        (
            *(f"{{section}}.{key}" for key in ("val_start_at", "max_val_samples", "val_batch_size")),
            "{section}.val_num_generations_per_prompt",
            *(f"policy.generation.val_{key}" for key in ("temperature", "top_p", "top_k", "min_p")),
            "policy.generation.val_repetition_penalty",
            "logger.num_val_samples_to_print",
        ),
        _validates,
        "there is no validation",
        ONLINE,
    ),
    Dormant(
        ("data.overlong_prompts",), _never, "a row that is too long stops the run and is named", SUPERVISED
    ),
    Dormant(
        ("logger.log_rollouts", "logger.num_val_samples_to_print"),
        _never,
        "nothing is sampled, in training or in validation",
        SUPERVISED,
    ),
    Dormant(("data.add_eos",), _never, "what a model sampled is trained on as it is", REWARDED),
    Dormant(
        tuple(f"cluster.{key}" for key in ("max_restarts", "worker_timeout_s", "node_wait_s", "ray_address")),
        _several,
        "one device is asked for",
        (*SUPERVISED, *ONLINE),
    ),
    Dormant(
        tuple(f"cluster.{key}" for key in ("max_restarts", "worker_timeout_s", "node_wait_s", "ray_address")),
        _never,
        "an evaluation is one process",
        ("eval",),
    ),
    *_adapters("policy", (*SUPERVISED, *ONLINE)),
    *_adapters("value", ("ppo",)),
    Dormant(
        ("data.train.seed",),
        lambda s: any(entry.split_validation_size for entry in s.config.data.train or ()),
        "no rows are set aside by split_validation_size",
        (*SUPERVISED, *ONLINE),
    ),
    Dormant(
        tuple(f"data.validation.{key}" for key in ("seed", "weight", "split_validation_size")),
        _never,
        "all rows of data.validation are validated on",
        (*SUPERVISED, *ONLINE),
    ),
    Dormant(
        ("generation.top_p", "generation.top_k", "generation.min_p"),
        _on("generation.temperature"),
        "generation.temperature=0 takes the likeliest token",
        ("eval",),
    ),
    Dormant(
        tuple(f"policy.generation.val_{key}" for key in ("top_p", "top_k", "min_p")),
        _on("policy.generation.val_temperature"),
        "policy.generation.val_temperature=0 takes the likeliest token",
        ONLINE,
    ),
    Dormant(
        tuple(f"env.{key}" for key in _ENV),
        _answered,
        "there is no env.path and no env.tools",
        (*REWARDED, "eval"),
    ),
    Dormant(
        ("loss_fn.sapo_temperature_pos", "loss_fn.sapo_temperature_neg"),
        _on("loss_fn.use_sapo"),
        "loss_fn.use_sapo is off",
        REWARDED,
    ),
    Dormant(
        ("loss_fn.ratio_clip_min", "loss_fn.ratio_clip_max"),
        _clips,
        "the loss that is chosen clips no ratio",
        REWARDED,
    ),
    Dormant(
        (
            *(
                "loss_fn.reference_policy_kl_type",
                "loss_fn.kl_input_clamp_value",
                "loss_fn.kl_output_clamp_value",
            ),
            *("loss_fn.use_on_policy_kl_approximation", "loss_fn.use_bias_correction_kl"),
        ),
        _on("loss_fn.reference_policy_kl_penalty"),
        "loss_fn.reference_policy_kl_penalty is 0",
        REWARDED,
    ),
    Dormant(
        ("loss_fn.truncated_importance_sampling_ratio_min",),
        _on("loss_fn.use_importance_sampling_correction"),
        "loss_fn.use_importance_sampling_correction is off",
        REWARDED,
    ),
    Dormant(
        ("{section}.dynamic_sampling_max_gen_batches",),
        _on("{section}.use_dynamic_sampling"),
        "{section}.use_dynamic_sampling is off",
        REWARDED,
    ),
    Dormant(
        ("grpo.normalize_rewards", "grpo.use_leave_one_out_baseline"),
        _is(_NAME, "grpo", "gdpo"),
        "only the estimators grpo and gdpo read it",
        ("grpo",),
    ),
    Dormant(
        ("{section}.adv_estimator.minus_baseline",),
        _is(_NAME, "reinforce_plus_plus"),
        "only the estimator reinforce_plus_plus reads it",
        REWARDED,
    ),
    Dormant(
        ("ppo.adv_estimator.normalize_rewards", "ppo.adv_estimator.use_leave_one_out_baseline"),
        _is(_NAME, "grpo"),
        "only the estimator grpo reads it",
        ("ppo",),
    ),
    Dormant(
        (
            *(f"ppo.adv_estimator.{key}" for key in ("gae_gamma", "gae_lambda", "gae_lambda_value")),
            *(f"ppo.adv_estimator.{key}" for key in ("gae_lambda_policy", "length_adaptive_alpha")),
            "ppo.adv_estimator.normalize_advantages",
        ),
        _is(_NAME, "gae"),
        "only the estimator gae reads it",
        ("ppo",),
    ),
    Dormant(("value.*", "value_loss_fn.*"), _critic, "only the estimator gae has a value model", ("ppo",)),
)
