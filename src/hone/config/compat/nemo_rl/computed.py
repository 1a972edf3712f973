"""Spellings that mean something only together with other keys, such as `trainer.accumulate_grad_batches`.

Each function gets the value as the user wrote it and a `Context`, and returns our keys with the values to
set. A ValueError says why it cannot be done.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

from hone.config.compat.nemo_rl.rules import swapped
from hone.config.kinds import section_of
from hone.config.nested import MISSING


class Context(Protocol):
    """What a computed spelling may look at."""

    section: str
    """The run's own section."""

    def ours(self, key: str) -> Any:
        """Our key's value as it stands, defaults included."""

    def written(self, key: str) -> Any:
        """The value of a key as the user spelled it, or MISSING."""

    def given(self, key: str) -> bool:
        """Whether the user gave our key, in any spelling, in the same layer or a later one."""


class Inert(Exception):
    """A computed spelling that sets nothing as the others stand, and why."""


Compute = Callable[[Any, Context], dict[str, Any]]
ONLINE = ("grpo", "ppo", "distillation")
"""Sections of the online loop: their batches count completions, which reward functions score."""


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"expected a number of {what}, at least 1")
    return value


def _accumulate(value: Any, context: Context) -> dict[str, Any]:
    """Global batch = micro-batch × accumulation × data-parallel devices, unless the global batch is given."""
    steps = _count(value, "micro-batches")
    if context.given("policy.train_global_batch_size"):
        raise Inert("policy.train_global_batch_size is given")
    devices = max(1, context.ours("cluster.gpus_per_node")) * context.ours("cluster.num_nodes")
    for kind in ("tensor", "context", "pipeline"):
        devices //= context.ours(f"policy.{kind}_parallel_size") or 1
    micro = context.ours("policy.train_micro_batch_size") or 1  # as Lightning has it
    return {"policy.train_global_batch_size": micro * steps * max(1, devices)}


def _accelerator(value: Any, context: Context) -> dict[str, Any]:
    if value in ("gpu", "cuda", "auto", "mps"):
        return {}
    if value == "cpu":
        return {"cluster.gpus_per_node": 0}
    raise ValueError("expected one of gpu, cuda, mps, cpu, auto")


def _limit_train(value: Any, context: Context) -> dict[str, Any]:
    """So many batches of each epoch."""
    if value == 1.0 and isinstance(value, float):
        return {}
    key = f"{context.section}.max_num_steps"
    epochs = context.ours(f"{context.section}.max_num_epochs") or 1
    steps, known = _count(value, "batches") * epochs, context.ours(key)
    return {key: steps if known is None else min(steps, known)}


def _limit_validation(value: Any, context: Context) -> dict[str, Any]:
    if value == 0:
        raise ValueError(f"to turn validation off set {context.section}.val_period=0 and val_at_start=false")
    whole = value == 1.0 and isinstance(value, float)
    if context.section not in ONLINE:
        return {f"{context.section}.val_batches": -1 if whole else _count(value, "batches")}
    batches = None if whole else _count(value, "batches") * context.ours(f"{context.section}.val_batch_size")
    return {f"{context.section}.max_val_samples": batches}


def batch_size(value: Any, context: Context) -> dict[str, Any]:
    """Sequences per step. In the online loop these are completions: prompts × completions of each."""
    size = _count(value, "sequences")
    result = {"policy.train_global_batch_size": size}
    prompts = f"{context.section}.num_prompts_per_step"
    if context.section in ONLINE and not context.given(prompts):
        group = context.ours(f"{context.section}.num_generations_per_prompt")
        if size % group:
            raise ValueError(f"is not a multiple of the {group} completions of each prompt")
        result[prompts] = size // group
    return result


def _lora_targets(value: Any, context: Context) -> dict[str, Any]:
    return {"policy.lora.target_modules": value, "policy.lora.match_all_linear": not value}


_SCHEMES: dict[Any, dict[str, bool]] = {
    None: {"enabled": False},
    "none": {"enabled": False},
    "lora": {"enabled": True},
    "dora": {"enabled": True, "use_dora": True},
    "qlora": {"enabled": True, "load_in_4bit": True},
}


def _peft_scheme(value: Any, context: Context) -> dict[str, Any]:
    scheme = _SCHEMES.get(value.lower() if isinstance(value, str) else value)
    if scheme is None:
        raise ValueError("only LoRA adapters are supported: expected one of lora, dora, qlora, none")
    return {f"policy.lora.{key}": on for key, on in scheme.items()}


def _reward_weight(which: str) -> Compute:
    def compute(value: Any, context: Context) -> dict[str, Any]:
        """Set the weight of the function in the list that it is about, or put it there."""
        functions = [
            {"name": entry} if isinstance(entry, str) else entry
            for entry in copy.deepcopy(context.ours("rewards.functions"))
        ]
        for entry in functions:
            is_format = "format" in (entry.get("name"), entry.get("path"))
            if is_format == (which == "format"):
                entry["weight"] = value
                break
        else:
            new = {"name": "format"} if which == "format" else {"name": "accuracy", "path": "math"}
            functions.insert(len(functions) if which == "format" else 0, {**new, "weight": value})
        return {"rewards.functions": functions}

    return compute


