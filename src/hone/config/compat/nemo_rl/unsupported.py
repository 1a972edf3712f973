"""NeMo RL's keys that Hone does not have: some are ignored, others may only have their neutral value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hone.config.alias import KeyRule, Switch, allowed, ignored, only
from hone.config.compat.nemo_rl import megatron
from hone.config.compat.nemo_rl.megatron import EMPTY, ENGINE, ENV_VARS, EXPERTS, NONE, OFF
from hone.config.compat.nemo_rl.switches import DTENSOR, LORA, rules_of_value
from hone.config.schema import ROOTS, EvalConfig, OnlineConfig, RLConfig, section_of

REPLACEMENTS: dict[str, str] = {}
REWARD_ENVIRONMENTS = {"math": "math"}
"""NeMo RL's `env_name: math` is an environment of one turn that checks answers; in Hone, the reward function `math`."""
ON = (True,)
SPEED = "only affects speed"
SAMPLED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
DTENSOR_CFG = "policy.dtensor_cfg"
PLAN = "Hone chooses the plan; set it to null"
TRANSFORMERS = "Hone loads models with transformers"
DROPOUT = "dropout is on the adapter's input; set it to pre"


def _dropout_before(value: Any, ours: Callable[[str], Any]) -> bool:
    return value == "pre" or ours("policy.lora.dropout") == 0


_DTENSOR = [
    KeyRule(f"{DTENSOR_CFG}.enabled", ENGINE, ignored_at=(False,)),
    allowed(f"{DTENSOR_CFG}.enabled", (True, False), "expected true or false"),
    KeyRule(f"{DTENSOR_CFG}.**", f"{DTENSOR.key} is off", while_off=DTENSOR),
    *ignored(ENGINE, f"{DTENSOR_CFG}._v2"),
    allowed(f"{DTENSOR_CFG}.env_vars", EMPTY, ENV_VARS),
    allowed(f"{DTENSOR_CFG}.env_vars.*", ("", None), ENV_VARS),
    *ignored("PyTorch manages the allocator's cache", f"{DTENSOR_CFG}.clear_cache_every_n_steps"),
    allowed(f"{DTENSOR_CFG}.custom_parallel_plan", NONE, PLAN),
    allowed(f"{DTENSOR_CFG}.automodel_kwargs", EMPTY, f"{TRANSFORMERS}; set it to {{}}"),
    allowed(f"{DTENSOR_CFG}.automodel_kwargs.**", EMPTY, f"{TRANSFORMERS}; remove it"),
    KeyRule(f"{DTENSOR_CFG}.lora_cfg.**", "the adapter is off", while_off=LORA),
    allowed(f"{DTENSOR_CFG}.lora_cfg.dropout_position", _dropout_before, DROPOUT),
    *ignored(SPEED, f"{DTENSOR_CFG}.lora_cfg.use_triton"),
]

_POLICY = [
    allowed("policy.draft.enabled", OFF, "Hone has no draft model; set it to false"),
    *ignored("policy.draft.enabled is off", "policy.draft.**"),
    allowed("policy.offload_optimizer_for_logprob", OFF, "use policy.cpu_offload"),
    allowed("policy.sequence_packing.microbatch_order", ("packer",), "micro-batches keep the packer's order"),
    *ignored(SPEED, "policy.tokenizer.use_fastokens", "tokenizer.use_fastokens"),
    *ignored(SPEED, "policy.make_sequence_length_divisible_by"),
    *ignored(
        "samples are packed by best-fit decreasing, and packed rows are not padded: the result is the same",
        "policy.sequence_packing.algorithm",
        "policy.sequence_packing.sequence_length_round",
    ),
    *ignored("rows are prepared when they are drawn, in this process", "data.num_workers"),
    *ignored("the opening of a turn is never trained on", "data.add_generation_prompt"),
]

VLLM_TUNING = """
async_engine use_tqdm use_deep_gemm num_last_layers_in_bf16
num_first_layers_in_bf16 enable_vllm_metrics_logger vllm_metrics_logger_interval http_refit_api_key_env_var
http_refit_server_port zmq_refit_server_port reset_encoder_cache_after_weight_update distributed_executor_backend
"""


