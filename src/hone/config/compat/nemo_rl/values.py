"""What values of accepted spellings mean in ours. Each function translates, or raises ValueError with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Translate = Callable[[Any], Any]


def choice(what: str, meanings: dict[Any, Any]) -> Translate:
    """One of the names; case does not matter."""

    def translate(value: Any) -> Any:
        key = value.lower() if isinstance(value, str) else value
        if isinstance(key, bool) or key not in meanings:
            raise ValueError(f"{what} {', '.join(str(name) for name in meanings)}")
        return meanings[key]

    return translate


PRECISION = choice(
    "expected one of",
    {32: "float32", "32": "float32", "32-true": "float32", "fp32": "float32", "float32": "float32"}
    | dict.fromkeys(("bf16", "bf16-mixed", "bf16-true", "bfloat16"), "bfloat16")
    | dict.fromkeys((16, "16", "16-mixed", "16-true", "fp16", "float16"), "float16"),
)
_OPTIMIZERS = {
    "adamw": "torch.optim.AdamW",
    "fused_adam": "torch.optim.AdamW",
    "distributed_fused_adam": "torch.optim.AdamW",
    "adam": "torch.optim.Adam",
    "sgd": "torch.optim.SGD",
    "adagrad": "torch.optim.Adagrad",
    "adafactor": "torch.optim.Adafactor",
    "rmsprop": "torch.optim.RMSprop",
    "nadam": "torch.optim.NAdam",
    "radam": "torch.optim.RAdam",
}


def optimizer_class(value: Any) -> Any:
    """A dotted name as it is, a short name as torch's class."""
    if isinstance(value, str) and "." in value:
        return value
    return choice("expected a dotted name such as torch.optim.AdamW, or one of", _OPTIMIZERS)(value)


def whole_period(value: Any) -> Any:
    """A number of steps; not a share of an epoch."""
    if isinstance(value, float):
        raise ValueError("a share of an epoch is not supported: give a number of steps")
    return value


def count_of_devices(value: Any) -> Any:
    """How many GPUs a list, or a number in quotes, names."""
    if isinstance(value, list):
        return len(value)
    if isinstance(value, str) and value.isdigit():
        return int(value)
    if value in (-1, "auto"):
        raise ValueError("say how many GPUs each machine has")
    return value


def all_is_null(value: Any) -> Any:
    """-1 means all."""
    return None if value == -1 else value


def only_file(value: Any) -> Any:
    """A file, or a list of one."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    if isinstance(value, list):
        raise ValueError("for several files give data.train as a list of entries {dataset_name, weight}")
    return value


LORA_INIT_METHOD = choice("expected one of", {"xavier": "xavier", "kaiming": "kaiming"})
"""How upstream begins the first factor."""


def megatron_optimizer(value: Any) -> Any:
    """The class behind Megatron's name of an optimizer."""
    return choice("expected one of", {"adam": "torch.optim.AdamW", "sgd": "torch.optim.SGD"})(value)
