"""Converts a checkpoint's DCP shards into a folder that transformers loads: with `AutoModelForCausalLM`, or for a
scalar head with `AutoModelForSequenceClassification`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.logging import disable_progress_bar

from hone.checkpoint.io import read_into, read_weights
from hone.checkpoint.manifest import verify
from hone.config.paths import check_local
from hone.engine.local.learner import DTYPES
from hone.errors import CheckpointError, ConfigError
from hone.export.adapter import adapted_model, base_in_full, save_adapter
from hone.files import by_step, is_disk_full
from hone.model.adapters import base_of, merged
from hone.model.composite import left_out
from hone.model.generation_config import savable
from hone.model.load_errors import UNREADABLE, one_line
from hone.model.loading import auto_class, load_tokenizer, stop_tokens
from hone.model.scalar_head import has_scalar_head

FIX = "Convert another checkpoint of the run"
"""What to do about one that is damaged."""


def locate(run_or_step: Path) -> tuple[Path, Path]:
    """The config.yaml and weights folder of a step folder, or of the newest step of a run's folder."""
    check_local(run_or_step, "RUN_OR_STEP_FOLDER")
    step = [run_or_step, *by_step(run_or_step.glob("step_*")).values()][-1]
    if not (step / "policy" / "weights").is_dir():
        raise CheckpointError(f"{run_or_step} is neither a checkpoint (step_N) nor a run that has one")
    return step / "config.yaml", step / "policy" / "weights"


def convert(
    config_path: Path,
    dcp_ckpt_path: Path,
    hf_ckpt_path: Path,
    *,
    dtype: str = "float32",
    adapter: bool = False,
    trust_remote_code: bool = False,
) -> Path:
    """Write the model, its tokenizer and its generation config to `hf_ckpt_path`, whole or not at all. Adapters are
    merged into the model; with `adapter` they are written alone, as PEFT loads them.

    `trust_remote_code`: run Python code that the checkpoint's config names; the run's own setting does not count, since
    the run may be somebody else's. `dtype`: of the stored weights; float32 keeps them to the bit.

    Raises CheckpointError for a missing or damaged checkpoint, or if `hf_ckpt_path` is not empty.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}")
    check_local(dcp_ckpt_path, "--dcp-ckpt-path")
    check_local(hf_ckpt_path, "OUT")
    if hf_ckpt_path.exists() and not hf_ckpt_path.is_dir():
        raise CheckpointError(f"{hf_ckpt_path} is a file: choose a folder to write to")
    if hf_ckpt_path.exists() and any(hf_ckpt_path.iterdir()):
        raise CheckpointError(f"{hf_ckpt_path} is not empty: remove it or choose another folder")
    policy_folder = dcp_ckpt_path.parent
    if (policy_folder.parent / "manifest.json").is_file():
        verify(policy_folder.parent, fix=FIX)
    if not ((dcp_ckpt_path / ".metadata").is_file() and (policy_folder / "model" / "config.json").is_file()):
        raise CheckpointError(f"{dcp_ckpt_path} holds no DCP checkpoint: give a step's policy/weights folder")
    settings = _settings(config_path, policy_folder.name)
    adapted = bool(settings.get("lora", {}).get("enabled"))
    if adapter and not adapted:
        raise ConfigError("--adapter: the run trained all weights (policy.lora.enabled=false): leave it out")
    for notice in _left_out(settings):
        print(notice, file=sys.stderr)
    model = _trained_model(policy_folder, dcp_ckpt_path, settings, trust_remote_code)
    model = merged(model) if adapted and not adapter else model
    torch.nn.Module.to(model, DTYPES[dtype])
    # A value model reads the policy's tokens.
    own = (
        policy_folder.with_name("policy" if policy_folder.name == "value" else policy_folder.name)
        / "tokenizer"
    )
    name = str(own) if own.is_dir() else settings["tokenizer"]["name"]
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    _stop_at_turn_ends(base_of(model), tokenizer)
    disable_progress_bar()
    aside = hf_ckpt_path.with_name(f".writing_{hf_ckpt_path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        if adapter:
            save_adapter(model, settings, aside, trust_remote_code=trust_remote_code)
            if (generation := getattr(base_of(model), "generation_config", None)) is not None:
                generation.to_json_file(aside / "generation_config.json")
        else:
            model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if hf_ckpt_path.exists():
            hf_ckpt_path.rmdir()
        os.replace(aside, hf_ckpt_path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = "the disk is full: free some space" if is_disk_full(error) else one_line(error)
        raise CheckpointError(f"cannot write {hf_ckpt_path}: {reason}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return hf_ckpt_path


def _left_out(settings: dict[str, Any]) -> list[str]:
    """Parts of the run's base model that a conversion does not have; known if the base is a folder here."""
    name = settings.get("model_name") or ""
    if not name or not (Path(name) / "config.json").is_file():
        return []
    model_type = json.loads((Path(name) / "config.json").read_text()).get("model_type")
    return left_out(name, AutoConfig.from_pretrained(name)) if model_type in CONFIG_MAPPING else []


def _stop_at_turn_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the stop tokens of the generation config to those of the run's own generator."""
    if (generation := getattr(model, "generation_config", None)) is None:  # a scalar head has none
        return
    if stops := stop_tokens(model, tokenizer):
        generation.eos_token_id = list(stops) if len(stops) > 1 else stops[0]


def _trained_model(
    policy_folder: Path, weights: Path, settings: dict[str, Any], trust_remote_code: bool
) -> PreTrainedModel:
    """The model with its trained weights, and with its adapters if it has some."""
    try:
        config = AutoConfig.from_pretrained(policy_folder / "model", trust_remote_code=trust_remote_code)
    except UNREADABLE as error:
        raise CheckpointError(f"{policy_folder}/model is no model: {one_line(error)}") from error
    scalar, lora = has_scalar_head(config), settings.get("lora", {})
    if lora.get("enabled") and lora.get("load_in_4bit"):
        base = base_in_full(settings, scalar=scalar, trust_remote_code=trust_remote_code)
        model = adapted_model(base, policy_folder / "model", settings)
        read_into({name: p for name, p in model.named_parameters() if p.requires_grad}, weights)
        return model
    factory = auto_class(scalar)
    model = factory.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    if lora.get("enabled"):
        model = adapted_model(model, policy_folder / "model", settings)
    read_weights(model, weights)
    bare = base_of(model)
    bare.config.use_cache = True
    if (policy_folder / "model" / "generation_config.json").is_file():
        bare.generation_config, _ = savable(GenerationConfig.from_pretrained(policy_folder / "model"))
    return model


def _settings(config_path: Path, part: str) -> dict[str, Any]:
    """The section of the model that is converted: a run may train more than one."""
    try:
        return yaml.safe_load(config_path.read_text())["value" if part == "value" else "policy"]
    except FileNotFoundError as error:
        raise CheckpointError(f"--config {config_path} does not exist: give a step's config.yaml") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        message = f"--config {config_path} is not a run's config.yaml (no policy section)"
        raise CheckpointError(message) from error
