"""Notices at the start of a run about its models: what is turned off, turned on or left out."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from hone.chat_template import end_notice
from hone.config import TrainingConfig
from hone.config.schema import ModelConfig
from hone.engine.local.model_factory import model_options
from hone.model import adapter_targets, balancing, dropout, generation_config
from hone.model.composite import left_out
from hone.model.loading import configured, empty_model, resolve


def model_notices(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Notices about the trained models: dropout, balancing loss, unused parts, modules without adapters, generation
    config, and turns that end with another token than the tokenizer's end of sequence."""
    policy = config.policy
    found = generation_config.notices("policy", policy.model_name, resolve(policy.model_name))
    for settings in filter(None, (policy, config.critic)):
        own = configured(
            resolve(settings.model_name),
            settings.hf_config_overrides,
            trust_remote_code=settings.trust_remote_code,
        )
        found += dropout.notice(own, off=settings.disable_dropout, part=settings.part)
        found += left_out(settings.model_name, own)
        found += balancing.notice(own, settings.router_aux_loss_coef, part=settings.part)
        found += _without_adapters(settings)
    if not policy.has_scalar_head and (text := end_notice(tokenizer)):
        found.append(text)
    return found


def _without_adapters(settings: ModelConfig) -> list[str]:
    """The notice about modules without new adapters; none if the adapters come from `adapter_path`."""
    if not settings.lora.enabled or settings.lora.adapter_path is not None:
        return []
    model = empty_model(settings.model_name, **model_options(settings))
    return adapter_targets.notice(model, settings.lora, part=settings.part)
