"""The one table of accepted spellings: what users of NeMo RL, NeMo and its tutorials write -> our key.

Where both are given, a later layer (a file that inherits, the command line) wins over an earlier one; within
one layer different values are an error. `beats` names keys that upstream ignores when this one is given.
"""

from __future__ import annotations

from dataclasses import replace

from hone.config.alias import Spelling
from hone.config.compat.nemo_rl.computed import ONLINE, compute_of_value, computed, megatron_computed
from hone.config.compat.nemo_rl.rules import DTENSOR, MEGATRON, of_value, swapped
from hone.config.compat.nemo_rl.values import (
    LORA_INIT_METHOD,
    PRECISION,
    Translate,
    all_is_null,
    count_of_devices,
    megatron_optimizer,
    only_file,
    optimizer_class,
    whole_period,
)
from hone.config.compat.trl.aliases import common
from hone.config.kinds import section_of

LORA = ("enabled", "dim", "alpha", "dropout", "target_modules", "exclude_modules", "match_all_linear")
LORA_INIT = "policy.lora.init_lora_weights"
PEFT = {"r": "dim", "lora_alpha": "alpha", "lora_dropout": "dropout"}
"""PEFT's names of the same settings."""


def _dtensor() -> list[Spelling]:
    same: tuple[str, ...] = (
        "cpu_offload",
        "sequence_parallel",
        "activation_checkpointing",
        "tensor_parallel_size",
    )
    same += ("context_parallel_size", "dp_replicate_size")
    found = [Spelling(f"policy.dtensor_cfg.{key}", (f"policy.{key}",), when=DTENSOR) for key in same]
    return [
        *found,
        *(
            Spelling(f"policy.dtensor_cfg.lora_cfg.{key}", (f"policy.lora.{key}",), when=DTENSOR)
            for key in LORA
        ),
        Spelling("policy.dtensor_cfg.lora_cfg.lora_A_init", (LORA_INIT,), LORA_INIT_METHOD, when=DTENSOR),
        *(Spelling(f"policy.lora.{theirs}", (f"policy.lora.{ours}",)) for theirs, ours in PEFT.items()),
    ]


def _megatron() -> list[Spelling]:
    kwargs = "policy.optimizer.kwargs"
    keys = {
        "tensor_model_parallel_size": "policy.tensor_parallel_size",
        "pipeline_model_parallel_size": "policy.pipeline_parallel_size",
        "context_parallel_size": "policy.context_parallel_size",
        "sequence_parallel": "policy.sequence_parallel",
        "activation_checkpointing": "policy.activation_checkpointing",
        "optimizer.clip_grad": "policy.max_grad_norm",
        "optimizer.lr": f"{kwargs}.lr",
        "optimizer.weight_decay": f"{kwargs}.weight_decay",
        "optimizer.adam_eps": f"{kwargs}.eps",
    }
    head = "policy.megatron_cfg"
    found = [Spelling(f"{head}.{key}", (to,), beats=(to,), when=MEGATRON) for key, to in keys.items()]
    found += [
        Spelling(f"{head}.peft.{key}", (f"policy.lora.{key}",), when=MEGATRON)
        for key in LORA
        if key != "match_all_linear"
    ]
    found.append(Spelling(f"{head}.peft.lora_A_init_method", (LORA_INIT,), LORA_INIT_METHOD, when=MEGATRON))
    name = "policy.optimizer.name"
    found.append(
        Spelling(f"{head}.optimizer.optimizer", (name,), megatron_optimizer, beats=(name,), when=MEGATRON)
    )
    return found + [
        Spelling(f"{head}.{key}", to, when=MEGATRON, compute=compute)
        for key, (to, compute) in megatron_computed().items()
    ]


