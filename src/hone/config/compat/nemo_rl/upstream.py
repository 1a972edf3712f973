"""Upstream's keys that Hone does not have: inert ones, and those that only their neutral value may keep."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hone.config.compat.nemo_rl import megatron
from hone.config.compat.nemo_rl.rules import (
    DTENSOR,
    EMPTY,
    LORA,
    NONE,
    OFF,
    Rule,
    Switch,
    also_of_value,
    inert,
    neutral,
    section,
)

_DTENSOR = [
    Rule("policy.dtensor_cfg.enabled", megatron.ENGINE, at=(False,)),
    neutral("policy.dtensor_cfg.enabled", (True, False), "expected true or false"),
    section("policy.dtensor_cfg.**", DTENSOR),
    *inert(megatron.ENGINE, "policy.dtensor_cfg._v2"),
    neutral("policy.dtensor_cfg.env_vars", EMPTY, "set environment variables for the command itself"),
    neutral("policy.dtensor_cfg.env_vars.*", ("", None), "set environment variables for the command itself"),
    *inert("the allocator's cache is PyTorch's own affair", "policy.dtensor_cfg.clear_cache_every_n_steps"),
    neutral("policy.dtensor_cfg.custom_parallel_plan", NONE, "Hone chooses the plan; set it to null"),
    neutral(
        "policy.dtensor_cfg.automodel_kwargs", EMPTY, "Hone loads models with transformers; set it to {}"
    ),
    neutral(
        "policy.dtensor_cfg.automodel_kwargs.**", EMPTY, "Hone loads models with transformers; remove it"
    ),
    Rule("policy.dtensor_cfg.lora_cfg.**", "the adapter is off", off=LORA),
    neutral(
        "policy.dtensor_cfg.lora_cfg.dropout_position",
        lambda value, ours: value == "pre" or ours("policy.lora.dropout") == 0,
        "dropout is on the adapter's input; set it to pre",
    ),
    *inert("how adapters are computed, not what", "policy.dtensor_cfg.lora_cfg.use_triton"),
]

_POLICY = [
    neutral("policy.draft.enabled", OFF, "Hone has no draft model; set it to false"),
    *inert("policy.draft.enabled is off", "policy.draft.**"),
    neutral("policy.offload_optimizer_for_logprob", OFF, "use policy.cpu_offload"),
    neutral("policy.sequence_packing.microbatch_order", ("packer",), "micro-batches keep the packer's order"),
    *inert(
        "changes speed alone",
        "policy.tokenizer.use_fastokens",
        "tokenizer.use_fastokens",
        "policy.make_sequence_length_divisible_by",
    ),
    *inert(
        "samples are packed by best-fit decreasing, and packed rows are not padded: the result is the same",
        "policy.sequence_packing.algorithm",
        "policy.sequence_packing.sequence_length_round",
    ),
    *inert("rows are prepared when they are drawn, in this process", "data.num_workers"),
    *inert("the opening of a turn is never trained on", "data.add_generation_prompt"),
]


def _generation(head: str) -> list[Rule]:
    """`policy.generation` of GRPO, `generation` of evaluation."""
    vllm = f"{head}.vllm_cfg"
    switch = Switch(f"{head}.backend", on=("vllm",))
    rules = [
        neutral(
            f"{head}.colocated.enabled", (True,), "generation shares the learner's devices; set it to true"
        ),
        *inert("generation shares the learner's devices", f"{head}.colocated.resources.**"),
        *inert(
            "one process needs no ports or transport",
            f"{head}.port_range_low",
            f"{head}.port_range_high",
        ),
        *inert("one process needs no ports or transport", f"{head}.refit_transport", f"{head}.refit_cfg.**"),
        *inert("for quantized models", f"{head}.real_quant_export_cpu_offload"),
        *inert("the backend is not Megatron", f"{head}.mcore_generation_config.**"),
        *inert("the backend is not SGLang", f"{head}.sglang_cfg.**", f"{head}.sglang_kwargs.**"),
        Rule(f"{vllm}.**", "the backend is not vLLM", off=switch),
        Rule(f"{head}.vllm_kwargs.**", "the backend is not vLLM", off=switch),
        neutral(f"{head}.vllm_kwargs", EMPTY, "arguments for vLLM are not passed on; set it to {}"),
        neutral(f"{head}.vllm_kwargs.**", EMPTY, "arguments for vLLM are not passed on; remove it"),
        neutral(f"{vllm}.kv_cache_dtype", ("auto",), "the cache has the model's precision; set it to auto"),
        neutral(f"{vllm}.logprobs_mode", ("processed_logprobs",), "set it to processed_logprobs"),
        neutral(f"{vllm}.expert_parallel_size", (1,), "experts are not spread over devices; set it to 1"),
    ]
    for axis in ("tensor", "pipeline"):
        what = "each generator runs on one device; set it to 1"
        rules.append(neutral(f"{vllm}.{axis}_parallel_size", (1,), what))
    if head == "policy.generation":
        rules += [
            neutral(
                f"{vllm}.precision",
                lambda value, ours: value == ours("policy.precision"),
                "the generator has policy.precision; set it to ${policy.precision}",
            ),
            neutral(
                f"{vllm}.max_model_len",
                lambda value, ours: value == ours("policy.max_total_sequence_length"),
                "is policy.max_total_sequence_length; set that, or this to "
                "${policy.max_total_sequence_length}",
            ),
        ]
    tuning: tuple[str, ...] = (
        "async_engine",
        "gpu_memory_utilization",
        "enforce_eager",
        "use_tqdm",
        "use_deep_gemm",
    )
    tuning += ("num_last_layers_in_bf16", "num_first_layers_in_bf16", "enable_vllm_metrics_logger")
    tuning += ("vllm_metrics_logger_interval", "http_refit_api_key_env_var", "http_refit_server_port")
    tuning += (
        "zmq_refit_server_port",
        "reset_encoder_cache_after_weight_update",
        "distributed_executor_backend",
    )
    return rules + inert("vLLM's own tuning, which changes speed alone", *(f"{vllm}.{key}" for key in tuning))


def _online(kind: str) -> list[Rule]:
    """The section `grpo` or `ppo`."""
    turns = f"{kind}.async_{kind}"
    return [
        *(inert("only gdpo reads it", "ppo.adv_estimator.reward_weights") if kind == "ppo" else ()),
        neutral(f"{kind}.seq_logprob_error_threshold", NONE, "no sequence is left out by it; set it to null"),
        neutral(f"{kind}.invalid_tool_call_advantage", NONE, "errors are told to the model; set it to null"),
        neutral(
            f"{kind}.malformed_thinking_advantage", NONE, "use the reward function `format`; set it to null"
        ),
        neutral(f"{turns}.enabled", OFF, "rollouts and training take turns; set it to false"),
        *inert(f"{turns}.enabled is off", f"{turns}.**"),
    ]


_VLLM_OF_TRL = [
    neutral("vllm_mode", ("colocate",), "generation shares the learner's devices; set it to colocate"),
    *inert(
        "vLLM's own tuning, which changes speed alone",
        *("vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_enable_sleep_mode"),
    ),
]

_REWARDED = [
    neutral("reward_penalties.token_ids", EMPTY, "write it as a reward function"),
    neutral("reward_penalties.*", OFF, "write it as a reward function, such as `format`; set it to false"),
    neutral("data_plane.enabled", OFF, "Hone has no separate data plane; set it to false"),
    *inert("data_plane.enabled is off", "data_plane.**"),
    neutral("on_policy_distillation", EMPTY, "this command does not distil; set it to null"),
    neutral("on_policy_distillation.**", NONE, "this command does not distil; remove it"),
]

_ENV = [
    neutral(
        "env.math.math_verify_impl",
        ("hf_math_verify", "dapo_math_verify"),
        "answers are checked with math-verify; remove it",
    ),
]

_FORMATS = ("sft_processor", "math_hf_data_processor", "math_data_processor", None)
_PROCESSOR = "the format of rows is found from their columns; remove it"
_AROUND = [
    *(
        neutral(f"data.{part}processor", _FORMATS, _PROCESSOR)
        for part in ("", "train.", "validation.", "default.")
    ),
    neutral("data.use_multiple_dataloader", OFF, "datasets are mixed by their weight; set it to false"),
    neutral("checkpointing.save_consolidated", OFF, "use `hone convert` after the run; set it to false"),
    *inert("checkpoints are PyTorch's; `hone convert` writes safetensors", "checkpointing.model_save_format"),
    neutral("logger.swanlab_enabled", OFF, "there is no SwanLab logger; set it to false"),
    *inert("logger.swanlab_enabled is off", "logger.swanlab.**"),
    *inert("TensorBoard's files lie in the run's folder", "logger.tensorboard", "logger.tensorboard.**"),
    *inert("GPUs are looked at once per step", "logger.gpu_monitoring.**"),
    *inert("there are no such tables", "logger.wandb.log_nemo_gym_full_result_tables"),
    *inert("one process needs no ports or segments", "cluster.master_port_range_low"),
    *inert(
        "one process needs no ports or segments",
        "cluster.master_port_range_high",
        "cluster.segment_size",
    ),
    neutral("checkpoint.save_last", (True,), "the newest checkpoint is always kept; set it to true"),
    neutral(
        "checkpoint.resume.enabled",
        (True,),
        "a run goes on by itself; for a new one set another checkpoint_dir",
    ),
    neutral(
        "checkpoint.resume.resume_from_checkpoint",
        ("auto", None),
        "a run goes on from its own folder: set checkpointing.checkpoint_dir to it",
    ),
    neutral("model.architecture", ("transformer",), "the model's own config.json says it; remove it"),
]


def _method(kind: str) -> Rule:
    def is_this(value: Any, ours: Callable[[str], Any]) -> bool:
        return isinstance(value, str) and value.lower() == kind

    return neutral("training.method", is_this, f"this is `hone {kind}`")


_RM = [
    neutral("policy.reward_model_cfg.enabled", (True,), "this is `hone rm`; set it to true"),
    neutral("policy.activation_checkpointing_enabled", OFF, "use policy.activation_checkpointing"),
]


def _needed(value: Any, ours: Callable[[str], Any]) -> bool:
    return not value or not ours("loss_fn.reference_policy_kl_penalty")


_PPO = [
    Rule(
        "ppo.skip_reference_policy_logprobs_calculation",
        "they are computed where loss_fn.reference_policy_kl_penalty needs them",
        at=(False,),
    ),
    neutral(
        "ppo.skip_reference_policy_logprobs_calculation",
        _needed,
        "the penalty loss_fn.reference_policy_kl_penalty needs them; set it to false, or the penalty to 0",
    ),
    neutral(
        "value.reward_model_cfg.enabled", (True,), "a value model has a head of one number; set it to true"
    ),
    neutral(
        "value.reward_model_cfg.reward_model_type",
        ("regression",),
        "a value model learns numbers; set it to regression",
    ),
    *inert("the value model reads the policy's tokens", "value.tokenizer.**"),
    *also_of_value([*megatron.RULES, *_DTENSOR, *_POLICY]),
]


SAMPLED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_NOT_TRAINED = "the teacher is not trained"
_BESIDE = "the teacher lies on the policy's devices, spread as the policy is"


def _same_temperature(value: Any, ours: Callable[[str], Any]) -> bool:
    return value == (ours("loss_fn.temperature") or ours("policy.generation.temperature"))


_DISTILL = [
    *inert("the teacher reads the student's tokens", "teacher.tokenizer.**"),
    neutral(
        "teacher.generation.temperature",
        _same_temperature,
        "both are compared at loss_fn.temperature; set that, or this to the same",
    ),
    *inert("the teacher does not generate", "teacher.generation.**", "teacher.generation_batch_size"),
    *inert(
        _NOT_TRAINED,
        *(f"teacher.{key}" for key in ("train_global_batch_size", "train_micro_batch_size", "max_grad_norm")),
        *("teacher.optimizer.**", "teacher.scheduler", "teacher.offload_optimizer_for_logprob"),
        *(f"teacher.{way}.train_mb_tokens" for way in ("dynamic_batching", "sequence_packing")),
    ),
    *inert(
        "changes speed alone",
        "teacher.make_sequence_length_divisible_by",
        "teacher.sequence_packing.algorithm",
        "teacher.sequence_packing.microbatch_order",
        "teacher.sequence_packing.sequence_length_round",
    ),
    neutral("teacher.dtensor_cfg.cpu_offload", OFF, "use policy.cpu_offload, which is for both"),
    neutral("teacher.dtensor_cfg.custom_parallel_plan", NONE, "Hone chooses the plan; set it to null"),
    neutral("teacher.megatron_cfg.fp8_cfg.enabled", OFF, "the teacher computes in teacher.precision"),
    neutral("teacher.dtensor_cfg.lora_cfg.enabled", OFF, "merge the teacher's adapter into it first"),
    *inert(_BESIDE, "teacher.dtensor_cfg.**", "teacher.megatron_cfg.**"),
]


@functools.cache
def rules(kind: str) -> tuple[Rule, ...]:
    """All rules for a configuration of this kind."""
    if kind == "eval":
        validation = inert("an evaluation is no validation", *(f"generation.val_{key}" for key in SAMPLED))
        return (*_generation("generation"), *validation, *_POLICY, *_ENV, *_AROUND)
    loop: tuple[Rule, ...] = tuple(_RM) if kind == "rm" else ()
    if kind in ("grpo", "ppo"):
        loop = (*_generation("policy.generation"), *_online(kind), *_REWARDED, *_ENV)
        loop += tuple(_PPO) if kind == "ppo" else ()
    if kind == "distill":
        loop = (*_generation("policy.generation"), *_ENV, *_DISTILL)
    if kind in ("grpo", "ppo", "distill"):
        loop += tuple(_VLLM_OF_TRL)
    return (*megatron.RULES, *_DTENSOR, *_POLICY, *loop, *_AROUND, _method(kind))
