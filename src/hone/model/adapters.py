"""Low-rank adapters, by PEFT: the base weights stay as they are, and only the adapters are trained."""

from __future__ import annotations

import contextlib
import difflib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hone.errors import ConfigError, ModelError, install_command
from hone.model.adapter_targets import (
    check_experts,
    check_transposed,
    has_experts,
    is_linear,
    ranks_of,
    targets_of,
)
from hone.model.scalar_head import head_name, is_scalar

if TYPE_CHECKING:
    from hone.config.schema.lora import LoraConfig

NAME = "default"
"""What PEFT calls the only adapter."""
SETTINGS = "adapter_config.json"


def import_peft() -> Any:
    """PEFT. Raises ConfigError when it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"policy.lora.enabled=true needs PEFT: {install_command('hone[peft]')}, or set policy.lora.enabled=false"
        ) from error
    return peft


def with_lora(model: PreTrainedModel, lora: LoraConfig, *, seed: int = 0) -> PreTrainedModel:
    """The model with the adapters of `policy.lora`, ready to train; weights keep their names below
    `base_model.model.`. A scalar head is trained and saved as well.

    New adapters (LoRA, arXiv 2106.09685, and its variants) are initialised with `seed`; or those of `adapter_path` are
    loaded. Raises ConfigError if PEFT is not installed, or no module has one of the names.
    """
    peft = import_peft()
    empty = any(parameter.is_meta for parameter in model.parameters())
    if lora.adapter_path is not None:
        return _with_trained(model, Path(lora.adapter_path).expanduser(), empty)
    settings = _settings(peft, model, lora)
    if empty:
        settings.init_lora_weights = True  # values come from elsewhere
    return with_adapter(model, settings, seed=seed, named=f"policy.lora.target_modules={lora.target_modules}")


def with_adapter(
    model: PreTrainedModel, settings: Any, *, seed: int = 0, named: str = SETTINGS
) -> PreTrainedModel:
    """The model with new adapters by PEFT's settings. Raises ConfigError, which begins with `named`, if they do not
    fit."""
    xavier = settings.init_lora_weights == "xavier"
    settings.init_lora_weights = True if xavier else settings.init_lora_weights
    with drawing(seed), warnings.catch_warnings():
        # PEFT looks for the ranks of experts' weights among modules, but applies them.
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match any targeted module")
        try:
            adapted = import_peft().get_peft_model(model, settings)
        except ValueError as error:
            linear = {name.rpartition(".")[2] for name, part in model.named_modules() if is_linear(part)}
            hint = f"The linear modules of this model are {', '.join(sorted(linear))}"
            raise ConfigError(f"{named}: {str(error).rstrip('.')}. {hint}") from error
        if xavier:  # NeMo RL's initialisation, which PEFT lacks
            for name, weight in adapted.named_parameters():
                if f".lora_A.{NAME}" in name:
                    nn.init.xavier_normal_(weight)
    return adapted


def _settings(peft: Any, model: PreTrainedModel, lora: LoraConfig) -> Any:
    """PEFT's settings for ours."""
    head = [head_name(model)] if is_scalar(model) else []  # trained in full
    common: dict[str, Any] = {
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.target_modules or "all-linear",
        "exclude_modules": [*lora.exclude_modules, *head] or None,
        "modules_to_save": [*head, *_whole(model, lora)] or None,
        "task_type": "SEQ_CLS" if head else "CAUSAL_LM",
    }
    check_transposed(model, lora)
    pattern: dict[str, Any] = {}
    if has_experts(model):
        targets = targets_of(model, lora, [*head, *lora.modules_to_save])
        if targets.parameters:
            check_experts(lora)
            pattern = ranks_of(targets, lora)
        common |= {"target_modules": targets.modules, "exclude_modules": None}
    if not lora.adalora.enabled:
        begin = True if lora.init_lora_weights in (None, "kaiming") else lora.init_lora_weights
        return peft.LoraConfig(
            r=lora.dim,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            init_lora_weights=begin,
            trainable_token_indices=_tokens(model, lora) or None,
            ensure_weight_tying=bool(
                lora.modules_to_save and model.config.get_text_config().tie_word_embeddings
            ),
            **common | pattern,
        )
    given = lora.adalora.model_dump(exclude={"enabled", "init_r"})
    return peft.AdaLoraConfig(target_r=lora.dim, init_r=lora.rank, **given, **common)


def _whole(model: PreTrainedModel, lora: LoraConfig) -> list[str]:
    """The modules that are trained in full. Raises ConfigError for a name that no module has."""
    names = [name for name, _ in model.named_modules()]
    for wanted in lora.modules_to_save:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
            near = difflib.get_close_matches(wanted, {name.rpartition(".")[2] for name in names}, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"policy.lora.modules_to_save={wanted}: this model has no such module{hint}")
    return lora.modules_to_save