def _lightning(loop: str) -> list[Spelling]:
    """`trainer.*` and the loop's older keys, `loop` being our section `sft`, `grpo` …"""
    return [
        Spelling(f"{loop}.max_epochs", (f"{loop}.max_num_epochs",)),
        Spelling(f"{loop}.max_steps", (f"{loop}.max_num_steps",)),
        Spelling(f"{loop}.val_check_interval", (f"{loop}.val_period",), whole_period),
        Spelling(f"{loop}.save_interval", ("checkpointing.save_period",)),
        Spelling(f"{loop}.val_micro_batch_size", ("policy.logprob_batch_size",)),
        Spelling("trainer.max_epochs", (f"{loop}.max_num_epochs",)),
        Spelling("trainer.max_steps", (f"{loop}.max_num_steps",)),
        Spelling("trainer.val_check_interval", (f"{loop}.val_period",), whole_period),
        Spelling("trainer.devices", ("cluster.gpus_per_node",), count_of_devices),
        Spelling("trainer.num_nodes", ("cluster.num_nodes",)),
        Spelling("trainer.precision", ("policy.precision",), PRECISION),
        Spelling("trainer.gradient_clip_val", ("policy.max_grad_norm",)),
    ]


def _nemo(loop: str) -> list[Spelling]:
    """`model.*` and `optimizer.*` of NeMo."""
    kwargs = "policy.optimizer.kwargs"
    validation = (
        f"{loop}.val_batch_size" if loop in ONLINE else f"{loop}.val_global_batch_size",
        "policy.logprob_batch_size",
    )
    keys: dict[str, tuple[str, Translate | None]] = {
        "model.name": ("policy.model_name", None),
        "model.restore_from_path": ("policy.model_name", None),
        "model.micro_batch_size": ("policy.train_micro_batch_size", None),
        "model.global_batch_size": ("policy.train_global_batch_size", None),
        "model.encoder_seq_length": ("policy.max_total_sequence_length", None),
        "model.activation_checkpointing": ("policy.activation_checkpointing", None),
        "model.sequence_parallel": ("policy.sequence_parallel", None),
        "model.tensor_model_parallel_size": ("policy.tensor_parallel_size", None),
        "model.pipeline_model_parallel_size": ("policy.pipeline_parallel_size", None),
        "model.context_parallel_size": ("policy.context_parallel_size", None),
        "model.peft.lora_tuning.adapter_dim": ("policy.lora.dim", None),
        "model.peft.lora_tuning.alpha": ("policy.lora.alpha", None),
        "model.peft.lora_tuning.dropout": ("policy.lora.dropout", None),
        "model.peft.lora_tuning.adapter_dropout": ("policy.lora.dropout", None),
        "model.data.train_ds.file_path": ("data.train.dataset_name", only_file),
        "model.data.train_ds.file_names": ("data.train.dataset_name", only_file),
        "model.data.train_ds.micro_batch_size": ("policy.train_micro_batch_size", None),
        "model.data.train_ds.global_batch_size": ("policy.train_global_batch_size", None),
        "model.data.train_ds.max_seq_length": ("policy.max_total_sequence_length", None),
        "model.data.train_ds.shuffle": ("data.shuffle", None),
        "model.data.validation_ds.file_path": ("data.validation.dataset_name", only_file),
        "model.data.validation_ds.file_names": ("data.validation.dataset_name", only_file),
        "model.data.validation_ds.global_batch_size": (validation[0], None),
        "model.data.validation_ds.micro_batch_size": (validation[1], None),
    }
    for head in ("model.optim", "optimizer"):
        keys[f"{head}.name"] = ("policy.optimizer.name", optimizer_class)
        for key in ("lr", "weight_decay", "betas", "eps"):
            keys[f"{head}.{key}"] = (f"{kwargs}.{key}", None)
    return [Spelling(path, (to,), value) for path, (to, value) in keys.items()]


def _data() -> list[Spelling]:
    entry = (
        "input_key",
        "output_key",
        "prompt_template",
        "prompt_file",
        "system_prompt_file",
        "env_name",
        "subset",
    )
    found = [Spelling(f"data.{key}", (f"data.default.{key}",)) for key in entry]
    found += [
        Spelling("data.dataset_name", ("data.train.dataset_name",)),
        Spelling("data.dataset_path", ("data.train.dataset_name",), beats=("data.dataset_name",)),
        Spelling("data.train_data_path", ("data.train.dataset_name",), beats=("data.dataset_name",)),
        Spelling("data.val_data_path", ("data.validation.dataset_name",)),
        Spelling("data.split", ("data.train.split",)),
    ]
    for part in ("train", "validation", "default"):
        name = f"data.{part}.dataset_name"
        found.append(Spelling(f"data.{part}.data_path", (name,), beats=(name,)))
    return found


