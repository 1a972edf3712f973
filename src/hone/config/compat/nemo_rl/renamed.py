"""Keys of NeMo RL, NeMo and their tutorials, and the Hone keys that they set.

If both are given, a later layer (a file that inherits, the command line) overrides an earlier one; within one layer
different values are an error. `beats` names keys that NeMo RL does not read if this one is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hone.config.alias import Alias, Switch, Translate, choice
from hone.config.compat.nemo_rl.computed import asynchronous, computed, megatron_computed
from hone.config.compat.nemo_rl.switches import DTENSOR, MEGATRON, aliases_of_value
from hone.config.schema import ROOTS, EvalConfig, OnlineConfig, RLConfig, section_of
from hone.config.short_names import PRECISION, optimizer_class
from hone.registry import specs

LORA = ("enabled", "dim", "alpha", "dropout", "target_modules", "exclude_modules")
PEFT = {"r": "policy.lora.dim", "lora_alpha": "policy.lora.alpha", "lora_dropout": "policy.lora.dropout"}
"""PEFT's names of LoRA settings."""
LORA_INIT = "policy.lora.init_lora_weights"
LORA_INIT_METHOD = choice("expected one of", {"xavier": "xavier", "kaiming": "kaiming"})
KWARGS = "policy.optimizer.kwargs"
LR, LENGTH = f"{KWARGS}.lr", "policy.max_total_sequence_length"
GLOBAL_BATCH, MICRO_BATCH = "policy.train_global_batch_size", "policy.train_micro_batch_size"
METRIC = "checkpointing.metric_name"
TRAIN_DATA, VALIDATION_DATA = "data.train.dataset_name", "data.validation.dataset_name"


def _whole_period(value: Any) -> Any:
    """A number of steps. Raises ValueError for a share of an epoch."""
    if isinstance(value, float):
        raise ValueError("a share of an epoch is not supported: give a number of steps")
    return value


def _count_of_devices(value: Any) -> Any:
    """The number of GPUs, given as a number, a number in quotes, or a list of devices."""
    if isinstance(value, list):
        return len(value)
    if isinstance(value, str) and value.isdigit():
        return int(value)
    if value in (-1, "auto"):
        raise ValueError("give the number of GPUs of each node")
    return value


def _only_file(value: Any) -> Any:
    """A file, given alone or as a list of one. Raises ValueError for several files."""
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise ValueError("for several files give data.train as a list of entries {dataset_name, weight}")
    return value[0]


