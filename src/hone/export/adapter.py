"""A checkpoint's adapter alone, as PEFT's `PeftModel.from_pretrained` loads it onto the base model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hone.config.schema.lora import LoraConfig
from hone.errors import ConfigError
from hone.model.adapters import NAME, SETTINGS, import_peft, read_settings, with_adapter, with_lora
from hone.model.loading import WEIGHT_FILES, load_model, resolve
from hone.model.quantized import four_bits
from hone.model.scalar_head import is_scalar


def adapted_model(model: PreTrainedModel, folder: Path, settings: dict[str, Any]) -> PreTrainedModel:
    """`model` with empty adapters as the checkpoint has them, by its `model` folder or else by its config.yaml."""
    if (folder / SETTINGS).is_file():
        own = read_settings(folder)
        own.init_lora_weights, own.inference_mode, own.base_model_name_or_path = True, False, None
        if own.peft_type == "ADALORA":
            own.rank_pattern = None  # every matrix at the rank that it was trained with
        return with_adapter(model, own, named=str(folder / SETTINGS))
    lora = LoraConfig.model_validate(settings["lora"])
    return with_lora(model, lora.model_copy(update={"init_lora_weights": None, "adapter_path": None}))


def base_in_full(settings: dict[str, Any], *, scalar: bool, trust_remote_code: bool) -> PreTrainedModel:
    """The base model whose 4-bit weights are dequantised to fp32: what the adapters were trained on."""
    lora = LoraConfig.model_validate(settings["lora"])
    model = load_model(
        settings["model_name"],
        overrides=settings.get("hf_config_overrides"),
        scalar=scalar,
        quantization=four_bits(lora, torch.float32),
        trust_remote_code=trust_remote_code,
    )
    model = model.dequantize()
    model.config.use_cache = True
    return model


def save_adapter(
    model: PreTrainedModel, settings: dict[str, Any], out: Path, *, trust_remote_code: bool
) -> None:
    """Write the adapter of a trained model, for the base model that the run's settings name.

    Raises ConfigError for a base model with random weights, which exists in the checkpoint alone.
    """
    name = settings["model_name"]
    base = resolve(name)
    local = Path(base).is_dir()
    if local and not any(any(Path(base).glob(pattern)) for pattern in WEIGHT_FILES):
        raise ConfigError(
            f"--adapter: {name} has no weights of its own, so the run's base was drawn at random and is in this "
            "checkpoint alone. Leave --adapter out: the merged model holds it"
        )
    lora = LoraConfig.model_validate(settings["lora"])
    if lora.modifies_base_weights:
        model = _on_the_original(model, settings, lora.use_rslora, trust_remote_code)
    peft_settings: Any = model.peft_config[NAME]
    peft_settings.base_model_name_or_path = str(Path(base).resolve()) if local else name
    peft_settings.inference_mode, peft_settings.init_lora_weights = True, True
    if peft_settings.peft_type == "ADALORA":
        peft_settings.rank_pattern = {
            key.removeprefix("base_model.model."): (weight.detach() != 0).flatten().tolist()
            for key, weight in model.named_parameters()
            if ".lora_E." in key
        }
    # PEFT would ask the hub whether embeddings are adapted; they never are.
    model.save_pretrained(str(out), save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # an empty model card


@torch.no_grad()
def _on_the_original(
    model: PreTrainedModel, settings: dict[str, Any], rslora: bool, trust_remote_code: bool
) -> PreTrainedModel:
    """The same model as adapters of twice the rank on the original weights of the base.

    PiSSA and OLoRA take a part s B0 A0 of rank r out of each weight W, and train s B A in its place:
    W - s B0 A0 + s B A = W + s [B, -B0] [A; A0] (arXiv 2404.02948, section 3).
    """
    own: Any = model.peft_config[NAME]
    scalar = is_scalar(model)
    base = load_model(
        settings["model_name"],
        overrides=settings.get("hf_config_overrides"),
        seed=0,
        scalar=scalar,
        trust_remote_code=trust_remote_code,
    )
    double = import_peft().LoraConfig(
        r=2 * own.r,
        lora_alpha=own.lora_alpha * (math.sqrt(2) if rslora else 2),
        use_rslora=rslora,
        target_modules=own.target_modules,
        exclude_modules=own.exclude_modules,
        modules_to_save=own.modules_to_save,
        task_type=own.task_type,
    )
    result = with_adapter(base, double)
    modules = dict(model.named_modules())
    for name, layer in result.named_modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "base_layer"):
            _double(layer, modules[name])
    kept = dict(model.named_parameters())
    for name, weight in result.named_parameters():
        if ".modules_to_save." in name:
            weight.copy_(kept[name])
    return result


def _double(new: Any, old: Any) -> None:
    """Set the adapter of the layer `new` to [B, -B0] [A; A0], with B and A of the trained layer `old`."""
    rank, scale = old.r[NAME], old.scaling[NAME]
    removed = new.base_layer.weight.double() - old.base_layer.weight.double()
    if new.fan_in_fan_out:  # GPT-2's layers hold their weights transposed
        removed = removed.T
    left, sizes, right = torch.linalg.svd(removed, full_matrices=False)
    b0 = left[:, :rank] * (sizes[:rank] / scale)
    new.lora_A[NAME].weight.copy_(torch.cat([old.lora_A[NAME].weight, right[:rank].float()]))
    new.lora_B[NAME].weight.copy_(torch.cat([old.lora_B[NAME].weight, -b0.float()], dim=1))
