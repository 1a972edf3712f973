"""Every SFT, DPO, RM, GRPO, evaluation and conversion command and YAML fragment of the tutorials, as it stands.

Only what is not a setting is replaced: model names and data places (none of which `load` opens).
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from hone.config import load
from hone.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
SFT_YAML = str(ROOT / "examples/configs/sft.yaml")


def value(config: Any, key: str) -> Any:
    def step(node: Any, part: str) -> Any:
        if part.isdigit():
            return node[int(part)]
        return node[part] if isinstance(node, dict) else getattr(node, part)

    return reduce(step, key.split("."), config)


def expect(config: Any, expected: dict[str, Any]) -> None:
    assert {key: value(config, key) for key in expected} == expected


COMMANDS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("sft", [], {"policy.model_name": "hone/tiny"}),
    (
        "sft",
        [
            "policy.model_name=meta-llama/Llama-3.1-8B-Instruct",
            "policy.train_global_batch_size=128",
            "sft.val_global_batch_size=128",
            "cluster.gpus_per_node=8",
            "checkpointing.checkpoint_dir=results/sft_llama8b",
            "logger.wandb_enabled=True",
            "logger.wandb.name=sft-llama8b-tutorial",
        ],
        {
            "policy.model_name": "meta-llama/Llama-3.1-8B-Instruct",
            "policy.train_global_batch_size": 128,
            "sft.val_global_batch_size": 128,
            "cluster.gpus_per_node": 8,
            "checkpointing.checkpoint_dir": "results/sft_llama8b",
            "logger.wandb_enabled": True,
            "logger.wandb.name": "sft-llama8b-tutorial",
        },
    ),
    ("rm", [], {"policy.model_name": "hone/tiny-sft"}),
    (
        "rm",
        [
            "cluster.gpus_per_node=8",
            "checkpointing.checkpoint_dir=results/rm_llama1b",
            "logger.wandb_enabled=True",
            "logger.wandb.name=rm-llama1b-tutorial",
        ],
        {"cluster.gpus_per_node": 8, "logger.wandb.name": "rm-llama1b-tutorial"},
    ),
    ("dpo", [], {"policy.model_name": "hone/tiny-sft"}),
    (
        "dpo",
        [
            "policy.model_name=meta-llama/Llama-3.1-8B-Instruct",
            "policy.train_global_batch_size=256",
            "dpo.sft_loss_weight=0.1",
            "dpo.preference_average_log_probs=True",
            "dpo.beta=0.1",
            "cluster.gpus_per_node=8",
            "checkpointing.checkpoint_dir=results/dpo_llama8b",
            "logger.wandb_enabled=True",
            "logger.wandb.name=dpo-llama8b-tutorial",
        ],
        {
            "policy.train_global_batch_size": 256,
            "dpo.reference_policy_kl_penalty": 0.1,
            "dpo.sft_loss_weight": 0.1,
            "dpo.preference_average_log_probs": True,
            "dpo.sft_average_log_probs": True,
            "cluster.gpus_per_node": 8,
            "checkpointing.checkpoint_dir": "results/dpo_llama8b",
        },
    ),
    (
        "eval",
        [
            "generation.model_name=/here/results/dpo_llama8b/hf",
            "generation.temperature=0.7",
            "generation.top_p=0.9",
            "data.dataset_name=math500",
            "eval.num_tests_per_prompt=16",
            "cluster.gpus_per_node=8",
        ],
        {
            "generation.model_name": "/here/results/dpo_llama8b/hf",
            "generation.temperature": 0.7,
            "generation.top_p": 0.9,
            "data.dataset_name": "math500",
            "eval.num_tests_per_prompt": 16,
            "cluster.gpus_per_node": 8,
        },
    ),
    (
        "eval",
        [
            "--config",
            str(ROOT / "examples/configs/evals/math_eval.yaml"),
            "generation.model_name=agentica-org/DeepScaleR-1.5B-Preview",
            "generation.temperature=0.6",
            "generation.top_p=0.95",
            "generation.vllm_cfg.max_model_len=32768",
            "data.dataset_name=math500",
            "eval.num_tests_per_prompt=16",
            "cluster.gpus_per_node=8",
        ],
        {
            "generation.model_name": "agentica-org/DeepScaleR-1.5B-Preview",
            "generation.max_model_len": 32768,
            "generation.max_new_tokens": 32768,
            "generation.temperature": 0.6,
            "generation.top_p": 0.95,
            "data.dataset_name": "math500",
            "eval.num_tests_per_prompt": 16,
        },
    ),
    (  # inside COMMAND="…" for Slurm the quotes reach the program when it is run without a shell
        "sft",
        [
            "--config",
            SFT_YAML,
            "cluster.num_nodes=2",
            "cluster.gpus_per_node=8",
            "checkpointing.checkpoint_dir='results/sft_llama8b_2nodes'",
            "logger.wandb_enabled=True",
            "logger.wandb.name='sft-llama8b-multinode'",
        ],
        {
            "cluster.num_nodes": 2,
            "cluster.gpus_per_node": 8,
            "checkpointing.checkpoint_dir": "results/sft_llama8b_2nodes",
            "logger.wandb.name": "sft-llama8b-multinode",
        },
    ),
    (
        "sft",
        ["--config", SFT_YAML, "cluster.num_nodes=2", "cluster.gpus_per_node=8"],
        {"cluster.num_nodes": 2, "cluster.gpus_per_node": 8},
    ),
    (
        "sft",
        [
            "model.activation_checkpointing=true",
            "model.sequence_parallel=true",
            "model.tensor_model_parallel_size=2",
            "trainer.precision=16-mixed",
        ],
        {
            "policy.activation_checkpointing": True,
            "policy.sequence_parallel": True,
            "policy.tensor_parallel_size": 2,
            "policy.precision": "float16",
        },
    ),
    (
        "sft",
        ["model.micro_batch_size=4", "trainer.accumulate_grad_batches=8"],
        {"policy.train_micro_batch_size": 4, "policy.train_global_batch_size": 32},
    ),
    (
        "sft",
        ["trainer.limit_train_batches=10", "trainer.limit_val_batches=5", "trainer.max_epochs=1"],
        {"sft.max_num_steps": 10, "sft.val_batches": 5, "sft.max_num_epochs": 1},
    ),
    (
        "sft",
        ["trainer.max_epochs=1", "trainer.limit_train_batches=10"],
        {"sft.max_num_epochs": 1, "sft.max_num_steps": 10},
    ),
]


@pytest.mark.parametrize(("kind", "argv", "expected"), COMMANDS)
def test_command(kind: Any, argv: list[str], expected: dict[str, Any]) -> None:
    path = argv[1] if argv[:1] == ["--config"] else None
    loaded = load(kind, path, argv[2:] if path else argv)
    expect(loaded.config, expected)


CUSTOM_SFT = """
# custom_sft_config.yaml
data:
  dataset_name: "custom_dataset"
  dataset_path: "/path/to/your/dataset"
  prompt_template: "Human: {input}\\n\\nAssistant: {output}"

