"""Low-rank adapters, by PEFT: the base weights stay as they are, and only the adapters are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from hone.errors import ConfigError, install_command
from hone.model.scalar import head_name, is_scalar

if TYPE_CHECKING:
    from hone.config.schema.policy import LoraConfig


def with_lora(model: PreTrainedModel, lora: LoraConfig) -> PreTrainedModel:
    """The model with LoRA layers (arXiv 2106.09685) as `policy.lora` says, ready to train; weights keep their names
    below `base_model.model.`. A scalar head is trained, and saved, besides.

    Raises ConfigError when PEFT is not installed, or no module has one of the names.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"policy.lora.enabled=true needs PEFT: {install_command('hone[peft]')}, or set policy.lora.enabled=false"
        ) from error
    head = [head_name(model)] if is_scalar(model) else []  # new, or soon another: trained as a whole
    settings = peft.LoraConfig(
        r=lora.dim,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float is meant: alpha / r is what counts
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules or "all-linear",
        exclude_modules=[*lora.exclude_modules, *head] or None,
        modules_to_save=head or None,
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, settings)  # type: ignore[return-value]
    except ValueError as error:
        raise ConfigError(f"policy.lora.target_modules={lora.target_modules}: {error}") from error
