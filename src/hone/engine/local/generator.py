"""The built-in generator: the learner's own model, decoding in this process.

The prompt of a group is computed once, its keys and values shared out to the group's rows; rows that have finished
leave the batch. Its log-probabilities are those of the learner's own forward.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from hone.engine.distributed.heartbeat import beat
from hone.engine.local import kv_cache
from hone.engine.local.decoding_layout import transposed_weights
from hone.engine.local.sampling import ConstraintTracker, sample, uniform
from hone.engine.requests import completion_limit, completions_per_batch
from hone.errors import HoneError, ModelError, WeightSyncError
from hone.model.adapters import base_of
from hone.model.attention import has_full_attention
from hone.model.counter_rng import key_of
from hone.model.loading import name_of
from hone.model.weights import checksum, named_weights
from hone.types import Completion, Prompt, Sampling

COMPACT_BELOW = 0.8
"""Finished rows leave when this share of the batch or less is still going: copying the cache costs, too."""


SMALLEST_TEMPERATURE = 1e-6


@dataclass
class _Row:
    prompt: int
    seed: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


class LocalGenerator:
    """Samples from `model`. `max_rows` sequences decode at once; a sequence, prompt included, has at most `context`.
    Tokens from `vocabulary_limit` on are never sampled."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_tokens: Iterable[int],
        context: int,
        max_rows: int = 256,
        autocast: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        vocabulary_limit: int | None = None,
    ) -> None:
        decoder: Any = base_of(model)
        keeps = "past_key_values" in inspect.signature(decoder.forward).parameters  # else it would be ignored
        self.model = model
        if not (keeps and decoder._supports_default_dynamic_cache()):
            raise self._cannot_decode()
        self.tokenizer = tokenizer
        self.stop_tokens = tuple(stop_tokens)
        self.context, self.max_rows, self.autocast = context, max_rows, autocast
        self.vocabulary_limit = vocabulary_limit
        self.version: int | None = 0
        """Of the weights; None after an update that failed, since they may be a mixture."""
        self._tried = False
        # A ready-made mask [rows, 1, 1, length] is right where every layer sees all before it, and PyTorch's attention
        # reads it; else the model makes its own from the padding mask.
        self._plain_mask = has_full_attention(model.config) and "sdpa" in model.config._attn_implementation

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """`count` completions of each prompt, in order.

        Raises HoneError for a prompt that is empty or too long, and after an update of the weights that failed.
        """
        if self.version is None:
            raise HoneError(
                "the last update of the generator's weights failed: it samples only after another one"
            )
        rows = [
            self._row(prompt, p, prompt.first_completion + c, sampling)
            for p, prompt in enumerate(prompts)
            for c in range(count)
        ]
        training = self.model.training
        self.model.eval()
        try:
            if not self._tried and not kv_cache.works(self.model):
                raise self._cannot_decode()
            self._tried = True
            size = completions_per_batch(self.max_rows, count)
            with transposed_weights(self.model, max((row.limit for row in rows), default=0)):
                for start in range(0, len(rows), size):
                    self._decode(prompts, rows[start : start + size], sampling)
        finally:
            self.model.train(training)
        done = [self._completion(row) for row in rows]
        return [done[p * count : (p + 1) * count] for p in range(len(prompts))]

    def load_weights(
        self, version: int, weights: Iterable[tuple[str, Tensor]], *, partial: bool = False
    ) -> None:
        """Take these weights, all that there are or a `partial` set: the same tensors, or copied into its own.

        Raises WeightSyncError if it then holds others; until a later call succeeds it does not sample.
        """
        before, self.version = self.version, None
        taken: set[str] = set()
        given = checksum(self._copied(version, before, weights, taken))
        held = ((name, tensor) for name, tensor in named_weights(self.model) if not partial or name in taken)
        if not taken or given != checksum(held):
            raise WeightSyncError(version, before, "the generator does not hold the learner's weights")
        self.version = version

    @torch.no_grad()
    def _copied(
        self, version: int, before: int | None, weights: Iterable[tuple[str, Tensor]], taken: set[str]
    ) -> Iterator[tuple[str, Tensor]]:
        """The weights as they come, in this generator's precision, each put into its place."""
        own = dict(named_weights(self.model))
        for name, tensor in weights:
            if name not in own:
                raise WeightSyncError(version, before, f"the generator has no weight {name}")
            given = tensor.detach().to(own[name].device, own[name].dtype)
            if given.data_ptr() != own[name].data_ptr():
                own[name].copy_(given)
            taken.add(name)
            beat()
            yield name, given

    def base_checksum(self, trained: set[str]) -> int:
        """Over the bits of the weights that are not in `trained`."""
        return checksum((n, tensor) for n, tensor in named_weights(self.model) if n not in trained)

    def checksum(self) -> int:
        """Over the bits of the weights that the next token would be sampled from."""
        return checksum(named_weights(self.model))

    def _row(self, prompt: Prompt, index: int, number: int, sampling: Sampling) -> _Row:
        limit = completion_limit(prompt, sampling, self.context)
        return _Row(prompt=index, seed=key_of(sampling.seed, prompt.id, number), limit=limit)

    def _completion(self, row: _Row) -> Completion:
        return Completion.of_version(
            tokens=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            finish="stop" if row.stopped else "length",
            version=self.version or 0,
        )

    @torch.inference_mode()
    def _decode(self, prompts: Sequence[Prompt], rows: list[_Row], sampling: Sampling) -> None:
        own = () if sampling.ignore_eos else self.stop_tokens
        stops = torch.tensor(sorted({*own, *sampling.stop_token_ids}), dtype=torch.long)
        stops = stops.to(self.model.device)
        constraints = ConstraintTracker(sampling, stops, self.vocabulary_limit)
        logits, cache, mask = self._prefill(prompts, rows, room=max(row.limit for row in rows))
        alive = list(rows)
        seeds = torch.tensor([row.seed for row in alive])  # on the CPU: Apple's GPU has no fp64
        lengths = mask.sum(1)
        constraints.begin([prompts[row.prompt].tokens for row in alive], logits.shape[-1])
        for step in range(max(row.limit for row in rows)):
            beat()
            draws = uniform(seeds, torch.full_like(seeds, step))
            tokens, logprobs = sample(logits, draws, sampling, constraints.at(step))
            constraints.add(tokens)
            ended = torch.isin(tokens, stops)
            self._check_finite(prompts, alive, logprobs, logits.dtype, sampling)
            finished = self._record(alive, tokens, logprobs, ended, sampling, step)
            if len(finished) == len(alive):
                return
            keep = [i for i in range(len(alive)) if i not in finished]
            if len(keep) <= COMPACT_BELOW * len(alive):
                index = torch.tensor(keep, device=logits.device)
                kv_cache.select_rows(cache, index)
                constraints.keep(index)
                tokens, mask, seeds, lengths = tokens[index], mask[index], seeds[keep], lengths[index]
                alive = [alive[i] for i in keep]
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            logits = self._forward(
                tokens[:, None], lengths[:, None], self._attention_mask(mask, logits.dtype), cache
            )
            lengths = lengths + 1

    def _attention_mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """For one new token: 0 and -inf, which attention would make of booleans in every layer; or the padding mask."""
        if not self._plain_mask:
            return mask
        if not dtype == self.model.dtype == torch.float32:
            return mask[:, None, None, :]
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)[:, None, None, :]

    def _check_finite(
        self,
        prompts: Sequence[Prompt],
        alive: list[_Row],
        logprobs: Tensor,
        dtype: torch.dtype,
        sampling: Sampling,
    ) -> None:
        """Raise ModelError where logits were nan or infinite: the log-probability of any token is nan then."""
        if not (bad := logprobs.isnan()).any():
            return
        row = alive[int(bad.nonzero()[0])]
        cause = "Look at its weights, or compute in float32 or bfloat16 (precision)"
        if 0 < sampling.temperature < SMALLEST_TEMPERATURE:
            cause = f"temperature={sampling.temperature} is too small to divide by: 0 is greedy"
        precision = str(dtype).removeprefix("torch.")
        raise ModelError(
            f"{name_of(self.model)}, computed in {precision}, gives logits that are not finite for prompt "
            f"{prompts[row.prompt].id}, after {len(row.tokens)} tokens of its completion. {cause}"
        )

    def _cannot_decode(self) -> ModelError:
        return ModelError(
            f"the built-in generator cannot decode {self.model.config.model_type} models: their state is not kept in a "
            "key/value cache of the usual kind. Choose a model with attention alone"
        )

    def _record(
        self,
        alive: list[_Row],
        tokens: Tensor,
        logprobs: Tensor,
        ended: Tensor,
        sampling: Sampling,
        step: int,
    ) -> set[int]:
        """Append to each row that still goes on; the rows that need no further token."""
        finished = set()
        columns = zip(alive, tokens.tolist(), logprobs.tolist(), ended.tolist(), strict=True)
        for index, (row, token, logprob, end) in enumerate(columns):
            if not (row.stopped or len(row.tokens) == row.limit):
                row.tokens.append(token)
                row.logprobs.append(logprob)
                row.stopped = end or self._hit_stop_string(row, sampling)
            if row.stopped or len(row.tokens) == row.limit:
                finished.add(index)
        return finished

    def _hit_stop_string(self, row: _Row, sampling: Sampling) -> bool:
        if not sampling.stop_strings:
            return False
        # A token is at least a byte; 8 more for characters that the cut splits.
        tail = max(len(text.encode()) for text in sampling.stop_strings) + 8
        begin = max(sampling.min_new_tokens, len(row.tokens) - tail)  # before that, a text ends nothing
        text = self.tokenizer.decode(row.tokens[begin:])
        return any(stop in text for stop in sampling.stop_strings)

    def _prefill(
        self, prompts: Sequence[Prompt], rows: list[_Row], room: int
    ) -> tuple[Tensor, DynamicCache, Tensor]:
        """Run each prompt once, left-padded; then give every row its prompt's last logits, cache and mask."""
        needed = list(dict.fromkeys(prompts[row.prompt].tokens for row in rows))
        width = max(map(len, needed))
        ids = torch.full((len(needed), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros(len(needed), width, dtype=torch.bool)
        for i, tokens in enumerate(needed):
            ids[i, width - len(tokens) :] = torch.tensor(tokens)
            mask[i, width - len(tokens) :] = True
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        cache = kv_cache.preallocated_cache(self.model.config, room)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(ids, positions, mask, cache)
        owner = {tokens: i for i, tokens in enumerate(needed)}
        index = torch.tensor([owner[prompts[row.prompt].tokens] for row in rows], device=ids.device)
        kv_cache.select_rows(cache, index)
        return logits[index], cache, mask[index]

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits [rows, vocabulary] after the last of `tokens` [rows, new]."""
        with self.autocast():
            return self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
