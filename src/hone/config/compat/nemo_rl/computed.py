"""Keys of NeMo RL and NeMo whose meaning depends on other keys, such as `trainer.accumulate_grad_batches`.

Each function gets the value as the user wrote it and a `Context`, and returns the Hone keys to set.
"""

from __future__ import annotations

import copy
from typing import Any

from hone.config.alias import Alias, Compute, Context, NoEffect, count
from hone.config.nested import MISSING
from hone.config.short_names import batch_size

Computed = dict[str, tuple[tuple[str, ...], Compute]]
"""By path: the keys that the alias sets (for documentation), and the function that computes them."""
GLOBAL_BATCH = "policy.train_global_batch_size"


def _accumulate(value: Any, context: Context) -> dict[str, Any]:
    """Global batch = micro-batch × accumulation × data-parallel devices. Raises NoEffect if the global batch is
    given."""
    steps = count(value, "micro-batches")
    if context.given(GLOBAL_BATCH):
        raise NoEffect(f"{GLOBAL_BATCH} is given")
    devices = max(1, context.ours("cluster.gpus_per_node")) * context.ours("cluster.num_nodes")
    for dimension in ("tensor", "context", "pipeline"):
        devices //= context.ours(f"policy.{dimension}_parallel_size") or 1
    micro = context.ours("policy.train_micro_batch_size") or 1  # Lightning's default
    return {GLOBAL_BATCH: micro * steps * max(1, devices)}


def _accelerator(value: Any, context: Context) -> dict[str, Any]:
    if value in ("gpu", "cuda", "auto", "mps"):
        return {}
    if value == "cpu":
        return {"cluster.gpus_per_node": 0}
    raise ValueError("expected one of gpu, cuda, mps, cpu, auto")


def _is_all(value: Any) -> bool:
    """Whether Lightning reads the number as the whole epoch: 1.0 is a share, 1 a number of batches."""
    return isinstance(value, float) and value == 1.0


def _limit_train(value: Any, context: Context) -> dict[str, Any]:
    """A maximum of batches per epoch, as a maximum of steps."""
    if _is_all(value):
        return {}
    key = f"{context.section}.max_num_steps"
    epochs = context.ours(f"{context.section}.max_num_epochs") or 1
    steps, known = count(value, "batches") * epochs, context.ours(key)
    return {key: steps if known is None else min(steps, known)}


def _limit_validation(value: Any, context: Context) -> dict[str, Any]:
    if value == 0:
        raise ValueError(f"to turn validation off set {context.section}.val_period=0 and val_at_start=false")
    batches = None if _is_all(value) else count(value, "batches")
    size = context.ours(f"{context.section}.val_batch_size")
    if size is None:  # the supervised loop counts batches, the online loop prompts
        return {f"{context.section}.val_batches": -1 if batches is None else batches}
    return {f"{context.section}.max_val_samples": None if batches is None else batches * size}


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
    """Sets the weight of the reward function `which` in the list, or adds the function."""

    def compute(value: Any, context: Context) -> dict[str, Any]:
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


def computed(section: str, *, online: bool) -> Computed:
    """Computed aliases of a training command, by path."""
    limit = f"{section}.max_val_samples" if online else f"{section}.val_batches"
    rewards: Computed = {
        f"rewards.{which}_weight": (("rewards.functions",), _reward_weight(which))
        for which in ("accuracy", "format")
    }
    return {
        "trainer.accelerator": (("cluster.gpus_per_node",), _accelerator),
        "trainer.accumulate_grad_batches": ((GLOBAL_BATCH,), _accumulate),
        "trainer.limit_train_batches": ((f"{section}.max_num_steps",), _limit_train),
        "trainer.limit_val_batches": ((limit,), _limit_validation),
        "training.batch_size": ((GLOBAL_BATCH,), batch_size),
        "model.peft.peft_scheme": (("policy.lora.enabled",), _peft_scheme),
        "model.peft.lora_tuning.target_modules": (("policy.lora.target_modules",), _lora_targets),
        **(rewards if online else {}),
    }