def _pair_metric(value: Any) -> Any:
    """A metric of preference pairs. NeMo RL's names of validation metrics contain the dataset,
    `val:validation-default_loss`, and the share of correctly ranked pairs is `accuracy`."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"^val:validation-[^:]*_(loss|accuracy)$", r"val:val_\1", value)
    return re.sub(r"^(val:(?:val_)?|train:)(accuracy|margin)$", r"\1reward_\2", value)


def _minus_one_is_null(value: Any) -> Any:
    return None if value == -1 else value


_megatron_optimizer = choice("expected one of", {"adam": "torch.optim.AdamW", "sgd": "torch.optim.SGD"})


def _renamed(
    names: Mapping[str, str], head: str = "", value: Translate | None = None, when: Switch | None = None
) -> list[Alias]:
    """Aliases below `head`; a comma separates several Hone keys."""
    return [Alias(f"{head}{name}", tuple(to.split(",")), value, when=when) for name, to in names.items()]


def _dtensor() -> list[Alias]:
    head = "policy.dtensor_cfg."
    sizes = "tensor_parallel_size context_parallel_size dp_replicate_size".split()
    same = ("cpu_offload", "sequence_parallel", "activation_checkpointing", *sizes)
    lora = {f"lora_cfg.{key}": f"policy.lora.{key}" for key in (*LORA, "match_all_linear")}
    return [
        *_renamed({key: f"policy.{key}" for key in same}, head, when=DTENSOR),
        *_renamed(lora, head, when=DTENSOR),
        Alias(f"{head}lora_cfg.lora_A_init", (LORA_INIT,), LORA_INIT_METHOD, when=DTENSOR),
    ]


def _megatron() -> list[Alias]:
    head, name = "policy.megatron_cfg.", "policy.optimizer.name"
    overruling = {
        "tensor_model_parallel_size": "policy.tensor_parallel_size",
        "pipeline_model_parallel_size": "policy.pipeline_parallel_size",
        "context_parallel_size": "policy.context_parallel_size",
        "sequence_parallel": "policy.sequence_parallel",
        "activation_checkpointing": "policy.activation_checkpointing",
        "optimizer.clip_grad": "policy.max_grad_norm",
        "optimizer.lr": LR,
        "optimizer.weight_decay": f"{KWARGS}.weight_decay",
        "optimizer.adam_eps": f"{KWARGS}.eps",
    }
    optimizer = f"{head}optimizer.optimizer"
    return [
        *(Alias(f"{head}{key}", (to,), beats=(to,), when=MEGATRON) for key, to in overruling.items()),
        *_renamed({f"peft.{key}": f"policy.lora.{key}" for key in LORA}, head, when=MEGATRON),
        Alias(f"{head}peft.lora_A_init_method", (LORA_INIT,), LORA_INIT_METHOD, when=MEGATRON),
        Alias(optimizer, (name,), _megatron_optimizer, beats=(name,), when=MEGATRON),
        *(
            Alias(f"{head}{key}", to, when=MEGATRON, compute=compute)
            for key, (to, compute) in megatron_computed().items()
        ),
    ]


def _lightning(section: str) -> list[Alias]:
    """`trainer.*`, and older keys of the command's section."""
    return [
        *_renamed(
            {
                f"{section}.max_epochs": f"{section}.max_num_epochs",
                f"{section}.max_steps": f"{section}.max_num_steps",
                f"{section}.save_interval": "checkpointing.save_period",
                f"{section}.val_micro_batch_size": "policy.logprob_batch_size",
                "trainer.max_epochs": f"{section}.max_num_epochs",
                "trainer.max_steps": f"{section}.max_num_steps",
                "trainer.num_nodes": "cluster.num_nodes",
                "trainer.gradient_clip_val": "policy.max_grad_norm",
            }
        ),
        Alias(f"{section}.val_check_interval", (f"{section}.val_period",), _whole_period),
        Alias("trainer.val_check_interval", (f"{section}.val_period",), _whole_period),
        Alias("trainer.devices", ("cluster.gpus_per_node",), _count_of_devices),
        Alias("trainer.precision", ("policy.precision",), PRECISION),
    ]


def _nemo(section: str, *, online: bool) -> list[Alias]:
    """`model.*` and `optimizer.*` of NeMo."""
    found = _renamed(
        {
            **dict.fromkeys(("name", "restore_from_path"), "policy.model_name"),
            **dict.fromkeys(("micro_batch_size", "data.train_ds.micro_batch_size"), MICRO_BATCH),
            **dict.fromkeys(("global_batch_size", "data.train_ds.global_batch_size"), GLOBAL_BATCH),
            **dict.fromkeys(("encoder_seq_length", "data.train_ds.max_seq_length"), LENGTH),
            "activation_checkpointing": "policy.activation_checkpointing",
            "sequence_parallel": "policy.sequence_parallel",
            "tensor_model_parallel_size": "policy.tensor_parallel_size",
            "pipeline_model_parallel_size": "policy.pipeline_parallel_size",
            "context_parallel_size": "policy.context_parallel_size",
            "peft.lora_tuning.adapter_dim": "policy.lora.dim",
            "peft.lora_tuning.alpha": "policy.lora.alpha",
            **dict.fromkeys(
                ("peft.lora_tuning.dropout", "peft.lora_tuning.adapter_dropout"), "policy.lora.dropout"
            ),
            "data.train_ds.shuffle": "data.shuffle",
            "data.validation_ds.global_batch_size": (
                f"{section}.val_batch_size" if online else f"{section}.val_global_batch_size"
            ),
            "data.validation_ds.micro_batch_size": "policy.logprob_batch_size",
        },
        "model.",
    )
    for part, data in (("train_ds", TRAIN_DATA), ("validation_ds", VALIDATION_DATA)):
        found += _renamed({"file_path": data, "file_names": data}, f"model.data.{part}.", _only_file)
    for head in ("model.optim.", "optimizer."):
        found += _renamed({key: f"{KWARGS}.{key}" for key in ("lr", "weight_decay", "betas", "eps")}, head)
        found.append(Alias(f"{head}name", ("policy.optimizer.name",), optimizer_class))
    return found