def _checkpoint() -> list[Spelling]:
    return [
        Spelling("checkpoint.save_dir", ("checkpointing.checkpoint_dir",)),
        Spelling("checkpoint.save_top_k", ("checkpointing.keep_top_k",), all_is_null),
        Spelling("checkpoint.save_interval", ("checkpointing.save_period",)),
    ]


def _grpo() -> list[Spelling]:
    return [
        Spelling("grpo.adv_estimator.normalize_rewards", ("grpo.normalize_rewards",)),
        Spelling("grpo.adv_estimator.use_leave_one_out_baseline", ("grpo.use_leave_one_out_baseline",)),
        *_online("grpo"),
    ]


def _ppo() -> list[Spelling]:
    return [*_online("ppo"), *_of_value([*_dtensor(), *_megatron()])]


def _distill() -> list[Spelling]:
    return _online("distillation")


def _of_value(spellings: list[Spelling]) -> list[Spelling]:
    """What users write for the policy, for the value model."""
    return [
        replace(
            spelling,
            path=swapped(spelling.path),
            to=tuple(map(swapped, spelling.to)),
            beats=tuple(map(swapped, spelling.beats)),
            when=None if spelling.when is None else of_value(spelling.when),
            compute=None if spelling.compute is None else compute_of_value(spelling.compute),
        )
        for spelling in spellings
    ]


def _online(loop: str) -> list[Spelling]:
    """What both kinds of the online loop take."""
    clip = ("loss_fn.ratio_clip_min", "loss_fn.ratio_clip_max")
    return [
        Spelling("training.num_samples_per_prompt", (f"{loop}.num_generations_per_prompt",)),
        Spelling("optimization.kl_coefficient", ("loss_fn.reference_policy_kl_penalty",)),
        Spelling("optimization.epsilon", clip),
        Spelling("env.math.num_workers", ("rewards.num_workers",)),
        Spelling("data.validation.repeat", (f"{loop}.val_num_generations_per_prompt",)),
    ]


def _dpo() -> list[Spelling]:
    return [
        Spelling("dpo.beta", ("dpo.reference_policy_kl_penalty",)),
        Spelling("dpo.loss_type", ("dpo.preference_loss",)),
        *_pairs(),
    ]


def _pairs() -> list[Spelling]:
    return [
        *(
            Spelling(f"data.{part}.prompt_key", (f"data.{part}.input_key",))
            for part in ("train", "validation")
        ),
        Spelling("data.prompt_key", ("data.default.input_key",)),
        *(Spelling(f"data.{key}", (f"data.default.{key}",)) for key in ("chosen_key", "rejected_key")),
    ]


def _rm() -> list[Spelling]:
    return [*_pairs(), Spelling("policy.reward_model_cfg.reward_model_type", ("rm.reward_model_type",))]


def _eval() -> list[Spelling]:
    name = "data.dataset_name"
    return [
        Spelling("generation.vllm_cfg.max_model_len", ("generation.max_model_len",)),
        Spelling("generation.vllm_cfg.precision", ("generation.precision",), PRECISION),
        Spelling("env.math.num_workers", ("rewards.num_workers",)),
        Spelling("data.dataset_path", (name,), beats=(name,)),
        Spelling("data.data_path", (name,), beats=(name,)),
    ]


def table(kind: str) -> dict[str, Spelling]:
    """All spellings that a configuration of this kind may use, by path."""
    if kind == "eval":
        found = [*_eval(), Spelling("generation.min_tokens", ("generation.min_new_tokens",))]
    else:
        loop = section_of(kind)
        found = _lightning(loop) + _nemo(loop) + _data() + _checkpoint() + _dtensor() + _megatron()
        found += [
            Spelling("training.sequence_length", ("policy.max_total_sequence_length",)),
            Spelling("optimization.learning_rate", ("policy.optimizer.kwargs.lr",)),
        ]
        found += {"grpo": _grpo, "ppo": _ppo, "distill": _distill, "dpo": _dpo, "rm": _rm}.get(kind, list)()
        if kind in ("grpo", "ppo", "distill"):  # vLLM's name
            found += [Spelling("policy.generation.min_tokens", ("policy.generation.min_new_tokens",))]
        found += [Spelling(path, to, compute=compute) for path, (to, compute) in computed(kind).items()]
    return {spelling.path: spelling for spelling in [*found, *common(kind)]}
