"""The built-in generator: the learner's own model, decoding in this process.

The prompt of a group is computed once, its keys and values shared out to the group's rows; rows that have finished
leave the batch. Its log-probabilities are those of the learner's own forward.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from hone.engine.distributed.heartbeat import beat
from hone.engine.local import kv_cache
from hone.engine.local.continuous_batching import ContinuousBatcher, ContinuousBatching, check_supported
from hone.engine.local.decoding_layout import transposed_weights
from hone.engine.local.decoding_row import DecodingRow, check_finite
from hone.engine.local.sampling import ConstraintTracker, sample, uniform
from hone.engine.requests import completions_per_batch
from hone.errors import HoneError, ModelError, WeightSyncError
from hone.model.adapters import base_of
from hone.model.attention import has_full_attention
from hone.model.weights import checksum, named_weights
from hone.types import Completion, Prompt, Sampling

BATCHES_QUEUED = 4
"""Batches that are worth asking for at once in continuous batching: completions that wait keep the batch full."""
COMPACT_BELOW = 0.8
"""Finished rows leave when this share of the batch or less is still going: copying the cache costs, too."""


class LocalGenerator:
    """Samples from `model`. `max_rows` sequences decode at once; a sequence, prompt included, has at most `context`.
    Tokens from `vocabulary_limit` on are never sampled. With `continuous`, rows join the batch as others leave it.

    `between_tokens` is called before each token but the first. It may call `load_weights`: running completions go on
    with the new weights, and with the keys and values that they have. It may also call `abort`.
    """

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
        continuous: ContinuousBatching | None = None,
        between_tokens: Callable[[], None] = lambda: None,
    ) -> None:
        decoder: Any = base_of(model)
        keeps = "past_key_values" in inspect.signature(decoder.forward).parameters  # else it would be ignored
        self.model = model
        if not (keeps and decoder._supports_default_dynamic_cache()):
            raise self._cannot_decode()
        self.tokenizer = tokenizer
        self.stop_tokens = tuple(stop_tokens)
        self.context, self.max_rows, self.autocast = context, max_rows, autocast
        self.vocabulary_limit, self.continuous = vocabulary_limit, continuous
        self.between_tokens = between_tokens
        self._rows: list[DecodingRow] = []
        self._layout = contextlib.ExitStack()
        self._longest = 0
        self.version: int | None = 0
        """Of the weights; None after an update that failed, since they may be a mixture."""
        self._tried = False
        # A ready-made mask [rows, 1, 1, length] is right where every layer sees all before it, and PyTorch's attention
        # reads it; else the model makes its own from the padding mask.
        self._plain_mask = has_full_attention(model.config) and "sdpa" in model.config._attn_implementation

    @property
    def at_once(self) -> int:
        """So many completions are worth asking for at once, not more."""
        return self.max_rows * (1 if self.continuous is None else BATCHES_QUEUED)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """`count` completions of each prompt, in order.

        Raises HoneError for a prompt that is empty or too long, and after an update of the weights that failed.
        """
        rows = [
            DecodingRow.of(prompt, prompt.first_completion + c, sampling, self.context)
            for prompt in prompts
            for c in range(count)
        ]
        self._rows = rows
        with self.decoding(max((row.limit for row in rows), default=0)):
            self.decode_rows(rows, sampling, completions_per_batch(self.max_rows, count))
        done = [row.completion() for row in rows]
        return [done[p * count : (p + 1) * count] for p in range(len(prompts))]

    @contextlib.contextmanager
    def decoding(self, tokens: int) -> Iterator[None]:
        """Prepare the model to decode rows of up to `tokens` new tokens; its weights change by `load_weights` alone.

        Raises HoneError after an update of the weights that failed.
        """
        self._check_weights()
        training = self.model.training
        self.model.eval()
        try:
            if not self._tried and not kv_cache.works(self.model):
                raise self._cannot_decode()
            if not self._tried and self.continuous is not None:
                check_supported(self.model)
            self._tried = True
            self._longest = tokens
            self._layout.enter_context(transposed_weights(self.model, tokens))
            yield
        finally:
            self._layout.close()
            self._longest = 0
            self.model.train(training)

    def batcher(self) -> ContinuousBatcher:
        """An empty batch that rows can join; `step` is called within `decoding`."""
        return ContinuousBatcher(
            self.model,
            self.tokenizer,
            self.continuous or ContinuousBatching(),
            stop_tokens=self.stop_tokens,
            context=self.context,
            max_rows=self.max_rows,
            autocast=self.autocast,
            vocabulary_limit=self.vocabulary_limit,
        )

    def decode_rows(self, rows: list[DecodingRow], sampling: Sampling, size: int) -> None:
        """Decode rows to their ends: continuously, or in batches of `size`."""
        if self.continuous is None:
            for start in range(0, len(rows), size):
                self._decode(rows[start : start + size], sampling)
            return
        batcher = self.batcher()
        for row in rows:
            batcher.add(row)
        while batcher.busy:
            batcher.step(self.version or 0)
            self._act_between_tokens()

    def _act_between_tokens(self) -> None:
        self.between_tokens()
        self._check_weights()

    def abort(self, keys: Iterable[tuple[str, int]]) -> None:
        """End these completions (prompt id, number) of the call that is running, with the tokens that they have."""
        unwanted = set(keys)
        for row in self._rows:
            if row.key in unwanted:
                row.limit = len(row.tokens)

    def _check_weights(self) -> None:
        if self.version is None:
            raise HoneError(
                "the last update of the generator's weights failed: it samples only after another one"
            )

    def load_weights(
        self, version: int, weights: Iterable[tuple[str, Tensor]], *, partial: bool = False
    ) -> None:
        """Take these weights, all that there are or a `partial` set: the same tensors, or copied into its own.

        Raises WeightSyncError if it then holds others; until a later call succeeds it does not sample.
        """
        before, self.version = self.version, None
        self._layout.close()  # its copies are of the old weights
        taken: set[str] = set()
        given = checksum(self._copied(version, before, weights, taken))
        held = ((name, tensor) for name, tensor in named_weights(self.model) if not partial or name in taken)
        if not taken or given != checksum(held):
            raise WeightSyncError(version, before, "the generator does not hold the learner's weights")
        self._layout.enter_context(transposed_weights(self.model, self._longest))
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

    @torch.inference_mode()
    def _decode(self, rows: list[DecodingRow], sampling: Sampling) -> None:
        own = () if sampling.ignore_eos else self.stop_tokens
        stops = torch.tensor(sorted({*own, *sampling.stop_token_ids}), dtype=torch.long)
        stops = stops.to(self.model.device)
        constraints = ConstraintTracker(sampling, stops, self.vocabulary_limit)
        logits, cache, mask = self._prefill(rows, room=max(row.limit for row in rows))
        alive = list(rows)
        seeds = torch.tensor([row.seed for row in alive])  # on the CPU: Apple's GPU has no fp64
        lengths = mask.sum(1)
        constraints.begin([row.prompt.tokens for row in alive], logits.shape[-1])
        for step in range(max(row.limit for row in rows)):
            beat()
            draws = uniform(seeds, torch.full_like(seeds, step))
            tokens, logprobs = sample(logits, draws, sampling, constraints.at(step))
            constraints.add(tokens)
            check_finite(self.model, alive, logprobs, logits.dtype)
            finished = self._record(alive, tokens, logprobs, stops)
            if len(finished) == len(alive):
                return
            keep = [i for i in range(len(alive)) if i not in finished]
            if len(keep) <= COMPACT_BELOW * len(alive):
                index = torch.tensor(keep, device=logits.device)
                kv_cache.select_rows(cache, index)
                constraints.keep(index)
                tokens, mask, seeds, lengths = tokens[index], mask[index], seeds[keep], lengths[index]
                alive = [alive[i] for i in keep]
            self._act_between_tokens()
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

    def _cannot_decode(self) -> ModelError:
        return ModelError(
            f"the built-in generator cannot decode {self.model.config.model_type} models: their state is not kept in a "
            "key/value cache of the usual kind. Choose a model with attention alone"
        )

    def _record(self, alive: list[DecodingRow], tokens: Tensor, logprobs: Tensor, stops: Tensor) -> set[int]:
        """Append to each row that still goes on; the rows that need no further token."""
        ended = torch.isin(tokens, stops)
        columns = zip(alive, tokens.tolist(), logprobs.tolist(), ended.tolist(), strict=True)
        for row, token, logprob, end in columns:
            if not row.finished:
                row.add(token, logprob, self.version or 0, ends=end, tokenizer=self.tokenizer)
        return {index for index, row in enumerate(alive) if row.finished}

    def _prefill(self, rows: list[DecodingRow], room: int) -> tuple[Tensor, DynamicCache, Tensor]:
        """Run each prompt once, left-padded; then give every row its prompt's last logits, cache and mask."""
        needed = list(dict.fromkeys(row.prompt.tokens for row in rows))
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
        index = torch.tensor([owner[row.prompt.tokens] for row in rows], device=ids.device)
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
