"""Which settings are read only under a condition, whatever the algorithm. See `unused`."""

from __future__ import annotations

from types import UnionType
from typing import Any

from hone.config.checks.conditions import ConditionalSettings, lora_conditions, never, only_for, read_if
from hone.config.checks.run import validates
from hone.config.dependent_defaults.settings import Settings
from hone.config.schema import (
    EvalConfig,
    OnlineConfig,
    PolicyGradientConfig,
    RLConfig,
    SupervisedConfig,
    TrainingConfig,
)
from hone.config.schema.vllm import vllm_is_installed

CLUSTER = "cluster: max_restarts worker_timeout_s node_wait_s ray_address"
NO_VALIDATION = "there is no validation"


def _validates(s: Settings) -> bool:
    return validates(s.config)


def _several_processes(s: Settings) -> bool:
    generation = "policy.generation"
    own_generators = isinstance(s.config, OnlineConfig) and (
        not s[f"{generation}.colocated.enabled"] or _vllm_generates(s, generation)
    )
    return bool(s.config.cluster.is_distributed or own_generators)


def _vllm_generates(s: Settings, section: str) -> bool:
    found = vllm_is_installed() or bool(s[f"{section}.vllm_cfg.server_urls"])
    return s[f"{section}.backend"] == "vllm" and found


def _shares_devices_with_vllm(s: Settings, section: str) -> bool:
    if not isinstance(s.config, OnlineConfig) or s[f"{section}.vllm_cfg.server_urls"]:
        return False
    return _vllm_generates(s, section) and bool(s[f"{section}.colocated.enabled"])


def _batches_continuously(s: Settings, section: str) -> bool:
    is_builtin = s[f"{section}.backend"] != "openai" and not _vllm_generates(s, section)
    return is_builtin and bool(s[f"{section}.continuous_batching"])


def _generators(section: str) -> tuple[ConditionalSettings, ...]:
    """Settings of one kind of generator."""
    urls, vllm = f"{section}.vllm_cfg.server_urls", f"{section}.vllm_cfg."
    own = "tensor_parallel_size gpu_memory_utilization enforce_eager start_timeout_s"
    return (
        read_if(
            lambda s: _shares_devices_with_vllm(s, section),
            f"{vllm}sleep_level",
            "no vLLM server shares the learner's devices",
        ),
        read_if(urls, f"{vllm}server_timeout_s", f"there is no {urls}"),
        read_if(
            lambda s: _vllm_generates(s, section),
            f"{section}: vllm_cfg.* vllm_kwargs",
            "vLLM does not generate",
        ),
        read_if(
            lambda s: not s[urls],
            f"{section}: {' '.join(f'vllm_cfg.{key}' for key in own.split())} vllm_kwargs",
            f"the servers of {urls} run already",
        ),
        read_if(
            lambda s: _batches_continuously(s, section),
            f"{section}: kv_cache_tokens num_speculative_tokens",
            "continuous batching in the built-in generator is off",
        ),
        read_if(
            lambda s: _batches_continuously(s, section) and bool(s[f"{section}.num_speculative_tokens"]),
            f"{section}.prompt_lookup_max",
            "speculative decoding in the built-in generator is off",
        ),
    )