def _training() -> list[Alias]:
    """Aliases of every training command."""
    entry = "input_key output_key prompt_template prompt_file system_prompt_file env_name subset".split()
    paths = {"data.dataset_path": TRAIN_DATA, "data.train_data_path": TRAIN_DATA}
    parts = ("data.train", "data.validation", "data.default")
    return [
        *_renamed({key: f"data.default.{key}" for key in entry}, "data."),
        *_renamed(
            {
                "data.dataset_name": TRAIN_DATA,
                "data.val_data_path": VALIDATION_DATA,
                "data.split": "data.train.split",
                "checkpoint.save_dir": "checkpointing.checkpoint_dir",
                "checkpoint.save_interval": "checkpointing.save_period",
                "training.sequence_length": LENGTH,
                "optimization.learning_rate": LR,
            }
        ),
        *(Alias(path, (to,), beats=("data.dataset_name",)) for path, to in paths.items()),
        *(
            Alias(f"{part}.data_path", (f"{part}.dataset_name",), beats=(f"{part}.dataset_name",))
            for part in parts
        ),
        Alias("checkpoint.save_top_k", ("checkpointing.keep_top_k",), _minus_one_is_null),
    ]


def _online(section: str) -> dict[str, str]:
    """Aliases of every command that samples; the minimum of new tokens has vLLM's name."""
    return {
        "training.num_samples_per_prompt": f"{section}.num_generations_per_prompt",
        "optimization.kl_coefficient": "loss_fn.reference_policy_kl_penalty",
        "optimization.epsilon": "loss_fn.ratio_clip_min,loss_fn.ratio_clip_max",
        "env.math.num_workers": "rewards.num_workers",
        "data.validation.repeat": f"{section}.val_num_generations_per_prompt",
        "policy.generation.min_tokens": "policy.generation.min_new_tokens",
    }


_ESTIMATOR = ("normalize_rewards", "use_leave_one_out_baseline")
_PAIRS = {
    "data.train.prompt_key": "data.train.input_key",
    "data.validation.prompt_key": "data.validation.input_key",
    "data.prompt_key": "data.default.input_key",
    "data.chosen_key": "data.default.chosen_key",
    "data.rejected_key": "data.default.rejected_key",
}
_OF: dict[str, dict[str, str]] = {
    "grpo": {f"grpo.adv_estimator.{key}": f"grpo.{key}" for key in _ESTIMATOR},
    "dpo": {
        "dpo.beta": "dpo.reference_policy_kl_penalty",
        "dpo.loss_type": "dpo.preference_loss",
        **_PAIRS,
    },
    "rm": {"policy.reward_model_cfg.reward_model_type": "rm.reward_model_type", **_PAIRS},
}
"""Aliases of one command."""


def _evaluation() -> list[Alias]:
    name = "data.dataset_name"
    return [
        Alias("generation.vllm_cfg.max_model_len", ("generation.max_model_len",)),
        Alias("generation.vllm_cfg.precision", ("generation.precision",), PRECISION),
        Alias("generation.min_tokens", ("generation.min_new_tokens",)),
        Alias("env.math.num_workers", ("rewards.num_workers",)),
        Alias("data.dataset_path", (name,), beats=(name,)),
        Alias("data.data_path", (name,), beats=(name,)),
    ]


def aliases(algorithm: str) -> list[Alias]:
    """The keys of NeMo RL and NeMo that a command accepts."""
    root = ROOTS[algorithm]
    if issubclass(root, EvalConfig):
        return _evaluation()
    section, online = section_of(algorithm), issubclass(root, OnlineConfig)
    policy = [*_dtensor(), *_megatron(), *_renamed(PEFT, "policy.lora.")]
    found = [*_lightning(section), *_nemo(section, online=online), *_training(), *policy]
    found += _renamed({**(_online(section) if online else {}), **_OF.get(algorithm, {})})
    if specs()[algorithm].data == "comparisons":
        found.append(Alias(METRIC, (METRIC,), _pair_metric))
    if issubclass(root, RLConfig):
        found += asynchronous(section)
    if "value" in root.model_fields:
        found += aliases_of_value(policy)
    return found + [
        Alias(path, to, compute=compute) for path, (to, compute) in computed(section, online=online).items()
    ]
