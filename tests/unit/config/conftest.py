"""Recipes of our own in place of the embedded ones: these tests say what the configuration does with them."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

import hone

RECIPES = {
    "sft": """
policy: {precision: float32, train_micro_batch_size: 8, optimizer: {kwargs: {lr: 0.002}}}
sft: {max_num_steps: 300}
data:
  train: {dataset_name: hone/word-problems, split: train}
  validation: {dataset_name: hone/word-problems, split: test}
""",
    "dpo": """
policy: {model_name: hone/tiny-sft, precision: float32, train_micro_batch_size: 8, max_total_sequence_length: 128}
dpo: {max_num_steps: 100}
data:
  train: {dataset_name: hone/word-problem-preferences, split: train}
  validation: {dataset_name: hone/word-problem-preferences, split: validation}
""",
    "rm": """
policy: {model_name: hone/tiny-sft, precision: float32, train_micro_batch_size: 8, max_total_sequence_length: 128}
rm: {max_num_steps: 100}
data:
  train: {dataset_name: hone/word-problem-preferences, split: train}
  validation: {dataset_name: hone/word-problem-preferences, split: validation}
""",
    "grpo": """
policy: {precision: float32, train_global_batch_size: 64}
grpo: {num_prompts_per_step: 8, num_generations_per_prompt: 8}
rewards: {functions: [{name: answer}, {name: format, weight: 0.2}]}
data:
  train: {dataset_name: hone/word-problems, split: train}
  validation: {dataset_name: hone/word-problems, split: test}
""",
    "ppo": """
policy: {precision: float32, train_global_batch_size: 64}
ppo: {num_prompts_per_step: 64, num_generations_per_prompt: 1, ppo_epochs: 2}
rewards: {functions: [{name: answer}, {name: format, weight: 0.2}]}
data:
  train: {dataset_name: hone/word-problems, split: train}
  validation: {dataset_name: hone/word-problems, split: test}
""",
    "distill": """
policy: {precision: float32, train_global_batch_size: 64}
distillation: {num_prompts_per_step: 64}
rewards: {functions: [{name: answer}]}
data:
  train: {dataset_name: hone/word-problems, split: sft}
  validation: {dataset_name: hone/word-problems, split: test}
""",
    "online-dpo": """
policy: {precision: float32, train_global_batch_size: 16}
online_dpo: {num_prompts_per_step: 16, num_generations_per_prompt: 8}
rewards: {functions: [{name: answer}]}
data:
  train: {dataset_name: hone/word-problems, split: train}
  validation: {dataset_name: hone/word-problems, split: test}
""",
    "eval": """
generation: {precision: float32, max_model_len: 256}
rewards: {functions: [{name: answer}]}
data: {dataset_name: hone/word-problems, split: test}
""",
}


@pytest.fixture(autouse=True)
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the recipes that `load` sees."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for kind, text in RECIPES.items():
        (folder / f"{kind}.yaml").write_text(text)
    module = types.ModuleType("hone.embedded")
    module.MODELS = ("hone/tiny", "hone/tiny-sft")  # type: ignore[attr-defined]
    module.RECIPES = {kind: folder / f"{kind}.yaml" for kind in RECIPES}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hone.embedded", module)
    monkeypatch.setattr(hone, "embedded", module, raising=False)
    return folder
