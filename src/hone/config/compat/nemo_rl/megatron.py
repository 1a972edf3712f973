"""Upstream's `policy.megatron_cfg`: Hone has one engine for training, so most of it says how, not what."""

from __future__ import annotations

from hone.config.compat.nemo_rl.rules import EMPTY, LORA, MEGATRON, NONE, OFF, Rule, inert, neutral, section

ENGINE = "Hone has one engine, on PyTorch: it reads the sizes, the optimizer and the schedule"
RULES: list[Rule] = [
    Rule("policy.megatron_cfg.enabled", ENGINE, at=(True,)),
    neutral("policy.megatron_cfg.enabled", (True, False), "expected true or false"),
    section("policy.megatron_cfg.**", MEGATRON),
    neutral(
        "policy.megatron_cfg.expert_tensor_parallel_size",
        (1,),
        "experts are not spread over devices; set it to 1",
    ),
    neutral(
        "policy.megatron_cfg.expert_model_parallel_size",
        (1,),
        "experts are not spread over devices; set it to 1",
    ),
    neutral(
        "policy.megatron_cfg.num_layers_in_first_pipeline_stage",
        NONE,
        "layers are spread evenly; set it to null",
    ),
    neutral(
        "policy.megatron_cfg.num_layers_in_last_pipeline_stage",
        NONE,
        "layers are spread evenly; set it to null",
    ),
    neutral("policy.megatron_cfg.model_overrides", EMPTY, "use policy.hf_config_overrides"),
    neutral("policy.megatron_cfg.env_vars", EMPTY, "set environment variables for the command itself"),
    neutral(
        "policy.megatron_cfg.mtp_num_layers",
        (0, None),
        "Hone does not train multi-token prediction; set it to 0",
    ),
    neutral("policy.megatron_cfg.fp8_cfg.enabled", OFF, "Hone does not train in FP8; set it to false"),
    neutral("policy.megatron_cfg.optimizer.optimizer_cpu_offload", OFF, "use policy.cpu_offload"),
    neutral("policy.megatron_cfg.optimizer.fp16", OFF, "use policy.precision: float16"),
    neutral(
        "policy.megatron_cfg.optimizer.params_dtype", ("float32",), "the optimizer's weights are float32"
    ),
    neutral(
        "policy.megatron_cfg.scheduler.weight_decay_incr_style", ("constant",), "weight decay is constant"
    ),
    neutral("policy.megatron_cfg.peft.a2a_experimental", OFF, "Hone has no such variant; set it to false"),
    Rule("policy.megatron_cfg.peft.**", "the adapter is off", off=LORA),
    neutral(
        "policy.megatron_cfg.peft.dropout_position",
        ("pre",),
        "dropout is on the adapter's input; set it to pre",
    ),
    neutral("policy.megatron_cfg.peft.lora_B_init_method", ("zero",), "the second factor begins as zero"),
    neutral("policy.megatron_cfg.peft.lora_dtype", (None, "None"), "adapters are float32; set it to null"),
    *inert(
        "how Megatron computes, not what",
        *(
            f"policy.megatron_cfg.{key}"
            for key in (
                "checkpoint.**",
                "use_fused_linear_logprobs",
                "fused_linear_logprobs_chunk_size",
                "force_reconvert_from_hf",
                "empty_unused_memory_level",
                "cuda_graph_impl",
                "cuda_graph_modules",
                "cuda_graph_warmup_steps",
                "fine_grained_activation_offloading",
                "offload_modules",
                "recompute_granularity",
                "recompute_modules",
                "pipeline_dtype",
                "apply_rope_fusion",
                "bias_activation_fusion",
                "defer_fp32_logits",
                "use_gloo_process_groups",
                "gradient_accumulation_fusion",
                "use_fused_weighted_squared_relu",
                "optimizer.bf16",
                "optimizer.sgd_momentum",
                "optimizer.use_distributed_optimizer",
                "optimizer.use_precision_aware_optimizer",
                "optimizer.optimizer_offload_fraction",
                "optimizer.overlap_cpu_optimizer_d2h_h2d",
                "scheduler.start_weight_decay",
                "scheduler.end_weight_decay",
                "distributed_data_parallel_config.**",
                "fp8_cfg.**",
                "mtp_loss_scaling_factor",
                "mtp_use_repeated_layer",
                "mtp_detach_heads",
            )
        ),
    ),
    *inert(
        "for mixtures of experts, which train as the model's own code does",
        "policy.megatron_cfg.freeze_moe_router",
        *(
            f"policy.megatron_cfg.moe_{key}"
            for key in (
                "router_dtype",
                "router_load_balancing_type",
                "router_bias_update_rate",
                "permute_fusion",
                "per_layer_logging",
                "enable_deepep",
                "token_dispatcher_type",
                "shared_expert_overlap",
            )
        ),
    ),
]
