"""Checkpoints of several models, such as text and vision, of which the text model is loaded."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

OTHERS = ("vision", "audio", "vq")


def left_out(name: str, config: PreTrainedConfig) -> list[str]:
    """A notice for a checkpoint of which only the text model is loaded."""
    others = [key.removesuffix("_config") for key in sorted(config.sub_configs) if key.startswith(OTHERS)]
    if not others or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return []
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if model.config_class is type(config):
        return []
    return [
        f"{name} holds models of text and {', '.join(others)}: the text model alone ({model.__name__}) is loaded, "
        "trained and exported; what is exported reads no other input"
    ]
