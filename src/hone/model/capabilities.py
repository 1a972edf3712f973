"""A model's capabilities, found by comparing the results of short forwards. Shapes in comments: B rows, T tokens, H
hidden."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.model.adapters import base_of
from hone.model.attention import has_chunks, has_full_attention
from hone.model.quantized import is_quantized
from hone.model.scalar_head import check_scores, is_scalar

PROBE_LOGIT = 200.0
"""Size of the logits at which a model's head is compared with a plain linear one."""


@dataclass(frozen=True)
class Capabilities:
    """All capabilities, for ranks whose model has no weights to test."""

    head_is_plain: bool
    supports_packing: bool
    supports_shared_prefix: bool


def capabilities_of(model: PreTrainedModel) -> Capabilities:
    """Test a model. Raises ModelError for a scalar head that cannot be applied to single positions, and for a model
    that is not causal."""
    check_causal(model)
    plain = head_is_plain(model)
    return Capabilities(plain, supports_packing(model), supports_shared_prefix(model))


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Last hidden states [B, T, H], which the head would be applied to."""
    return decoder_of(model)(
        input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The model without its head. For some classes (Llama 4's text model) `get_decoder` returns the whole model."""
    decoder = model.get_decoder()
    return base_of(model).model if decoder is base_of(model) else decoder


@torch.no_grad()
def check_causal(model: PreTrainedModel) -> None:
    """Raise ModelError for a model whose tokens attend to later ones, such as BERT. Tested with fp32 weights only: in
    lower precision, rows of different lengths differ by rounding."""
    if is_scalar(model) or is_quantized(model) or model.dtype != torch.float32:
        return
    text = _probe(model, 6)
    with _evaluating(model):
        longer, shorter = hidden_states(model, text)[:, :3], hidden_states(model, text[:, :3])
    if torch.isfinite(longer).all() and torch.isfinite(shorter).all() and not _agree(longer, shorter):
        raise ModelError(
            f"{model.config.model_type} models attend to later tokens, so they cannot learn to continue a text: choose "
            "a causal language model"
        )


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Whether the logits are a plain linear map of the last hidden states.

    Compared with the model's own logits for an input scaled up until logits are large: at the small logits of fresh
    weights a soft cap is the identity up to rounding. A scalar head is never plain; raises ModelError for one whose
    score is not that of the last token alone."""
    if is_scalar(model):
        text, longer = _probe(model, 4), _probe(model, 6)
        with _evaluating(model):
            check_scores(model, text, hidden_states(model, text), hidden_states(model, longer))
        return False
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return False
    given: list[Tensor] = []

    def scale_up(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        largest = (args[0] @ head.weight.t()).abs().max()
        given.extend((args[0], args[0] * (PROBE_LOGIT / largest.clamp(min=1e-6))))
        return (given[-1], *args[1:])

    probe = _probe(model, 4)
    hook = head.register_forward_pre_hook(scale_up)
    try:
        with _evaluating(model):
            hidden = hidden_states(model, probe)
            theirs = model(input_ids=probe, use_cache=False).logits
    finally:
        hook.remove()
    if len(given) != 2 or hidden.shape != given[0].shape:
        return False
    same_input = torch.allclose(hidden, given[0], rtol=1e-4, atol=1e-4)
    return same_input and torch.allclose(
        given[1] @ head.weight.t(), theirs, rtol=1e-3, atol=1e-3 * PROBE_LOGIT
    )


@torch.no_grad()
def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a sequence packed behind another has the hidden states that it has alone.

    Attention finds the boundaries from the positions; recurrent layers do not. Attention chunks are counted from the
    start of the row and not of the sequence, which only shows at lengths beyond this test."""
    if has_chunks(model.config):
        return False
    first, second = _probe(model, 5)[:, :3], _probe(model, 9)[:, 5:]
    positions = torch.tensor([[*range(first.shape[1]), *range(second.shape[1])]], device=first.device)
    with _evaluating(model):
        alone = hidden_states(model, second)
        packed = hidden_states(model, torch.cat([first, second], dim=1), positions)[:, first.shape[1] :]
    return _agree(alone, packed)


@torch.no_grad()
def supports_shared_prefix(model: PreTrainedModel) -> bool:
    """Whether two completions behind one prompt have the hidden states that each has with its own copy of the prompt.

    False without full attention: a window only shows at lengths beyond this test.
    """
    if not has_full_attention(model.config) or "sdpa" not in model.config._attn_implementation:
        return False
    prompt, first, second = _probe(model, 9).split(3, dim=1)
    segments = torch.tensor([[0] * 3 + [1] * 3 + [2] * 3], device=prompt.device)
    key, query = segments[:, None, :], segments[:, :, None]
    mask = ((key == query) | (key == 0)).tril()[:, None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4, 5]], device=prompt.device)
    with _evaluating(model):
        alone = hidden_states(model, torch.cat([prompt, second], dim=1))[:, 3:]
        shared = hidden_states(model, torch.cat([prompt, first, second], dim=1), positions, mask)[:, 6:]
    return _agree(alone, shared)


def _probe(model: PreTrainedModel, length: int) -> Tensor:
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(length, device=model.device)[None] % vocabulary


def _agree(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding; false for values that are not finite, which the loss will report."""
    largest = float(one.abs().max())
    return math.isfinite(largest) and torch.allclose(one, other, rtol=1e-3, atol=1e-3 * largest)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