sft:
  max_epochs: 5
  save_interval: 500
  val_check_interval: 100
"""
OPTIMIZATION = """
# config/optimization.yaml
trainer:
  gradient_clip_val: 1.0
  accumulate_grad_batches: 4
  precision: 16-mixed  # Mixed precision

model:
  micro_batch_size: 8
  global_batch_size: 256
  activation_checkpointing: true

optimizer:
  name: adamw
  lr: 3e-4
  weight_decay: 0.01
  betas: [0.9, 0.95]
"""
DEEPSCALER = """
model:
  name: "DeepSeek-R1"
  architecture: "transformer"

training:
  method: "GRPO"
  batch_size: 512
  sequence_length: 8192
  num_samples_per_prompt: 64

optimization:
  learning_rate: 1e-6
  kl_coefficient: 0.04
  epsilon: 0.2

rewards:
  accuracy_weight: 1.0
  format_weight: 0.5
"""
NEMO_SFT = """
# nemo_sft_config.yaml
trainer:
  devices: 8
  num_nodes: 1
  accelerator: gpu
  precision: bf16
  max_epochs: 3
  val_check_interval: 500

model:
  restore_from_path: /models/llama-2-7b.nemo

  peft:
    peft_scheme: "lora"
    lora_tuning:
      adapter_dim: 32
      alpha: 32
      dropout: 0.1
      target_modules:
        - "q_proj"
        - "v_proj"
        - "k_proj"
        - "o_proj"

  data:
    train_ds:
      file_path: /data/train.jsonl
      micro_batch_size: 4
      global_batch_size: 32
    validation_ds:
      file_path: /data/val.jsonl
      micro_batch_size: 4

  optim:
    name: fused_adam
    lr: 2e-5
    weight_decay: 0.01
    betas:
      - 0.9
      - 0.98
"""
CHECKPOINT = """
checkpoint:
  save_dir: "s3://nemo-checkpoints/${JOB_NAME}"
  save_top_k: 3
  save_last: true
  save_interval: 500

  resume:
    enabled: true
    resume_from_checkpoint: "auto"
