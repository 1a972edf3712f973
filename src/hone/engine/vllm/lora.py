"""Adapters alone for vLLM servers that hold the base: a PEFT folder for each version, loaded in place of the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hone.config.schema.lora import LoraConfig
from hone.engine.local.weight_sync import LearnerWeights
from hone.engine.weight_files import publishing, versions_in
from hone.errors import ConfigError
from hone.model.adapters import NAME, SETTINGS, adapter_settings

ADAPTER = "policy-adapter"
"""The name under which servers have the adapter; requests for it are requests for the policy."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes of `--max-lora-rank`."""
CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that subtract the adapter from the base weights."""


class AdapterPublisher:
    """Writes the learner's adapter below `folder`. On a mesh every rank publishes, and the first one writes."""

    def __init__(self, weights: Callable[[], LearnerWeights], folder: Path) -> None:
        self.weights, self.folder = weights, folder

    async def publish(self, version: int) -> None:
        """Write the adapter as `version`; remove the folders that no server reads."""
        weights = self.weights()
        tensors = {
            name.replace(f".{NAME}.", "."): t.detach().cpu().contiguous() for name, t in weights.trained()
        }
        if not weights.ranks.is_first:
            return
        settings: Any = weights.model.peft_config[NAME]  # type: ignore[index]
        # A server may still read the version before.
        with publishing(self.folder, version, keep=versions_in(self.folder)[-1:]) as path:
            save_file(tensors, path / "adapter_model.safetensors")
            (path / SETTINGS).write_text(json.dumps(settings.to_dict(), default=list), encoding="utf-8")


def server_arguments(lora: LoraConfig) -> list[str]:
    """Arguments of `vllm serve` for the run's adapter. Raises ConfigError for one that vLLM cannot run."""
    own = {} if lora.adapter_path is None else adapter_settings(Path(lora.adapter_path).expanduser())
    start = str(own.get("init_lora_weights", lora.init_lora_weights))
    dim = max([own.get("r", lora.dim), *own.get("rank_pattern", {}).values()])
    problems = {
        "load_in_4bit": lora.load_in_4bit,  # the base that the server would read is another one
        "use_dora": lora.use_dora or own.get("use_dora"),
        "adalora": lora.adalora.enabled,
        "modules_to_save": lora.modules_to_save or own.get("modules_to_save"),
        "trainable_token_indices": lora.trainable_token_indices or own.get("trainable_token_indices"),
        # These change the base, which is not sent.
        f"init_lora_weights={start}": start.startswith(CHANGE_BASE),
        f"dim={dim}": dim > RANKS[-1],
    }
    if refused := [name for name, is_set in problems.items() if is_set]:
        raise ConfigError(
            f"policy.lora.{refused[0]}: vLLM cannot run such adapters. Set policy.generation.backend=builtin"
        )
    rank = next(size for size in RANKS if size >= dim)
    return ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(rank)]
