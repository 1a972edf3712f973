"""Log-probabilities of target tokens without the logits of all the others.

The language-model head is applied to the hidden states of target positions only, in chunks of rows, and the
probabilities of a chunk are the only [rows, vocabulary] tensor that lives. Backward either keeps them (small
vocabularies) or computes them again chunk by chunk: memory is then one chunk, at the price of one more matmul.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.model.attention import has_full_attention

CHUNK_ELEMENTS = 1 << 22
"""Logits computed at once (16 MiB in fp32: stays near the cache of a CPU, keeps a GPU busy)."""
KEEP_ELEMENTS = 1 << 26
"""Up to this many probabilities are kept for backward (256 MiB in fp32) and not computed again."""

PROBE_LOGIT = 200.0
"""Size of the logits at which a model's head is compared with a plain linear one."""


class _LinearLogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T / temperature)[target], one row at a time of `hidden` [N, H]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int, keep: bool
    ) -> Tensor:
        results, normalisers, kept = [], [], []
        for start in range(0, hidden.shape[0], chunk):
            logits = _logits(hidden[start : start + chunk], weight, temperature)
            normaliser = logits.logsumexp(-1)
            picked = logits.gather(1, targets[start : start + chunk, None]).squeeze(1)
            results.append(picked - normaliser)
            normalisers.append(normaliser)
            if keep:
                kept.append(logits.sub_(normaliser[:, None]).exp_())
        ctx.temperature, ctx.chunk, ctx.kept = temperature, chunk, kept
        none = hidden.new_empty(0, dtype=torch.float32)  # a micro-batch may have no target at all
        ctx.save_for_backward(hidden, weight, targets, torch.cat([none, *normalisers]))
        return torch.cat([none, *results])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        hidden, weight, targets, normalisers = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for index, start in enumerate(range(0, hidden.shape[0], ctx.chunk)):
            rows = slice(start, start + ctx.chunk)
            if ctx.kept:
                probabilities = ctx.kept[index]
            else:
                logits = _logits(hidden[rows], weight, ctx.temperature)
                probabilities = logits.sub_(normalisers[rows, None]).exp_()
            scaled = grad[rows] / ctx.temperature
            grad_logits = probabilities.mul_(-scaled[:, None])
            grad_logits.scatter_add_(1, targets[rows, None], scaled[:, None])
            grad_logits = grad_logits.to(hidden.dtype)
            grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.t() @ hidden[rows]
        ctx.kept = []
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
            None,
            None,
        )


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.t()).float()
    return logits.div_(temperature) if temperature != 1.0 else logits


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_rows: int | None = None,
) -> Tensor:
    """log softmax(hidden @ weight.T / temperature) at `targets`: [N, H], [V, H], [N] -> [N] in fp32.

    Under autocast the products are in its precision, in backward too, where autocast itself is off: probabilities
    that are computed again are then those of the forward. `chunk_rows` bounds memory; None chooses.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    elements = hidden.shape[0] * weight.shape[0]
    chunk = chunk_rows or max(1, CHUNK_ELEMENTS // weight.shape[0])
    keep = torch.is_grad_enabled() and chunk_rows is None and elements <= KEEP_ELEMENTS
    return _LinearLogProbs.apply(hidden, weight.to(hidden.dtype), targets, temperature, chunk, keep)


class TokenScorer(nn.Module):
    """A model's log-probabilities at chosen positions.

    Where the model's logits are a plain linear map of its last hidden state (checked once, by comparing with the
    model's own), `linear_logprobs` is used. Any other head (soft-capped, scaled) goes through the model's own
    logits.
    """

    def __init__(
        self, model: PreTrainedModel, *, temperature: float = 1.0, chunk_rows: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature if temperature > 0 else 1.0
        self.chunk_rows = chunk_rows
        self.plain_head = self._head_is_plain()

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        at_N: Tensor,
        targets_N: Tensor,
        *,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Log-probability of `targets_N`, each predicted from flat position `at_N` of `input_ids` [B, T]. -> [N] fp32.

        Rows are right-padded (causal attention never looks at what follows), or, with `position_ids` that start
        again at 0, several sequences packed into a row that do not see each other. `attention_mask` [B, 1, T, T]
        (True: sees) goes beyond both.
        """
        if not self.plain_head:
            logits = self.model(
                input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask, use_cache=False
            ).logits
            picked = logits.flatten(0, 1)[at_N].float() / self.temperature
            return picked.log_softmax(-1).gather(1, targets_N[:, None]).squeeze(1)
        hidden = self._hidden(input_ids, position_ids, attention_mask).flatten(0, 1)[at_N]
        weight = self.model.get_output_embeddings().weight
        return linear_logprobs(
            hidden, weight, targets_N, temperature=self.temperature, chunk_rows=self.chunk_rows
        )

    def _hidden(
        self, input_ids: Tensor, position_ids: Tensor | None, attention_mask: Tensor | None = None
    ) -> Tensor:
        return self.model.get_decoder()(
            input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Compare with the model's own logits, the head's input scaled up until logits are large.

        At the small logits of fresh weights a soft cap is the identity to the last digits.
        """
        head = self.model.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.bias is not None:
            return False
        given: list[Tensor] = []

        def scale_up(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            largest = (args[0] @ head.weight.t()).abs().max()
            given.extend((args[0], args[0] * (PROBE_LOGIT / largest.clamp(min=1e-6))))
            return (given[-1], *args[1:])

        probe = self._probe(4)
        hook = head.register_forward_pre_hook(scale_up)
        try:
            with _evaluating(self.model):
                hidden = self._hidden(probe, None)
                theirs = self.model(input_ids=probe, use_cache=False).logits
        finally:
            hook.remove()
        if len(given) != 2 or hidden.shape != given[0].shape:
            return False
        same_input = torch.allclose(hidden, given[0], rtol=1e-4, atol=1e-4)
        return same_input and torch.allclose(
            given[1] @ head.weight.t(), theirs, rtol=1e-3, atol=1e-3 * PROBE_LOGIT
        )

    @torch.no_grad()
    def keeps_packed_apart(self) -> bool:
        """Whether a sequence packed behind another has the hidden states that it has alone.

        Attention reads the borders from the positions; recurrent layers, for one, do not.
        """
        first, second = self._probe(5)[:, :3], self._probe(9)[:, 5:]
        positions = torch.tensor([[*range(first.shape[1]), *range(second.shape[1])]], device=first.device)
        with _evaluating(self.model):
            alone = self._hidden(second, None)
            packed = self._hidden(torch.cat([first, second], dim=1), positions)[:, first.shape[1] :]
        return _agree(alone, packed)

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether two completions behind one prompt have the hidden states that each has with a prompt of its own.

        Asked of models with full attention alone: a window would show at lengths that no quick check has.
        """
        if not has_full_attention(self.model.config) or "sdpa" not in self.model.config._attn_implementation:
            return False
        prompt, first, second = self._probe(9).split(3, dim=1)
        segments = torch.tensor([[0] * 3 + [1] * 3 + [2] * 3], device=prompt.device)
        key, query = segments[:, None, :], segments[:, :, None]
        mask = ((key == query) | (key == 0)).tril()[:, None]
        positions = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4, 5]], device=prompt.device)
        with torch.no_grad(), _evaluating(self.model):
            alone = self._hidden(torch.cat([prompt, second], dim=1), None)[:, 3:]
            shared = self._hidden(torch.cat([prompt, first, second], dim=1), positions, mask)[:, 6:]
        return _agree(alone, shared)

    def _probe(self, length: int) -> Tensor:
        vocabulary = self.model.config.get_text_config().vocab_size
        return torch.arange(length, device=self.model.device)[None] % vocabulary


def _agree(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding; false where a number is not finite, which the loss will report."""
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