_LOOP: dict[str, tuple[tuple[str, ...], Compute]] = {
    "trainer.accelerator": (("cluster.gpus_per_node",), _accelerator),
    "trainer.accumulate_grad_batches": (("policy.train_global_batch_size",), _accumulate),
    "training.batch_size": (("policy.train_global_batch_size",), batch_size),
    "model.peft.peft_scheme": (("policy.lora.enabled",), _peft_scheme),
    "model.peft.lora_tuning.target_modules": (("policy.lora.target_modules",), _lora_targets),
}
_REWARDS: dict[str, tuple[tuple[str, ...], Compute]] = {
    "rewards.accuracy_weight": (("rewards.functions",), _reward_weight("accuracy")),
    "rewards.format_weight": (("rewards.functions",), _reward_weight("format")),
}


def computed(kind: str) -> dict[str, tuple[tuple[str, ...], Compute]]:
    """Computed spellings of a kind of run, by path."""
    loop = section_of(kind)
    limit = f"{loop}.max_val_samples" if loop in ONLINE else f"{loop}.val_batches"
    return {
        **_LOOP,
        "trainer.limit_train_batches": ((f"{loop}.max_num_steps",), _limit_train),
        "trainer.limit_val_batches": ((limit,), _limit_validation),
        **(_REWARDS if loop in ONLINE else {}),
    }


_MEGATRON = "policy.megatron_cfg"


def _written(context: Context, key: str, default: Any) -> Any:
    value = context.written(f"{_MEGATRON}.{key}")
    return default if value is MISSING or value is None else value


def _betas(value: Any, context: Context) -> dict[str, Any]:
    if _written(context, "optimizer.optimizer", "adam") != "adam":
        raise Inert("the optimizer is not Adam")
    betas = [_written(context, f"optimizer.adam_beta{n}", default) for n, default in ((1, 0.9), (2, 0.999))]
    return {"policy.optimizer.kwargs.betas": betas}


def _schedule(value: Any, context: Context) -> dict[str, Any]:
    """Megatron's warm-up and decay as a list of torch schedulers."""
    lr = context.ours("policy.optimizer.kwargs.lr")
    start, end = (_written(context, key, 0.0) for key in ("scheduler.lr_warmup_init", "optimizer.min_lr"))
    warm, total = (_written(context, f"scheduler.{key}", 0) for key in ("lr_warmup_iters", "lr_decay_iters"))
    style = _written(context, "scheduler.lr_decay_style", "constant")
    module = "torch.optim.lr_scheduler"
    if style == "constant":
        decay = {"name": f"{module}.ConstantLR", "kwargs": {"factor": 1.0, "total_iters": 10**10}}
    elif style == "cosine":
        decay = {
            "name": f"{module}.CosineAnnealingLR",
            "kwargs": {"T_max": max(1, total - warm), "eta_min": end},
        }
    elif style == "linear":
        kwargs = {"start_factor": 1.0, "end_factor": end / lr, "total_iters": max(1, total - warm)}
        decay = {"name": f"{module}.LinearLR", "kwargs": kwargs}
    else:
        raise ValueError("supported are constant, cosine and linear: write the schedule as policy.scheduler")
    if not warm:
        return {"policy.scheduler": None if style == "constant" else [decay]}
    ramp = {"start_factor": max(start / lr, 1e-8), "end_factor": 1.0, "total_iters": warm}
    phases = [{"name": f"{module}.LinearLR", "kwargs": ramp}, decay, {"milestones": [warm]}]
    return {"policy.scheduler": phases}


def megatron_computed() -> dict[str, tuple[tuple[str, ...], Compute]]:
    """Keys of `policy.megatron_cfg` that only mean something together."""
    betas, schedule = ("policy.optimizer.kwargs.betas",), ("policy.scheduler",)
    return {
        "optimizer.adam_beta1": (betas, _betas),
        "optimizer.adam_beta2": (betas, _betas),
        "optimizer.min_lr": (schedule, _schedule),
        "scheduler.lr_decay_style": (schedule, _schedule),
        "scheduler.lr_decay_iters": (schedule, _schedule),
        "scheduler.lr_warmup_iters": (schedule, _schedule),
        "scheduler.lr_warmup_init": (schedule, _schedule),
    }


class _ValueView:
    """A context in which the value model's section stands in the policy's place."""

    def __init__(self, context: Context) -> None:
        self._context, self.section = context, context.section

    def ours(self, key: str) -> Any:
        return self._context.ours(swapped(key))

    def written(self, key: str) -> Any:
        return self._context.written(swapped(key))

    def given(self, key: str) -> bool:
        return self._context.given(swapped(key))


def compute_of_value(compute: Compute) -> Compute:
    """A computed spelling of the policy's, for the value model."""

    def of_value(value: Any, context: Context) -> dict[str, Any]:
        return {swapped(key): result for key, result in compute(value, _ValueView(context)).items()}

    return of_value
