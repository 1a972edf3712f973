"""NeMo RL's own configuration files, rebuilt from the list of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hone.config.loading import files
from hone.config.nested import put, split_path

KEYS = Path(__file__).resolve().parents[3] / "shared" / "spec" / "config-keys.txt"
REPLACED = {
    "sft": {
        "policy.model_name": "models/llama",
        "data.train.dataset_name": "train.jsonl",
        "data.validation.dataset_name": "validation.jsonl",
        "policy.tokenizer.chat_template": "{{ messages[0]['content'] }}",  # cut short in the list of keys
    },
    "rm": {
        "policy.model_name": "models/llama",
        "data.train.dataset_name": "train.jsonl",
        "data.validation.dataset_name": "validation.jsonl",
        "policy.tokenizer.chat_template": "{{ messages[0]['content'] }}",
    },
    "dpo": {"policy.model_name": "models/llama"},
    "grpo": {"policy.model_name": "models/qwen", "data.train.dataset_name": "train.jsonl"},
    "ppo": {
        "policy.model_name": "models/qwen",
        "data.train.dataset_name": "train.jsonl",
        "data.validation.dataset_name": "validation.jsonl",
    },
    "distill": {
        "policy.model_name": "models/qwen-small",
        "teacher.model_name": "models/qwen",
        "data.train.dataset_name": "train.jsonl",
        "data.validation.dataset_name": "validation.jsonl",
    },
    "eval": {"generation.model_name": "models/qwen", "data.dataset_name": "test.jsonl"},
}
HEADINGS = {
    "sft": "sft.yaml",
    "dpo": "dpo.yaml",
    "rm": "rm.yaml",
    "grpo": "grpo_math_1B.yaml",
    "ppo": "ppo_math_1B.yaml",
    "distill": "distillation_math.yaml",
    "eval": "evals/eval.yaml",
}


def nemo_rl_config(kind: str) -> dict[str, Any]:
    """NeMo RL's own file as a tree, with names of models and data replaced."""
    if not KEYS.exists():
        pytest.skip("the list of upstream's keys is not here")
    tree: dict[str, Any] = {}
    inside = False
    for line in KEYS.read_text().splitlines():
        if line.startswith("#####"):
            inside = line.split()[1] == HEADINGS[kind]
        elif inside and line.strip():
            key, _, text = line.partition(": ")
            replaced = REPLACED[kind].get(key)
            if key in ("policy.scheduler", "teacher.scheduler") and not text.endswith(
                "]"
            ):  # cut short in the list of keys
                text = text.rstrip(" ,") + ", {milestones: [50]}]"
            put(tree, split_path(key), replaced if replaced is not None else files.parse(text))
    return tree


def save(tree: dict[str, Any], folder: Path) -> Path:
    path = folder / "upstream.yaml"
    path.write_text(files.dump(tree))
    return path
