"""The balancing loss of a mixture of experts (Switch Transformer, arXiv 2101.03961, equations 4 to 6).

    loss = E * sum over experts e of f_e P_e
    f_e: choices of expert e, P_e: the router's mean probability of e; both over the tokens of all layers

Both are counted over the whole global batch; f_e, which has no gradient, in a forward before the backward. A token
counts once for each sample that contains it, so that sharing a prompt changes nothing. Padding does not count.
Shapes: `_T` tokens of a forward, `_E` experts, `_TE` both.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hone.errors import ConfigError
from hone.model.adapters import base_of


def coefficient_of(config: PreTrainedConfig, asked: float | None) -> float:
    """The weight of the loss: `asked`, else the model's own if its config turns the loss on."""
    if asked is not None:
        return asked
    text = config.get_text_config()
    on = getattr(text, "output_router_logits", False)
    return float(getattr(text, "router_aux_loss_coef", 0.0) or 0.0) if on else 0.0


def notice(config: PreTrainedConfig, asked: float | None, *, part: str) -> list[str]:
    """A notice about a balancing loss that has a weight in the model's config, and is off."""
    own = float(getattr(config.get_text_config(), "router_aux_loss_coef", 0.0) or 0.0)
    if asked is not None or not own or coefficient_of(config, asked):
        return []
    return [
        f"the router's balancing loss is off, as the model's output_router_logits is: "
        f"{part}.router_aux_loss_coef={own:g} turns it on with the model's weight"
    ]


class Balance:
    """The balancing loss of a model's routers. Raises ConfigError, which names `part`'s setting, for a model whose
    router logits cannot be read."""

    def __init__(self, model: PreTrainedModel, coefficient: float, part: str) -> None:
        base = base_of(model)
        text = base.config.get_text_config()
        recorder = _recorder(base)
        experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
        chosen = getattr(text, "num_experts_per_tok", None)
        if recorder is None or not experts or not chosen:
            raise ConfigError(
                f"{part}.router_aux_loss_coef={coefficient:g}: {text.model_type} models have no balancing loss; set it "
                "to 0"
            )
        self.coefficient, self.experts, self.chosen = coefficient, int(experts), int(chosen)
        self.recorded: list[Tensor] | None = None
        """Collects the router logits of a forward."""
        self._index = recorder.index
        for module in base.modules():
            if isinstance(module, recorder.target_class):
                module.register_forward_hook(self._record)

    def _record(self, router: nn.Module, given: Any, output: Any) -> None:
        if self.recorded is not None:
            self.recorded.append(output[self._index] if isinstance(output, tuple) else output)

    def counts(self, logits: Sequence[Tensor], weights_T: Tensor) -> Tensor:
        """How often each expert was chosen, and last the number of tokens, both over all layers: [E + 1]."""
        counts = torch.zeros(self.experts + 1, device=weights_T.device, dtype=torch.float64)
        for logits_TE in logits:
            chosen = logits_TE.float().softmax(-1).topk(self.chosen, dim=-1).indices
            counts.index_add_(0, chosen.flatten(), weights_T.double().repeat_interleave(self.chosen))
            counts[-1] += weights_T.double().sum()
        return counts

    def part(self, logits: Sequence[Tensor], weights_T: Tensor, counts: Tensor) -> Tensor:
        """This forward's part of the loss of a global batch with these `counts`."""
        share_E = (counts[:-1] / counts[-1] * (self.experts / counts[-1])).float()
        weights_T1 = weights_T.float()[:, None]
        parts = [((each.float().softmax(-1) * weights_T1).sum(0) * share_E).sum() for each in logits]
        return torch.stack(parts).sum()


@contextlib.contextmanager
def recorded_router_logits(balance: Balance | None) -> Iterator[list[Tensor]]:
    """Collect the router logits of the forwards in the block, layer by layer: [tokens, E]; none without a loss."""
    recorded: list[Tensor] = []
    if balance is not None:
        balance.recorded = recorded
    try:
        yield recorded
    finally:
        if balance is not None:
            balance.recorded = None


def _recorder(model: PreTrainedModel) -> Any:
    """How `transformers` reads the logits of a model's routers, where it has a balancing loss of them."""
    if not hasattr(sys.modules[type(model).__module__], "load_balancing_loss_func"):
        return None
    for module in model.modules():
        found = (getattr(module, "_can_record_outputs", None) or {}).get("router_logits")
        if found is not None and not isinstance(found, list) and getattr(found, "layer_name", None) is None:
            return found if hasattr(found, "target_class") else None
    return None
