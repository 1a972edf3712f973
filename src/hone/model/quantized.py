"""Base weights in 4 bits (QLoRA, arXiv 2305.14314), by bitsandbytes: adapters are trained on top of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hone.errors import ConfigError, install_command
from hone.model.adapters import base_of

if TYPE_CHECKING:
    from hone.config.schema.lora import LoraConfig


def four_bits(lora: LoraConfig, compute: torch.dtype) -> Any:
    """`load_model`'s `quantization`; None without 4 bits. Raises ConfigError if bitsandbytes is not installed."""
    if not (lora.enabled and lora.load_in_4bit):
        return None
    try:
        import bitsandbytes  # noqa: F401  (for a clearer error than that of transformers)
    except (ImportError, RuntimeError, OSError) as error:  # also if it was built for another CUDA
        raise ConfigError(
            f"policy.lora.load_in_4bit=true needs bitsandbytes, which is made for NVIDIA GPUs: "
            f"{install_command('bitsandbytes')}, or set policy.lora.load_in_4bit=false ({error})"
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=lora.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=lora.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=compute,
    )


def is_quantized(model: nn.Module) -> bool:
    """Whether a model's linear layers are quantised."""
    return bool(getattr(base_of(model), "is_quantized", False))  # type: ignore[arg-type]