"""
FRAGMENTS: list[tuple[str, str, list[str], dict[str, Any]]] = [
    (
        "sft",
        CUSTOM_SFT,
        [],
        {
            "data.train.0.dataset_name": "/path/to/your/dataset",
            "data.train.0.prompt_template": "Human: {input}\n\nAssistant: {output}",
            "data.validation": None,  # the embedded data is not mixed with the user's
            "sft.max_num_epochs": 5,
            "checkpointing.save_period": 500,
            "sft.val_period": 100,
        },
    ),
    (
        "sft",
        OPTIMIZATION,
        [],
        {
            "policy.max_grad_norm": 1.0,
            "policy.precision": "float16",
            "policy.train_micro_batch_size": 8,
            "policy.train_global_batch_size": 256,
            "policy.activation_checkpointing": True,
            "policy.optimizer.name": "torch.optim.AdamW",
            "policy.optimizer.kwargs": {"lr": 3e-4, "weight_decay": 0.01, "betas": [0.9, 0.95], "eps": 1e-5},
        },
    ),
    (
        "grpo",
        DEEPSCALER,
        [],
        {
            "policy.model_name": "DeepSeek-R1",
            "policy.train_global_batch_size": 512,
            "policy.max_total_sequence_length": 8192,
            "grpo.num_generations_per_prompt": 64,
            "grpo.num_prompts_per_step": 8,
            "policy.optimizer.kwargs.lr": 1e-6,
            "loss_fn.reference_policy_kl_penalty": 0.04,
            "loss_fn.ratio_clip_min": 0.2,
            "loss_fn.ratio_clip_max": 0.2,
            "rewards.functions.0.name": "accuracy",
            "rewards.functions.0.path": "math",
            "rewards.functions.0.weight": 1.0,
            "rewards.functions.1.name": "format",
            "rewards.functions.1.weight": 0.5,
        },
    ),
    (
        "sft",
        NEMO_SFT,
        [],
        {
            "cluster.gpus_per_node": 8,
            "cluster.num_nodes": 1,
            "policy.precision": "bfloat16",
            "sft.max_num_epochs": 3,
            "sft.val_period": 500,
            "policy.model_name": "/models/llama-2-7b.nemo",
            "policy.lora.enabled": True,
            "policy.lora.dim": 32,
            "policy.lora.alpha": 32,
            "policy.lora.dropout": 0.1,
            "policy.lora.target_modules": ["q_proj", "v_proj", "k_proj", "o_proj"],
            "policy.lora.match_all_linear": False,
            "data.train.0.dataset_name": "/data/train.jsonl",
            "data.validation.0.dataset_name": "/data/val.jsonl",
            "policy.train_micro_batch_size": 4,
            "policy.train_global_batch_size": 32,
            "policy.logprob_batch_size": 4,
            "policy.optimizer.name": "torch.optim.AdamW",
            "policy.optimizer.kwargs.lr": 2e-5,
            "policy.optimizer.kwargs.betas": [0.9, 0.98],
        },
    ),
    (
        "sft",
        CHECKPOINT,
        ["checkpoint.save_dir=/mnt/nemo-checkpoints/${JOB_NAME}"],
        {
            "checkpointing.checkpoint_dir": "/mnt/nemo-checkpoints/nightly",
            "checkpointing.keep_top_k": 3,
            "checkpointing.save_period": 500,
        },
    ),
]


@pytest.mark.parametrize(("kind", "text", "overrides", "expected"), FRAGMENTS)
def test_fragment(
    kind: Any,
    text: str,
    overrides: list[str],
    expected: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JOB_NAME", "nightly")
    path = tmp_path / "fragment.yaml"
    path.write_text(text)
    loaded = load(kind, path, overrides)
    expect(loaded.config, expected)
    again = tmp_path / "resolved.yaml"
    again.write_text(loaded.to_yaml())
    assert load(kind, again, []).config == loaded.config


def test_deepscaler_weights_apply_to_the_embedded_models_rewards(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(DEEPSCALER.replace('name: "DeepSeek-R1"', 'name: "hone/tiny-sft"'))
    config = load("grpo", path, []).config
    assert [(f.name, f.weight) for f in config.rewards.functions] == [("answer", 1.0), ("format", 0.5)]


def test_checkpoints_in_a_bucket_are_refused_by_name_not_made_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_NAME", "nightly")
    (tmp_path / "fragment.yaml").write_text(CHECKPOINT)
    with pytest.raises(
        ConfigError, match=r"^checkpoint\.save_dir=s3://nemo-checkpoints/nightly: s3:// is not"
    ):
        load("sft", tmp_path / "fragment.yaml", [])
