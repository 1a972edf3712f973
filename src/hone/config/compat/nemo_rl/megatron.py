"""Rules for NeMo RL's `policy.megatron_cfg`. Hone has one training engine, so Megatron's tuning keys are ignored."""

from __future__ import annotations

from typing import Any

from hone.config.alias import KeyRule, allowed, ignored, only
from hone.config.compat.nemo_rl.switches import LORA, MEGATRON

ENGINE = "Hone has one engine, on PyTorch: it reads the parallel sizes, the optimizer and the schedule"
NONE = (None,)
OFF = (False, None)
EMPTY: tuple[Any, ...] = (None, {}, [])
ENV_VARS = "set environment variables for the command itself"
EXPERTS = "experts are not spread over devices; set it to 1"
EVEN = "layers are spread evenly; set it to null"
HEAD = "policy.megatron_cfg"

HOW_IT_COMPUTES = """
checkpoint.** use_fused_linear_logprobs fused_linear_logprobs_chunk_size force_reconvert_from_hf
empty_unused_memory_level cuda_graph_impl cuda_graph_modules cuda_graph_warmup_steps
fine_grained_activation_offloading offload_modules recompute_granularity recompute_modules pipeline_dtype
apply_rope_fusion bias_activation_fusion defer_fp32_logits use_gloo_process_groups gradient_accumulation_fusion
use_fused_weighted_squared_relu
optimizer.bf16 optimizer.sgd_momentum optimizer.use_distributed_optimizer optimizer.use_precision_aware_optimizer
optimizer.optimizer_offload_fraction optimizer.overlap_cpu_optimizer_d2h_h2d
scheduler.start_weight_decay scheduler.end_weight_decay
distributed_data_parallel_config.** fp8_cfg.** mtp_loss_scaling_factor mtp_use_repeated_layer mtp_detach_heads
"""
MIXTURES_OF_EXPERTS = """
freeze_moe_router moe_router_dtype moe_router_load_balancing_type moe_router_bias_update_rate moe_permute_fusion
moe_per_layer_logging moe_enable_deepep moe_token_dispatcher_type moe_shared_expert_overlap
"""

RULES: list[KeyRule] = [
    KeyRule(f"{HEAD}.enabled", ENGINE, ignored_at=(True,)),
    allowed(f"{HEAD}.enabled", (True, False), "expected true or false"),
    KeyRule(f"{HEAD}.**", f"{MEGATRON.key} is off", while_off=MEGATRON),
    *only(
        OFF,
        {
            "fp8_cfg.enabled": "Hone does not train in FP8; set it to false",
            "optimizer.optimizer_cpu_offload": "use policy.cpu_offload",
            "optimizer.fp16": "use policy.precision: float16",
            "peft.a2a_experimental": "Hone has no such variant; set it to false",
        },
        f"{HEAD}.",
    ),
    *only(
        (1,),
        dict.fromkeys(("expert_tensor_parallel_size", "expert_model_parallel_size"), EXPERTS),
        f"{HEAD}.",
    ),
    *only(NONE, {f"num_layers_in_{end}_pipeline_stage": EVEN for end in ("first", "last")}, f"{HEAD}."),
    *only(EMPTY, {"model_overrides": "use policy.hf_config_overrides", "env_vars": ENV_VARS}, f"{HEAD}."),
    allowed(f"{HEAD}.mtp_num_layers", (0, None), "Hone does not train multi-token prediction; set it to 0"),
    allowed(f"{HEAD}.optimizer.params_dtype", ("float32",), "the optimizer's weights are float32"),
    allowed(f"{HEAD}.scheduler.weight_decay_incr_style", ("constant",), "weight decay is constant"),
    KeyRule(f"{HEAD}.peft.**", "the adapter is off", while_off=LORA),
    allowed(f"{HEAD}.peft.dropout_position", ("pre",), "dropout is on the adapter's input; set it to pre"),
    allowed(f"{HEAD}.peft.lora_B_init_method", ("zero",), "the second factor begins as zero"),
    allowed(f"{HEAD}.peft.lora_dtype", (None, "None"), "adapters are float32; set it to null"),
    *ignored("tuning of Megatron", *(f"{HEAD}.{key}" for key in HOW_IT_COMPUTES.split())),
    *ignored(
        "for mixtures of experts, which train with the model's own code",
        *(f"{HEAD}.{key}" for key in MIXTURES_OF_EXPERTS.split()),
    ),
]
