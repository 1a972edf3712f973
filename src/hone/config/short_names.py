"""Hone's own short names: lr, epochs, model, batch_size. One table for files, the command line and Python.

Each is an alias of one of our keys, at the top level of a configuration: `hone sft lr=1e-4`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hone.config.alias import Alias, Context, choice, count
from hone.config.schema import ROOTS, EvalConfig, OnlineConfig, section_of
from hone.config.suite_names import suite_names

TRAINING: dict[str, str] = {
    "lr": "policy.optimizer.kwargs.lr",
    "weight_decay": "policy.optimizer.kwargs.weight_decay",
    "max_grad_norm": "policy.max_grad_norm",
    "max_length": "policy.max_total_sequence_length",
    "activation_checkpointing": "policy.activation_checkpointing",
    **dict.fromkeys(("max_steps", "steps", "num_steps"), "{section}.max_num_steps"),
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs"), "{section}.max_num_epochs"),
    "val_interval": "{section}.val_period",
    "seed": "{section}.seed",
    **dict.fromkeys(("model", "model_name"), "policy.model_name"),
    **dict.fromkeys(("output_dir", "save_dir", "checkpoint_dir"), "checkpointing.checkpoint_dir"),
    **dict.fromkeys(("dataset", "dataset_name", "train_file"), "data.train.dataset_name"),
    **dict.fromkeys(("validation_file", "val_dataset"), "data.validation.dataset_name"),
    **dict.fromkeys(("micro_batch_size", "mini_batch_size"), "policy.train_micro_batch_size"),
    "disable_dropout": "policy.disable_dropout",
    "trust_remote_code": "policy.trust_remote_code",
    "packing": "policy.sequence_packing.enabled",
    "chat_template": "policy.tokenizer.chat_template",
    "lora_rank": "policy.lora.dim",
    "lora_alpha": "policy.lora.alpha",
    "lora_dropout": "policy.lora.dropout",
    "run_name": "logger.wandb.name",
    **dict.fromkeys(("gpus", "num_gpus", "n_gpus"), "cluster.gpus_per_node"),
    **dict.fromkeys(("nodes", "num_nodes", "nnodes"), "cluster.num_nodes"),
}
SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Keys of `policy.generation` that are also short names, for commands that sample."""
EVALUATION: dict[str, str] = {
    **dict.fromkeys(("model", "model_name"), "generation.model_name"),
    **dict.fromkeys(("dataset", "dataset_name"), "data.dataset_name"),
    **dict.fromkeys(("output_dir", "save_path"), "eval.save_path"),
    **{key: f"generation.{key}" for key in ("temperature", "top_p", "top_k", "max_new_tokens", "batch_size")},
    **dict.fromkeys(("max_length", "max_model_len"), "generation.max_model_len"),
    "seed": "eval.seed",
    "limit": "data.limit",
    "num_samples": "eval.num_tests_per_prompt",
    "chat_template": "tokenizer.chat_template",
    **{
        key: f"eval.{key}"
        for key in ("suite", "num_fewshot", "apply_chat_template", "lm_eval", "lm_eval_path")
    },
    **{f"suite_data.{name}": f"eval.suite_data.{name}" for name in suite_names()},
    "contamination_check.data": "eval.contamination_data",
}
REPLACEMENTS: dict[str, str] = {
    "resume": "nothing: the same command resumes from its folder",
    **dict.fromkeys(("lora", "use_lora"), "policy.lora.enabled=true"),
}
"""Names that are no setting, and what to write instead."""
PRECISION = choice(
    "expected one of",
    {32: "float32", "32": "float32", "32-true": "float32", "fp32": "float32", "float32": "float32"}
    | dict.fromkeys(("bf16", "bf16-mixed", "bf16-true", "bfloat16"), "bfloat16")
    | dict.fromkeys((16, "16", "16-mixed", "16-true", "fp16", "float16"), "float16"),
)
_OPTIMIZERS = {
    **dict.fromkeys(("adamw", "fused_adam", "distributed_fused_adam"), "torch.optim.AdamW"),
    "adam": "torch.optim.Adam",
    "sgd": "torch.optim.SGD",
    "adagrad": "torch.optim.Adagrad",
    "adafactor": "torch.optim.Adafactor",
    "rmsprop": "torch.optim.RMSprop",
    "nadam": "torch.optim.NAdam",
    "radam": "torch.optim.RAdam",
}


def optimizer_class(value: Any) -> Any:
    """A dotted name unchanged; a short name as the class of torch."""
    if isinstance(value, str) and "." in value:
        return value
    return choice("expected a dotted name such as torch.optim.AdamW, or one of", _OPTIMIZERS)(value)


def batch_size(value: Any, context: Context, *, pairs: bool = False) -> dict[str, Any]:
    """Sequences (or pairs) per step. The online loop also sets the number of prompts that yields them."""
    size = count(value, "sequences")
    result = {"policy.train_global_batch_size": size}
    prompts = f"{context.section}.num_prompts_per_step"
    group = context.ours(f"{context.section}.num_generations_per_prompt")
    group = 1 if pairs else group
    if group is not None and not context.given(prompts):
        if size % group:
            raise ValueError(f"is not a multiple of the {group} completions of each prompt")
        result[prompts] = size // group
    return result


def aliases(algorithm: str) -> list[Alias]:
    """The short names that a command takes."""
    root = ROOTS[algorithm]
    if issubclass(root, EvalConfig):
        return [Alias(name, (key,)) for name, key in EVALUATION.items()]
    found = [Alias(name, (key.format(section=section_of(algorithm)),)) for name, key in TRAINING.items()]
    pairs = getattr(root.model_fields[section_of(algorithm)].annotation, "trains_on_pairs", False)
    if issubclass(root, OnlineConfig):
        found += [Alias(name, (f"policy.generation.{name}",)) for name in SAMPLING]
    return [
        *found,
        *(
            Alias(name, ("policy.train_global_batch_size",), compute=partial(batch_size, pairs=pairs))
            for name in ("batch_size", "global_batch_size", "train_batch_size")
        ),
        Alias("precision", ("policy.precision",), PRECISION),
        Alias("optimizer", ("policy.optimizer.name",), optimizer_class),
    ]
