"""Adapters alone for vLLM servers that hold the base: a PEFT folder for each version, loaded in place of the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hone.engine.local.weight_sync import LearnerWeights
from hone.engine.weight_files import publishing, versions_in
from hone.errors import ConfigError
from hone.model.adapters import NAME, SETTINGS

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


def server_arguments(settings: Any) -> list[str]:
    """Arguments of `vllm serve` for an adapter of PEFT's `settings`. Raises ConfigError for what vLLM cannot run."""
    start = getattr(settings, "init_lora_weights", True)
    problems = {
        "use_dora": getattr(settings, "use_dora", False),
        "AdaLoRA": settings.peft_type == "ADALORA",
        "modules_to_save": bool(getattr(settings, "modules_to_save", None)),
        "trainable_token_indices": bool(getattr(settings, "trainable_token_indices", None)),
        f"rank {settings.r}": settings.r > RANKS[-1],
        # These change the base, which is not sent.
        f"init_lora_weights={start}": str(start).startswith(CHANGE_BASE),
    }
    if refused := [name for name, is_set in problems.items() if is_set]:
        raise ConfigError(
            f"vLLM cannot run adapters with {', '.join(refused)}: set policy.generation.backend=builtin"
        )
    rank = next(size for size in RANKS if size >= settings.r)
    return ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(rank)]