TRAINING = (
    read_if("logger.wandb_enabled", "logger.wandb.*"),
    read_if("logger.mlflow_enabled", "logger.mlflow.*"),
    read_if(
        lambda s: s["checkpointing.metric_name"] is not None,
        "checkpointing.higher_is_better",
        "no metric ranks the checkpoints",
    ),
    read_if(_several_processes, CLUSTER, "one device is asked for"),
    *lora_conditions("policy"),
    read_if(
        lambda s: any(entry.split_validation_size for entry in s.config.data.train or ()),
        "data.train.seed",
        "no rows are set aside by split_validation_size",
    ),
    read_if(
        never,
        "data.validation: seed weight split_validation_size",
        "all rows of data.validation are validated on",
    ),
)
SUPERVISED = (
    read_if(_validates, "{section}: val_batches val_global_batch_size", NO_VALIDATION),
    read_if(never, "data.overlong_prompts", "a row that is too long stops the run and is named"),
    read_if(
        never,
        "logger: log_rollouts num_val_samples_to_print",
        "nothing is sampled, in training or in validation",
    ),
)
ONLINE = (
    *_generators("policy.generation"),
    read_if(
        lambda s: not s["policy.generation.colocated.enabled"],
        "policy.generation.colocated.resources.*",
        "generation shares the learner's devices",
    ),
    read_if(
        _validates,
        "{section}: val_start_at max_val_samples val_batch_size val_num_generations_per_prompt",
        NO_VALIDATION,
    ),
    read_if(
        _validates,
        "policy.generation: val_temperature val_top_p val_top_k val_min_p val_repetition_penalty",
        NO_VALIDATION,
    ),
    read_if(_validates, "logger.num_val_samples_to_print", NO_VALIDATION),
    read_if(
        "policy.generation.val_temperature",
        "policy.generation: val_top_p val_top_k val_min_p",
        "policy.generation.val_temperature=0 takes the most likely token",
    ),
)
EVALUATION = (
    read_if(
        lambda s: s["generation.backend"] == "openai",
        "generation.openai_cfg.*",
        "no endpoint is asked: generation.backend is not openai",
    ),
    read_if(
        lambda s: s["generation.backend"] != "openai",
        "generation: precision batch_size continuous_batching",
        "an endpoint answers",
    ),
    read_if(
        lambda s: s.config.generation.has_tokens,
        "tokenizer: name chat_template chat_template_kwargs",
        "the endpoint tokenizes",
    ),
    *_generators("generation"),
    read_if(never, CLUSTER, "an evaluation is one process"),
    read_if(
        "generation.temperature",
        "generation: top_p top_k min_p",
        "generation.temperature=0 takes the most likely token",
    ),
    read_if(
        lambda s: not s.config.eval.has_own_data,
        "data: kwargs subset split seed input_key output_key prompt_template prompt_file system_prompt_file "
        "repeat",
        "a suite has its own data and prompts",
    ),
    read_if(
        lambda s: not s.config.eval.has_own_data or s["eval.suite"] == [s["data.dataset_name"]],
        "data.dataset_name",
        "a suite has its own data: eval.suite_data.NAME is a copy of it",
    ),
    read_if(
        lambda s: not s.config.eval.has_own_data,
        "eval: metric metrics",
        "a suite has its own metrics",
    ),
    read_if(lambda s: not s.config.eval.has_own_data, "rewards.functions", "a suite has its own grader"),
    read_if("eval.suite", "eval.contamination_data", "there is no suite"),
    read_if("eval.lm_eval", "eval.lm_eval_path", "there is no task of lm-evaluation-harness"),
    read_if(
        lambda s: s.config.eval.has_own_data,
        "eval: num_fewshot apply_chat_template",
        "there is no suite",
    ),
)
ENVIRONMENTS = (
    read_if(
        lambda s: bool(s.config.env.is_configured or s.config.env.named),
        "env: kwargs num_workers timeout_s load_timeout_s memory_limit_mb max_observation_chars reward_weight "
        "max_wait_s",
        "there is no env.path and no env.tools",
    ),
    read_if(
        lambda s: not (isinstance(s.config, OnlineConfig) and s.config.streams_rollouts),
        "env: max_wait_s",
        "async_rollouts=stream samples each turn at once",
    ),
)
RL = (
    read_if(never, "data.add_eos", "what a model sampled is trained on as it is"),
    read_if("{section}.use_dynamic_sampling", "{section}.dynamic_sampling_max_gen_batches"),
    read_if(
        lambda s: s.config.streams_rollouts,
        "{section}: max_staleness extra_prompts_in_flight",
        "async_rollouts is not stream",
    ),
)
POLICY_GRADIENT = (
    read_if("loss_fn.use_sapo", "loss_fn: sapo_temperature_pos sapo_temperature_neg"),
    read_if(
        lambda s: not (s["loss_fn.use_sapo"] or s["loss_fn.disable_ppo_ratio"]),
        "loss_fn: ratio_clip_min ratio_clip_max",
        "the loss that is chosen clips no ratio",
    ),
    read_if(
        "loss_fn.reference_policy_kl_penalty",
        "loss_fn: reference_policy_kl_type kl_input_clamp_value kl_output_clamp_value "
        "use_on_policy_kl_approximation use_bias_correction_kl",
        "loss_fn.reference_policy_kl_penalty is 0",
    ),
    read_if("loss_fn.use_importance_sampling_correction", "loss_fn.truncated_importance_sampling_ratio_min"),
    only_for("reinforce_plus_plus", "{section}.adv_estimator.minus_baseline"),
)
TABLE: tuple[tuple[type | UnionType, tuple[ConditionalSettings, ...]], ...] = (
    (TrainingConfig, TRAINING),
    (SupervisedConfig, SUPERVISED),
    (OnlineConfig, ONLINE),
    (EvalConfig, EVALUATION),
    (RLConfig | EvalConfig, ENVIRONMENTS),
    (RLConfig, RL),
    (PolicyGradientConfig, POLICY_GRADIENT),
)


def conditional_settings(root: type[Any]) -> list[ConditionalSettings]:
    """All settings of a command that are read only under a condition, those of its own section last."""
    shared = [entry for configs, entries in TABLE if issubclass(root, configs) for entry in entries]
    return [*shared, *getattr(root, "conditional", ())]
