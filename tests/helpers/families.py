"""Tiny models of many families with random weights, and samples that tell their layouts apart."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hone.model.attention import use_grouped_sdpa
from hone.types import Batch, LossOutput, Outputs, Sample, Totals

WINDOW = 4
SLIDING = {"sliding_window": WINDOW}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "embd_pdrop": 0,
        "resid_pdrop": 0,
        "attn_pdrop": 0,
    },
    "llama": {},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {**EXPERTS, "num_experts": 4},
    "mistral": SLIDING,
    "gemma2": {**SLIDING, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0},
    "gemma3_text": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {**SLIDING, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
    "olmo2": {},
    "glm4": {"partial_rotary_factor": 0.5},
    "granite": {"logits_scaling": 0.7, "attention_multiplier": 0.3, "residual_multiplier": 0.8},
    "smollm3": {"no_rope_layers": [1, 0], "layer_types": ["full_attention", "full_attention"]},
    "gpt_oss": {
        **SLIDING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, **SLIDING},
    "llama4_text": {
        "num_local_experts": 2,
        "intermediate_size_mlp": 48,
        "attention_chunk_size": WINDOW,
        "no_rope_layers": [1, 0],
        "layer_types": ["chunked_attention", "full_attention"],
    },
    "deepseek_v3": {
        **EXPERTS,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "cohere2": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"], "logit_scale": 0.5},
}
BY_TOKENS = {"enabled": True, "train_mb_tokens": 90, "logprob_mb_tokens": 90}


def model_of(family: str, attention: str | None) -> PreTrainedModel:
    """Random weights; the same for the same family, whatever computes its attention."""
    shape = {name: value for name, value in tiny._SHAPE.items() if family != "gpt2" or "token" in name}
    shape |= {"vocab_size": tiny.VOCABULARY, "initializer_range": 0.15, **FAMILIES[family]}
    config: PreTrainedConfig = CONFIG_MAPPING[family](**shape)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    with torch.no_grad():  # what begins at zero or one would hide a layout that forgets it
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "sinks" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    use_grouped_sdpa(model)
    model.config.use_cache = False
    return model.eval()


def groups() -> list[Sample]:
    """Ragged completions of three prompts, all of them longer than any window, each target with a weight."""
    draw = torch.Generator().manual_seed(3)
    samples = []
    for g in range(3):
        prompt = torch.randint(2, tiny.VOCABULARY, (9 + g,), generator=draw)
        for c in range(3):
            length = int(torch.randint(2, 9, (1,), generator=draw))
            tokens = torch.cat([prompt, torch.randint(2, tiny.VOCABULARY, (length,), generator=draw)])
            weights = torch.randn(length, generator=draw)
            mask = torch.arange(len(tokens)) >= len(prompt)
            samples.append(
                Sample(f"{g}.{c}", tokens, mask, {"weight": weights}, group=f"g{g}", prefix=len(prompt))
            )
    return samples


def weighted(outputs: Outputs, batch: Batch, totals: Totals) -> LossOutput:
    return LossOutput(-(batch.token_columns["weight"] * outputs.logprobs_N).sum() / totals.tokens)
