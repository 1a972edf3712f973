"""Adapters alone for vLLM servers that hold the base: a PEFT folder for each version, loaded in place of the last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hone.engine.local.weight_sync import LearnerWeights
from hone.errors import ConfigError
from hone.files import write_atomically
from hone.model.adapters import NAME, SETTINGS

ADAPTER = "policy-adapter"
"""The name under which servers have the adapter; requests for it are requests for the policy."""
KEPT = 2
"""Versions whose folders stay: a server may still read the one before."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes of `--max-lora-rank`."""


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
        aside, final = self.folder / f".writing_v{version}", self.folder / f"v{version}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(tensors, aside / "adapter_model.safetensors")
        write_atomically(aside / SETTINGS, json.dumps(settings.to_dict(), default=list))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        for old in sorted(self.folder.glob("v*"), key=lambda path: int(path.name[1:]))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def server_arguments(settings: Any) -> list[str]:
    """Arguments of `vllm serve` for an adapter of PEFT's `settings`. Raises ConfigError for what vLLM cannot run."""
    problems = {
        "use_dora": getattr(settings, "use_dora", False),
        "AdaLoRA": settings.peft_type == "ADALORA",
        "modules_to_save": bool(getattr(settings, "modules_to_save", None)),
        "trainable_token_indices": bool(getattr(settings, "trainable_token_indices", None)),
        f"rank {settings.r}": settings.r > RANKS[-1],
    }
    if refused := [name for name, is_set in problems.items() if is_set]:
        raise ConfigError(
            f"vLLM cannot run adapters with {', '.join(refused)}: set policy.generation.backend=builtin"
        )
    rank = next(size for size in RANKS if size >= settings.r)
    return ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(rank)]
