"""Which settings are read only where others say so. See `unused`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType

from hone.config.checks.run import validates
from hone.config.dependent_defaults.settings import Settings
from hone.config.schema import (
    EvalConfig,
    GRPOConfig,
    OnlineConfig,
    PolicyGradientConfig,
    PPOConfig,
    RLConfig,
    SupervisedConfig,
    TrainingConfig,
)

Condition = Callable[[Settings], bool]


@dataclass(frozen=True)
class UnusedUnless:
    """Keys that nothing reads unless `condition` holds. `{section}` is the run's own; `.*` is all below."""

    keys: tuple[str, ...]
    condition: Condition
    reason: str
    configs: type | UnionType


def _on(key: str) -> Condition:
    return lambda s: bool(s[key.format(section=s.section)])


def _estimator(*names: str) -> Condition:
    return lambda s: s[f"{s.section}.adv_estimator.name"] in names


def _never(s: Settings) -> bool:
    return False


def _validates(s: Settings) -> bool:
    return validates(s.config)


def _below(head: str, *keys: str) -> tuple[str, ...]:
    return tuple(f"{head}.{key}" for key in keys)


CLUSTER = _below("cluster", "max_restarts", "worker_timeout_s", "node_wait_s", "ray_address")


def _adapters(model: str, configs: type | UnionType) -> tuple[UnusedUnless, ...]:
    head = f"{model}.lora"
    return (
        UnusedUnless(
            _below(head, "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
            _on(f"{head}.load_in_4bit"),
            f"{head}.load_in_4bit is off",
            configs,
        ),
        UnusedUnless(
            _below(head, "dim", "alpha", "use_rslora", "use_dora", "target_modules"),
            lambda s: s[f"{head}.adapter_path"] is None,
            f"the adapter of {head}.adapter_path has its own",
            configs,
        ),
    )


def _only_for(configs: type | UnionType, estimators: tuple[str, ...], *keys: str) -> UnusedUnless:
    """Settings that some estimators of advantages read."""
    names = " and ".join(estimators)
    verb = "read" if len(estimators) > 1 else "reads"
    reason = f"only the estimator{'s' if len(estimators) > 1 else ''} {names} {verb} it"
    return UnusedUnless(keys, _estimator(*estimators), reason, configs)


TABLE: tuple[UnusedUnless, ...] = (
    UnusedUnless(
        ("logger.wandb.*",), _on("logger.wandb_enabled"), "logger.wandb_enabled is off", TrainingConfig
    ),
    UnusedUnless(
        ("logger.mlflow.*",), _on("logger.mlflow_enabled"), "logger.mlflow_enabled is off", TrainingConfig
    ),
    UnusedUnless(
        ("checkpointing.higher_is_better",),
        lambda s: s["checkpointing.metric_name"] is not None,
        "no metric ranks the checkpoints",
        TrainingConfig,
    ),
    UnusedUnless(
        _below("{section}", "val_batches", "val_global_batch_size"),
        _validates,
        "there is no validation",
        SupervisedConfig,
    ),
    UnusedUnless(
        (
            *_below("{section}", "val_start_at", "max_val_samples", "val_batch_size"),
            "{section}.val_num_generations_per_prompt",
            *_below("policy.generation", "val_temperature", "val_top_p", "val_top_k", "val_min_p"),
            "policy.generation.val_repetition_penalty",
            "logger.num_val_samples_to_print",
        ),
        _validates,
        "there is no validation",
        OnlineConfig,
    ),
    UnusedUnless(
        ("data.overlong_prompts",),
        _never,
        "a row that is too long stops the run and is named",
        SupervisedConfig,
    ),
    UnusedUnless(
        ("logger.log_rollouts", "logger.num_val_samples_to_print"),
        _never,
        "nothing is sampled, in training or in validation",
        SupervisedConfig,
    ),
    UnusedUnless(("data.add_eos",), _never, "what a model sampled is trained on as it is", RLConfig),
    UnusedUnless(
        CLUSTER, lambda s: bool(s.config.cluster.is_distributed), "one device is asked for", TrainingConfig
    ),
    UnusedUnless(CLUSTER, _never, "an evaluation is one process", EvalConfig),
    *_adapters("policy", TrainingConfig),
    *_adapters("value", PPOConfig),
    UnusedUnless(
        ("data.train.seed",),
        lambda s: any(entry.split_validation_size for entry in s.config.data.train or ()),
        "no rows are set aside by split_validation_size",
        TrainingConfig,
    ),
    UnusedUnless(
        _below("data.validation", "seed", "weight", "split_validation_size"),
        _never,
        "all rows of data.validation are validated on",
        TrainingConfig,
    ),
    UnusedUnless(
        _below("generation", "top_p", "top_k", "min_p"),
        _on("generation.temperature"),
        "generation.temperature=0 takes the likeliest token",
        EvalConfig,
    ),
    UnusedUnless(
        _below("policy.generation", "val_top_p", "val_top_k", "val_min_p"),
        _on("policy.generation.val_temperature"),
        "policy.generation.val_temperature=0 takes the likeliest token",
        OnlineConfig,
    ),
    UnusedUnless(
        (
            *_below("env", "kwargs", "num_workers", "timeout_s", "load_timeout_s", "memory_limit_mb"),
            *_below("env", "max_observation_chars", "reward_weight", "max_wait_s"),
        ),
        lambda s: bool(s.config.env.is_configured or s.config.env.named),
        "there is no env.path and no env.tools",
        RLConfig | EvalConfig,
    ),
    UnusedUnless(
        _below("loss_fn", "sapo_temperature_pos", "sapo_temperature_neg"),
        _on("loss_fn.use_sapo"),
        "loss_fn.use_sapo is off",
        PolicyGradientConfig,
    ),
    UnusedUnless(
        _below("loss_fn", "ratio_clip_min", "ratio_clip_max"),
        lambda s: not (s["loss_fn.use_sapo"] or s["loss_fn.disable_ppo_ratio"]),
        "the loss that is chosen clips no ratio",
        PolicyGradientConfig,
    ),
    UnusedUnless(
        (
            *_below("loss_fn", "reference_policy_kl_type", "kl_input_clamp_value", "kl_output_clamp_value"),
            *_below("loss_fn", "use_on_policy_kl_approximation", "use_bias_correction_kl"),
        ),
        _on("loss_fn.reference_policy_kl_penalty"),
        "loss_fn.reference_policy_kl_penalty is 0",
        PolicyGradientConfig,
    ),
    UnusedUnless(
        ("loss_fn.truncated_importance_sampling_ratio_min",),
        _on("loss_fn.use_importance_sampling_correction"),
        "loss_fn.use_importance_sampling_correction is off",
        PolicyGradientConfig,
    ),
    UnusedUnless(
        ("{section}.dynamic_sampling_max_gen_batches",),
        _on("{section}.use_dynamic_sampling"),
        "{section}.use_dynamic_sampling is off",
        RLConfig,
    ),
    _only_for(
        GRPOConfig, ("grpo", "gdpo"), *_below("grpo", "normalize_rewards", "use_leave_one_out_baseline")
    ),
    _only_for(PolicyGradientConfig, ("reinforce_plus_plus",), "{section}.adv_estimator.minus_baseline"),
    _only_for(
        PPOConfig,
        ("grpo",),
        *_below("ppo.adv_estimator", "normalize_rewards", "use_leave_one_out_baseline"),
    ),
    _only_for(
        PPOConfig,
        ("gae",),
        *_below("ppo.adv_estimator", "gae_gamma", "gae_lambda", "gae_lambda_value", "gae_lambda_policy"),
        *_below("ppo.adv_estimator", "length_adaptive_alpha", "normalize_advantages"),
    ),
    UnusedUnless(
        ("value.*", "value_loss_fn.*"),
        lambda s: s.config.critic is not None,
        "only the estimator gae has a value model",
        PPOConfig,
    ),
)
