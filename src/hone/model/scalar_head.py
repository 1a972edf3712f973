"""Models with a scalar head, one number for each position: reward models and value models.

Each is a `transformers` `AutoModelForSequenceClassification` with `num_labels=1`, which loads what is trained here. Its
head is applied to the hidden states of chosen positions; that this is the model's own score of the text up to there is
tested once. Shapes: `_N` chosen positions.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hone.errors import ModelError

CLASS = "ForSequenceClassification"


def is_scalar(model: nn.Module) -> bool:
    """Whether a model, under adapters or not, is a sequence classifier."""
    return type(_bare(model)).__name__.endswith(CLASS)


def has_scalar_head(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint's config says that it holds a sequence classifier."""
    return any(name.endswith(CLASS) for name in config.architectures or ())


def check_head(name: str, config: PreTrainedConfig, *, scalar: bool, fresh: bool = True) -> None:
    """Raise ModelError for a checkpoint with another head than is wanted, by its config alone. `scalar`: a scalar
    head, which is new (`fresh`) if the checkpoint has none; else logits."""
    kind = ", ".join(config.architectures or ()) or config.model_type
    if not scalar:
        if has_scalar_head(config):
            raise ModelError(
                f"{name} is a {kind}: it scores texts and cannot write any. Name a causal language model"
            )
        return
    if has_scalar_head(config):
        if config.num_labels != 1:
            raise ModelError(
                f"{name} is a {kind} with num_labels={config.num_labels}: a reward model has one. Name another, or a "
                "causal language model, which gets a new head"
            )
    elif not fresh:
        raise ModelError(
            f"{name} is a {kind}, not a reward model: name an AutoModelForSequenceClassification with num_labels=1, "
            "such as `hone convert` writes for a trained reward model"
        )
    elif "For" in kind and "CausalLM" not in kind:
        raise ModelError(
            f"{name} is a {kind}: name a reward model (AutoModelForSequenceClassification with num_labels=1), or a "
            "causal language model to give a new head"
        )


def head_of(model: nn.Module) -> nn.Module:
    """The module that turns a hidden state into the score. Raises ModelError where there is not exactly one."""
    bare = _bare(model)
    others = (part for part in bare.children() if part is not bare.base_model)
    heads = [part for part in others if next(part.parameters(), None) is not None]
    if len(heads) != 1:
        raise ModelError(f"{type(bare).__name__} has {len(heads)} modules beside its body: {_UNUSABLE}")
    return heads[0]


def head_name(model: PreTrainedModel) -> str:
    """The architecture's name of the head, such as `score`."""
    head = head_of(model)
    return next(name for name, part in model.named_children() if part is head)


def values(model: nn.Module, hidden_N: Tensor) -> Tensor:
    """The head's value for each hidden state, [N, H] -> [N]; always in fp32, so that close scores stay distinct."""
    with torch.autocast(hidden_N.device.type, enabled=False):
        return head_of(model)(hidden_N.float()).squeeze(-1)


@torch.no_grad()
def check_scores(model: PreTrainedModel, ids: Tensor, hidden: Tensor, longer: Tensor) -> None:
    """Raise ModelError unless the model's own score of a text is its head's value at the text's last token.

    `ids` [1, T] with hidden states [1, T, H]; `longer`: those of a text that begins with `ids`, to find bodies that are
    not causal.
    """
    config = cast(Any, _bare(model)).config.get_text_config()
    pad, config.pad_token_id = config.pad_token_id, None
    try:
        own = model(input_ids=ids, use_cache=False).logits
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{type(_bare(model)).__name__} cannot score a text: {error}; {_UNUSABLE}"
        ) from error
    finally:
        config.pad_token_id = pad
    read = values(model, torch.stack([hidden[0, -1], longer[0, ids.shape[1] - 1]]))
    if own.shape != (1, 1) or not torch.allclose(own.float().expand(2, 1)[:, 0], read, rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"{type(_bare(model)).__name__}: its score is not read off its last token; {_UNUSABLE}"
        )


_UNUSABLE = "use a decoder whose sequence classifier has one linear head, such as a Llama's or a Qwen3's"


def _bare(model: nn.Module) -> nn.Module:
    """The model below adapters."""
    below = getattr(model, "get_base_model", None)
    return below() if below is not None else model