def asynchronous(section: str) -> list[Alias]:
    """`grpo.async_grpo`: rollouts one step ahead; older ones, and updates in flight, need a stream of them."""
    head, ours = f"{section}.async_{section}", f"{section}.async_rollouts"

    def mode(value: Any, context: Context) -> dict[str, Any]:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        age, in_flight = (
            context.written(f"{head}.{key}")
            for key in ("max_trajectory_age_steps", "in_flight_weight_updates")
        )
        streams = in_flight is True or age not in (MISSING, None, 1)
        return {ours: ("stream" if streams else "lookahead") if value else None}

    def check_enabled(value: Any, context: Context) -> None:
        if value and context.written(f"{head}.enabled") is not True:
            raise NoEffect(f"{head}.enabled is off")

    def age(value: Any, context: Context) -> dict[str, Any]:
        check_enabled(value, context)
        return {f"{section}.max_staleness": value}

    def in_flight(value: Any, context: Context) -> dict[str, Any]:
        check_enabled(value, context)
        return {}

    return [
        Alias(f"{head}.enabled", (ours,), compute=mode),
        Alias(f"{head}.in_flight_weight_updates", (ours,), compute=in_flight),
        Alias(f"{head}.max_trajectory_age_steps", (f"{section}.max_staleness",), compute=age),
    ]


def _written(context: Context, key: str, default: Any) -> Any:
    value = context.written(f"policy.megatron_cfg.{key}")
    return default if value is MISSING or value is None else value


def _betas(value: Any, context: Context) -> dict[str, Any]:
    if _written(context, "optimizer.optimizer", "adam") != "adam":
        raise NoEffect("the optimizer is not Adam")
    betas = [_written(context, f"optimizer.adam_beta{n}", default) for n, default in ((1, 0.9), (2, 0.999))]
    return {"policy.optimizer.kwargs.betas": betas}


def _schedule(value: Any, context: Context) -> dict[str, Any]:
    """Megatron's warm-up and decay as a list of PyTorch schedulers."""
    lr = context.ours("policy.optimizer.kwargs.lr")
    start, end = (_written(context, key, 0.0) for key in ("scheduler.lr_warmup_init", "optimizer.min_lr"))
    warm, total = (_written(context, f"scheduler.{key}", 0) for key in ("lr_warmup_iters", "lr_decay_iters"))
    style, steps = _written(context, "scheduler.lr_decay_style", "constant"), max(1, total - warm)
    kwargs: dict[str, Any]
    if style == "constant":
        name, kwargs = "ConstantLR", {"factor": 1.0, "total_iters": 10**10}
    elif style == "cosine":
        name, kwargs = "CosineAnnealingLR", {"T_max": steps, "eta_min": end}
    elif style == "linear":
        name, kwargs = "LinearLR", {"start_factor": 1.0, "end_factor": end / lr, "total_iters": steps}
    else:
        raise ValueError("supported are constant, cosine and linear: write the schedule as policy.scheduler")
    module = "torch.optim.lr_scheduler"
    decay = {"name": f"{module}.{name}", "kwargs": kwargs}
    if not warm:
        return {"policy.scheduler": None if style == "constant" else [decay]}
    ramp = {"start_factor": max(start / lr, 1e-8), "end_factor": 1.0, "total_iters": warm}
    return {
        "policy.scheduler": [{"name": f"{module}.LinearLR", "kwargs": ramp}, decay, {"milestones": [warm]}]
    }


def megatron_computed() -> Computed:
    """Keys of `policy.megatron_cfg` whose meaning depends on each other."""
    return {
        **dict.fromkeys(
            ("optimizer.adam_beta1", "optimizer.adam_beta2"), (("policy.optimizer.kwargs.betas",), _betas)
        ),
        **dict.fromkeys(
            (
                "optimizer.min_lr",
                *(f"scheduler.{key}" for key in ("lr_decay_style", "lr_decay_iters")),
                *(f"scheduler.{key}" for key in ("lr_warmup_iters", "lr_warmup_init")),
            ),
            (("policy.scheduler",), _schedule),
        ),
    }