def _generation(head: str) -> list[KeyRule]:
    """Rules for `policy.generation` of training, or `generation` of evaluation."""
    vllm = f"{head}.vllm_cfg"
    switch = Switch(f"{head}.backend", on=("vllm",))
    one_process = "one process needs no ports or transport"
    one_device = "each generator runs on one device; set it to 1"
    return [
        *ignored(one_process, f"{head}.port_range_low", f"{head}.port_range_high"),
        *ignored(one_process, f"{head}.refit_transport", f"{head}.refit_cfg.**"),
        *ignored("for quantized models", f"{head}.real_quant_export_cpu_offload"),
        *ignored("the backend is not Megatron", f"{head}.mcore_generation_config.**"),
        *ignored("the backend is not SGLang", f"{head}.sglang_cfg.**", f"{head}.sglang_kwargs.**"),
        KeyRule(f"{vllm}.**", "the backend is not vLLM", while_off=switch),
        allowed(f"{vllm}.kv_cache_dtype", ("auto",), "the cache has the model's precision; set it to auto"),
        allowed(f"{vllm}.logprobs_mode", ("processed_logprobs",), "set it to processed_logprobs"),
        allowed(f"{vllm}.expert_parallel_size", (1,), EXPERTS),
        allowed(f"{vllm}.pipeline_parallel_size", (1,), one_device),
        *(_same_as_policy(vllm) if head == "policy.generation" else _generation_of_evaluation()),
        *ignored(f"vLLM's own tuning, which {SPEED}", *(f"{vllm}.{key}" for key in VLLM_TUNING.split())),
    ]


def _same_as_policy(vllm: str) -> list[KeyRule]:
    def same_as(key: str) -> Callable[[Any, Callable[[str], Any]], bool]:
        return lambda value, ours: bool(value == ours(key))

    length = "policy.max_total_sequence_length"
    precision = "the generator has policy.precision; set it to ${policy.precision}"
    return [
        allowed(f"{vllm}.precision", same_as("policy.precision"), precision),
        allowed(f"{vllm}.max_model_len", same_as(length), f"is {length}; set that, or this to ${{{length}}}"),
    ]


def _generation_of_evaluation() -> list[KeyRule]:
    one = "an evaluation has one generator"
    return [
        allowed("generation.colocated.enabled", ON, f"{one}; set it to true"),
        *ignored(one, "generation.colocated.resources.**"),
    ]


def _rl(section: str) -> list[KeyRule]:
    """Rules of commands that train on rewards."""
    asynchronous, other = f"{section}.async_{section}", "this command does not distil"
    reasons = {
        "seq_logprob_error_threshold": "Hone does not filter sequences by it; set it to null",
        "invalid_tool_call_advantage": "the environment tells the model of errors; set it to null",
        "malformed_thinking_advantage": "use the reward function `format`; set it to null",
    }
    return [
        *only(NONE, reasons, f"{section}."),
        KeyRule(
            f"{asynchronous}.**",
            f"{asynchronous}.enabled is off",
            while_off=Switch(f"{asynchronous}.enabled"),
        ),
        allowed(f"{asynchronous}.max_generation_failures", (0,), "a lost generator is replaced; set it to 0"),
        allowed(
            f"{asynchronous}.recompute_kv_cache_after_weight_updates",
            OFF,
            "completions go on with the keys and values that they have; set it to false",
        ),
        *ignored(
            "a checkpoint holds the rollouts that are ahead",
            f"{asynchronous}.warmup_generation_lead_steps",
            f"{asynchronous}.drop_incomplete_targets_on_restore",
        ),
        allowed("reward_penalties.token_ids", EMPTY, "write it as a reward function"),
        allowed(
            "reward_penalties.*", OFF, "write it as a reward function, such as `format`; set it to false"
        ),
        allowed("data_plane.enabled", OFF, "Hone has no separate data plane; set it to false"),
        *ignored("data_plane.enabled is off", "data_plane.**"),
        allowed("on_policy_distillation", EMPTY, f"{other}; set it to null"),
        allowed("on_policy_distillation.**", NONE, f"{other}; remove it"),
    ]


_VERIFIERS = ("hf_math_verify", "dapo_math_verify")
_ENV = allowed("env.math.math_verify_impl", _VERIFIERS, "answers are checked with math-verify; remove it")
_PROCESSORS = ("sft_processor", "math_hf_data_processor", "math_data_processor", None)
_PROCESSOR = "the format of rows is detected from their columns; remove it"
_SHARED_SECTIONS = [
    *only(
        _PROCESSORS,
        {f"data.{part}processor": _PROCESSOR for part in ("", "train.", "validation.", "default.")},
    ),
    *only(
        OFF,
        {
            "data.use_multiple_dataloader": "datasets are mixed by their weight; set it to false",
            "checkpointing.save_consolidated": "use `hone convert` after the run; set it to false",
            "logger.swanlab_enabled": "there is no SwanLab logger; set it to false",
        },
    ),
    *ignored(
        "checkpoints are PyTorch's; `hone convert` writes safetensors", "checkpointing.model_save_format"
    ),
    *ignored("logger.swanlab_enabled is off", "logger.swanlab.**"),
    *ignored("TensorBoard's files are in the run's folder", "logger.tensorboard", "logger.tensorboard.**"),
    *ignored("GPUs are monitored once per step", "logger.gpu_monitoring.**"),
    *ignored("Hone does not log such tables", "logger.wandb.log_nemo_gym_full_result_tables"),
    *ignored("one process needs no segments", "cluster.segment_size"),
    *ignored(
        "one process needs no ports or segments",
        *(f"cluster.master_port_range_{end}" for end in ("low", "high")),
    ),
    *only(
        ON,
        {
            "checkpoint.save_last": "the newest checkpoint is always kept; set it to true",
            "checkpoint.resume.enabled": "a run resumes by itself; for a new one set another checkpoint_dir",
        },
    ),
    allowed(
        "checkpoint.resume.resume_from_checkpoint",
        ("auto", None),
        "a run resumes from its own folder: set checkpointing.checkpoint_dir to it",
    ),
    allowed("model.architecture", ("transformer",), "it is read from the model's config.json; remove it"),
]


