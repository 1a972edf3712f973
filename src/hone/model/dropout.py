"""Dropout: turned off, or with masks that depend on the sample alone.

Masks from a generator's state would differ between micro-batch layouts, and between training and the forward for old
log-probabilities. Here whether an element is dropped is a hash of its token's key (`keys_BT`), the number of dropouts
before it in the forward, and its index in the token's vector, so that every forward of a sample drops the same.

Shapes: `_BT` rows and tokens of a forward.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig

from hone.errors import ModelError
from hone.model.counter_rng import counted, mixed

BITS = 24
READ_FROM_CONFIG = ("falcon", "persimmon", "blt")
"""Architectures whose forward reads some of its rates from the config."""
_active: list[SampleDropout] = []


def is_on(model: nn.Module) -> bool:
    """Whether any dropout is on, adapters' included."""
    return next(_places(model), None) is not None


def turn_off(model: nn.Module) -> None:
    """Set all rates to 0; in the model's config, which documents its pretraining, only those that the forward reads."""
    for holder, attribute in list(_places(model)):
        setattr(holder, attribute, 0.0)


def _places(model: nn.Module) -> Iterator[tuple[Any, str]]:
    """Holder and attribute of each dropout rate above 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            if module.p > 0:
                yield module, "p"
            continue
        for attribute, value in vars(module).items():
            if "drop" in attribute and type(value) is float and value > 0:
                yield module, attribute
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) in READ_FROM_CONFIG:
        for key in configured(config):
            yield config, key


def configured(config: PreTrainedConfig) -> dict[str, float]:
    """A language model's dropout rates in its config, without those of other heads."""
    found = {}
    for key, value in vars(config.get_text_config()).items():
        named = key.endswith(("dropout", "pdrop")) and not key.startswith(("classifier", "summary"))
        if named and isinstance(value, int | float) and value > 0:
            found[key] = float(value)
    return found


def notice(config: PreTrainedConfig, *, off: bool, part: str) -> list[str]:
    """A notice about the dropout in a model's config."""
    if not (found := configured(config)):
        return []
    shown = ", ".join(f"{key} {rate:g}" for key, rate in sorted(found.items()))
    if off:
        return [f"{part}.disable_dropout=true: the model's own dropout ({shown}) is off"]
    return [f"the model's own dropout ({shown}) is on; {part}.disable_dropout=true turns it off"]


class SampleDropout(TorchFunctionMode):
    """A context in which PyTorch's dropout uses the keys of the forward's tokens, `keys_BT` (int64)."""

    def __init__(self, keys_BT: Tensor, counts: dict[float, int] | None = None) -> None:
        super().__init__()
        self.keys_BT = keys_BT
        self.counts = counts or {}
        """Number of dropouts so far by rate, so that adapters' dropouts do not change the model's own."""

    def __enter__(self) -> SampleDropout:
        super().__enter__()
        _active.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _active.remove(self)
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **given)
        if func is functional.scaled_dot_product_attention and given.get("dropout_p"):
            return self._attention(*args, **given)
        return func(*args, **given)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return input * self._kept(input.shape, p).to(input.dtype) / (1 - p) if training and p else input

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._dropout(scores.softmax(-1, dtype=torch.float32).to(value.dtype), dropout_p) @ value

    def _kept(self, shape: torch.Size, rate: float) -> Tensor:
        """The mask of the elements that are kept."""
        number = self.counts[rate] = self.counts.get(rate, 0) + 1
        keys_BT, length = mixed(self.keys_BT + number), self.keys_BT.shape[1]
        if len(shape) == 4 and shape[2:] == (length, length):  # attention weights: by query, key and head
            keys = (keys_BT[:, :, None] ^ mixed(keys_BT)[:, None, :])[:, None]
            element = torch.arange(shape[1], device=keys.device)[:, None, None]
        elif shape[:2] == keys_BT.shape or shape[:1] == (keys_BT.numel(),):
            rest = shape[2:] if shape[:2] == keys_BT.shape else shape[1:]
            keys = keys_BT.reshape(*shape[: len(shape) - len(rest)], *(1 for _ in rest))
            element = torch.arange(math.prod(rest), device=keys.device).reshape(rest)
        else:
            raise ModelError(
                f"dropout of a tensor of shape {list(shape)}, which does not have one vector per token: set "
                "policy.disable_dropout=true and policy.lora.dropout=0"
            )
        bits = (counted(keys, element) >> 40) & ((1 << BITS) - 1)
        return bits >= round(rate * (1 << BITS))


def of_samples(keys_BT: Tensor | None) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward with these keys; None: no dropout."""
    return SampleDropout(keys_BT) if keys_BT is not None else contextlib.nullcontext()


def recomputing() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    """The contexts of an activation checkpoint's forward and of its recomputation, which has the same masks."""
    again = SampleDropout(_active[-1].keys_BT, dict(_active[-1].counts)) if _active else None
    return contextlib.nullcontext(), again or contextlib.nullcontext()
