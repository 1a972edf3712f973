"""Log-probabilities of target tokens without the logits of all the others.

The language-model head is applied to the hidden states of target positions only, tile by tile
(`model/linear_logprobs.py`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.model.attention import has_full_attention
from hone.model.linear_logprobs import linear_logprobs

PROBE_LOGIT = 200.0
"""Size of the logits at which a model's head is compared with a plain linear one."""


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