def _tokens(model: PreTrainedModel, lora: LoraConfig) -> list[int]:
    """The tokens whose embeddings are trained. Raises ConfigError for one that the model does not have."""
    rows = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    for token in lora.trainable_token_indices:
        if token >= rows:
            raise ConfigError(f"policy.lora.trainable_token_indices={token}: this model has {rows} tokens")
    return lora.trainable_token_indices


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator within the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _with_trained(model: PreTrainedModel, folder: Path, empty: bool) -> PreTrainedModel:
    """The model with the adapter of a folder, to train it further."""
    peft = import_peft()
    settings = read_settings(folder)
    settings.inference_mode = False
    if empty:
        settings.init_lora_weights, settings.base_model_name_or_path = True, None
        return peft.get_peft_model(model, settings)
    return peft.PeftModel.from_pretrained(
        model, str(folder), is_trainable=True, config=settings, torch_device=model.device.type
    )


def read_settings(folder: Path) -> Any:
    """PEFT's settings of the adapter in a folder. Raises ModelError for settings that make PEFT import a module that
    the file names."""
    settings = import_peft().PeftConfig.from_pretrained(str(folder))
    if getattr(settings, "megatron_config", None) is not None:
        raise ModelError(
            f"{folder / SETTINGS}: megatron_config is for Megatron's layers, which no model here has: set it to null"
        )
    return settings


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model below its adapters; one that has none, as it is."""
    below = getattr(model, "get_base_model", None)
    return model if below is None else below()


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The base model with its adapters added to its weights, in place."""
    model.requires_grad_(False)  # merged weights get no autograd history
    return model.merge_and_unload()  # type: ignore[operator]


def trained_settings(lora: LoraConfig) -> LoraConfig:
    """The settings with the rank, scale and modules of the adapter in `adapter_path`, if given.

    Reads its config alone. Raises ModelError for a folder without an adapter, or with one that cannot be trained
    further."""
    if lora.adapter_path is None:
        return lora
    own = adapter_settings(Path(lora.adapter_path).expanduser())
    modules = own.get("target_modules") or []
    plain = isinstance(modules, list)
    return lora.model_copy(
        update={
            "dim": own.get("r", 8),
            "alpha": own.get("lora_alpha", 8),
            "use_rslora": bool(own.get("use_rslora")),
            "use_dora": bool(own.get("use_dora")),
            "target_modules": sorted(modules) if plain else [],
            "match_all_linear": not plain,
        }
    )


def adapter_settings(folder: Path) -> dict[str, Any]:
    """An adapter folder's adapter_config.json. Raises ModelError if it has no adapter that can be trained further."""
    named = f"policy.lora.adapter_path={folder}"
    try:
        settings = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError as error:
        raise ModelError(
            f"{named} holds no {SETTINGS}: name a folder that PEFT's save_pretrained or `hone convert --adapter` wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{named}: {SETTINGS} cannot be read: {error}") from error
    if settings.get("peft_type") != "LORA":
        raise ModelError(
            f"{named} is an adapter of type {settings.get('peft_type')}: only LoRA's (rsLoRA's, DoRA's) can go on. "
            "Merge it (`hone convert`) and start from the merged model"
        )
    return settings


def check_adapter(model: PreTrainedModel, name: str, lora: LoraConfig) -> None:
    """Raise ModelError if `adapter_path` was trained on another base model than `model` (on the meta device), which is
    called `name`. Compares names and shapes; no weight is read."""
    if lora.adapter_path is None:
        return
    folder = Path(lora.adapter_path).expanduser()
    settings = adapter_settings(folder)
    base = settings.get("base_model_name_or_path") or ""
    about = f"policy.lora.adapter_path={lora.adapter_path} was trained on {base or 'a base that it does not name'}"
    if gap := _mismatch(model, folder):
        raise ModelError(
            f"{about}, which policy.model_name={name} is not: {gap}. Name the adapter's own base, or another adapter"
        )
    if base and Path(base).name != Path(name).name:
        raise ModelError(
            f"{about}, not on policy.model_name={name}: name the adapter's own base. If both are the same weights, "
            f"say so in {folder / SETTINGS} (base_model_name_or_path)"
        )


def _mismatch(model: PreTrainedModel, folder: Path) -> str | None:
    """The first of an adapter's weights that does not fit the model; None if all do."""
    from peft import get_peft_model, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    config = read_settings(folder)
    config.init_lora_weights, config.base_model_name_or_path = True, None
    try:
        wanted = get_peft_model_state_dict(get_peft_model(model, config))
    except ValueError as error:
        return str(error).splitlines()[0]
    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            there = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}/adapter_model.safetensors cannot be read: {error}") from error
    for key in sorted(there.keys() | wanted.keys()):
        ours = list(wanted[key].shape) if key in wanted else "nothing"
        theirs = there.get(key, "nothing")
        if ours != theirs:
            return f"{key} is {theirs} in the adapter and {ours} on this model"
    return None