def _method(algorithm: str) -> KeyRule:
    def is_this(value: Any, ours: Callable[[str], Any]) -> bool:
        return isinstance(value, str) and value.lower() == algorithm

    return allowed("training.method", is_this, f"this is `hone {algorithm}`")


_RM = [
    allowed("policy.reward_model_cfg.enabled", ON, "this is `hone rm`; set it to true"),
    allowed("policy.activation_checkpointing_enabled", OFF, "use policy.activation_checkpointing"),
]
_SKIP_REFERENCE = "ppo.skip_reference_policy_logprobs_calculation"
_PENALTY = "loss_fn.reference_policy_kl_penalty"
_PPO = [
    *ignored("only gdpo reads it", "ppo.adv_estimator.reward_weights"),
    KeyRule(_SKIP_REFERENCE, f"they are computed where {_PENALTY} needs them", ignored_at=(False,)),
    allowed(
        _SKIP_REFERENCE,
        lambda value, ours: not value or not ours(_PENALTY),
        f"the penalty {_PENALTY} needs them; set it to false, or the penalty to 0",
    ),
    allowed("value.reward_model_cfg.enabled", ON, "a value model has a scalar head; set it to true"),
    allowed(
        "value.reward_model_cfg.reward_model_type",
        ("regression",),
        "a value model is trained on numbers; set it to regression",
    ),
    *ignored("the value model reads the policy's tokens", "value.tokenizer.**"),
    *rules_of_value([*megatron.RULES, *_DTENSOR, *_POLICY]),
]


def _same_temperature(value: Any, ours: Callable[[str], Any]) -> bool:
    return value == (ours("loss_fn.temperature") or ours("policy.generation.temperature"))


_OF_TEACHER = {
    "the teacher reads the student's tokens": "tokenizer.**",
    "the teacher does not generate": "generation.** generation_batch_size",
    "the teacher is not trained": "train_global_batch_size train_micro_batch_size max_grad_norm optimizer.** "
    "scheduler offload_optimizer_for_logprob dynamic_batching.train_mb_tokens sequence_packing.train_mb_tokens",
    SPEED: "make_sequence_length_divisible_by sequence_packing.algorithm sequence_packing.microbatch_order "
    "sequence_packing.sequence_length_round",
    "the teacher shares the policy's devices and sharding": "dtensor_cfg.** megatron_cfg.**",
}
"""Ignored keys of `teacher`, by the reason why."""
_DISTILL = [
    allowed(
        "teacher.generation.temperature",
        _same_temperature,
        "teacher and student are compared at loss_fn.temperature; set both to the same value",
    ),
    allowed("teacher.dtensor_cfg.custom_parallel_plan", NONE, PLAN),
    *only(
        OFF,
        {
            "dtensor_cfg.cpu_offload": "use policy.cpu_offload, which is for both",
            "megatron_cfg.fp8_cfg.enabled": "the teacher computes in teacher.precision",
            "dtensor_cfg.lora_cfg.enabled": "merge the teacher's adapter into it first",
        },
        "teacher.",
    ),
    *(
        rule
        for reason, keys in _OF_TEACHER.items()
        for rule in ignored(reason, *(f"teacher.{key}" for key in keys.split()))
    ),
]


def rules(algorithm: str) -> list[KeyRule]:
    """All rules for a configuration of this command."""
    root = ROOTS[algorithm]
    if issubclass(root, EvalConfig):
        validation = ignored("an evaluation has no validation", *(f"generation.val_{key}" for key in SAMPLED))
        return [*_generation("generation"), *validation, *_POLICY, _ENV, *_SHARED_SECTIONS]
    own: list[KeyRule] = []
    if issubclass(root, OnlineConfig):
        own += [*_generation("policy.generation"), _ENV]
    if issubclass(root, RLConfig):
        own += _rl(section_of(algorithm))
    own += {"rm": _RM, "ppo": _PPO, "distill": _DISTILL}.get(algorithm, [])
    return [*megatron.RULES, *_DTENSOR, *_POLICY, *own, *_SHARED_SECTIONS, _method(algorithm)]
