"""Continuous batching: rows join the batch as others leave it (Orca, OSDI 2022), within a budget of tokens.

    request = batcher.add(row)            # waits in a queue; `batcher.cancel(request)` takes it out again
    while batcher.busy:
        finished = batcher.step(version)  # one token, or with drafts several, of every row of the batch

A step computes the rows' next tokens and the prompts of the rows that join as one sequence, without padding
(`hone.model.ragged_attention`), so that joining costs what its tokens cost. A row begins with the keys and values of
the longest text that it shares with another row. Where the budget of the cache is used up, the row that joined last
goes back to the queue; its tokens are kept, and their keys computed again.

The schedule depends on the order of the requests and on the settings alone: the same calls have the same bits.
Between two steps the weights may change; rows go on with the keys and values that they have.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.config.schema.model import SamplingConfig
from hone.engine.distributed.heartbeat import beat
from hone.engine.local import ragged_cache
from hone.engine.local.decoding_row import DecodingRow
from hone.engine.local.drafts import NgramDrafter
from hone.engine.local.ragged_cache import CachedRow, RaggedCache
from hone.engine.local.row_sampling import Draw, RowSampler
from hone.errors import ModelError
from hone.model import attention

STEP_TOKENS = 2048
"""A step reads at most so many tokens of prompts, and at least one of each row: it bounds a step's memory and time."""
NO_BUDGET = 2**62
SHORTEST_SHARED = 16
"""Tokens of the shortest text whose keys and values are copied from a row of another prompt."""


@dataclass(frozen=True)
class ContinuousBatching:
    """Settings of continuous batching; the configuration has them under the same names."""

    kv_cache_tokens: int | None = None
    """None: what `max_rows` sequences need."""
    num_speculative_tokens: int = 0
    prompt_lookup_max: int = 4

    @classmethod
    def of(cls, generation: SamplingConfig) -> ContinuousBatching | None:
        """What a configuration sets; None without continuous batching."""
        if not generation.continuous_batching:
            return None
        return cls(
            generation.kv_cache_tokens, generation.num_speculative_tokens, generation.prompt_lookup_max
        )


@dataclass(eq=False)
class Request:
    """A row in the queue or in the batch."""

    row: DecodingRow
    drafter: NgramDrafter | None
    place: CachedRow | None = None
    version: int | None = None
    """Of the weights when its first keys were computed. After a change of weights no other row may share them."""
    new: tuple[int, ...] = ()
    """The tokens of its text that the present step computes."""
    drafts: tuple[int, ...] = ()
    """Further tokens that it computes after them."""
    cancelled: bool = False

    @property
    def text(self) -> tuple[int, ...]:
        """Prompt and completion so far."""
        return (*self.row.prompt.tokens, *self.row.tokens)

    @property
    def computed(self) -> int:
        """How many tokens the present step computes."""
        return len(self.new) + len(self.drafts)

    @property
    def cached(self) -> CachedRow:
        assert self.place is not None
        return self.place

    def shared(self, other: Request) -> int:
        """How many tokens of this text the other has keys of; 0 if they are few and the prompts differ."""
        mine, length = self.text[:-1], other.cached.length
        if self.row.prompt.tokens != other.row.prompt.tokens:
            start = min(SHORTEST_SHARED, length)
            if start < SHORTEST_SHARED or mine[:start] != other.text[:start]:
                return 0
        pairs = zip(mine, other.text[:length], strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(mine), length))


class ContinuousBatcher:
    """Decodes a queue of rows with a model, at most `max_rows` at once.

    The model is one that `check_supported` accepts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: ContinuousBatching,
        *,
        stop_tokens: Iterable[int],
        context: int,
        max_rows: int,
        autocast: Callable[[], contextlib.AbstractContextManager[None]],
        vocabulary_limit: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.max_rows, self.autocast = max_rows, autocast
        self.sampler = RowSampler(model, stop_tokens, vocabulary_limit)
        with autocast():
            exact = model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)
        budget = max(settings.kv_cache_tokens or NO_BUDGET, context)
        self.cache = RaggedCache(model.config, budget=budget, context=context, additive_mask=exact)
        self._arrived: deque[Request] = deque()
        """Rows that were added since the last step: what another thread may append to."""
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._leaving: list[Request] = []
        """Rows that ended in the last step, whose keys may serve those that join."""

    @property
    def busy(self) -> bool:
        """Whether a row waits or runs."""
        return bool(self._arrived or self._waiting or self._running)

    def add(self, row: DecodingRow) -> Request:
        """Queue a row. Another thread may be in `step` meanwhile."""
        settings = self.settings
        drafter = NgramDrafter(settings.prompt_lookup_max) if settings.num_speculative_tokens else None
        request = Request(row, drafter)
        self._arrived.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Take a row out of the queue or the batch when the next step begins. `step` does not return it."""
        request.cancelled = True

    def recompute(self) -> None:
        """Compute the keys of all running rows again in the next steps, from the weights that the model then has."""
        while self._running:
            self._preempt()

    @torch.inference_mode()
    def step(self, version: int) -> list[DecodingRow]:
        """Decode with the present weights, which are of `version`. Returns the rows that are finished, in the order in
        which they joined. Raises ModelError for logits that are not finite."""
        beat()
        while self._arrived:
            self._waiting.append(self._arrived.popleft())
        self._drop_cancelled()
        self._admit(version)
        self._choose_tokens()
        self._make_room()
        if not self._running:
            return []
        sampled = [request for request in self._running if self._is_read(request)]
        draws = [
            Draw(request.row, request.drafts[:count])
            for request in sampled
            for count in range(len(request.drafts) + 1)
        ]
        self._record(sampled, self.sampler.sample(draws, self._forward(sampled)), version)
        self._leaving = [request for request in self._running if request.row.finished]
        self._running = [request for request in self._running if not request.row.finished]
        return [request.row for request in self._leaving]

    def _drop_cancelled(self) -> None:
        self._waiting = deque(request for request in self._waiting if not request.cancelled)
        self._leaving += [request for request in self._running if request.cancelled]
        self._running = [request for request in self._running if not request.cancelled]

    def _admit(self, version: int) -> None:
        """Let rows join in the order of the queue, except that a prompt is read once: those that share it wait."""
        held: list[Request] = []
        while self._waiting and len(self._running) < self.max_rows:
            request = self._waiting.popleft()
            donors = [other for other in (*self._leaving, *self._running) if other.version == version]
            if any(self._will_share(request, other) for other in donors):
                held.append(request)
                continue
            if not self._join(request, donors):
                held.append(request)
                break
            request.version = version
            self._running.append(request)
        self._waiting.extendleft(reversed(held))
        self._free_leaving()

    def _will_share(self, request: Request, other: Request) -> bool:
        prompt, wanted = request.row.prompt.tokens, len(request.row.prompt.tokens) - 1
        is_read = other.cached.length >= wanted or other in self._leaving
        return not is_read and wanted >= SHORTEST_SHARED and prompt == other.row.prompt.tokens

    def _join(self, request: Request, donors: Sequence[Request]) -> bool:
        """Give a row its place; False if the budget has no room."""
        shared = [request.shared(other) for other in donors]
        most = max(shared, default=0)
        donor = donors[shared.index(most)] if most else None
        if donor in self._leaving:
            assert donor is not None
            self._leaving.remove(donor)
            request.place = donor.cached
            request.cached.length = most
            return True
        place = self.cache.add(len(request.text) + 1)
        if place is None:
            self._free_leaving()
            place = self.cache.add(len(request.text) + 1)
        if place is not None and donor is not None:
            self.cache.copy(donor.cached, place, most)
        request.place = place
        return place is not None

    def _free_leaving(self) -> None:
        for request in self._leaving:
            self.cache.remove(request.cached)
        self._leaving = []

    def _choose_tokens(self) -> None:
        """What each row computes: the next tokens of its text, and drafts after the last."""
        left = STEP_TOKENS
        for request in self._running:
            rest = request.text[request.cached.length :]
            request.new, request.drafts = rest[: max(1, left)], ()
            left -= len(request.new)
            if request.drafter is not None and len(rest) == 1:
                row = request.row
                most = max(0, min(self.settings.num_speculative_tokens, row.limit - len(row.tokens) - 1))
                request.drafts = tuple(request.drafter.propose(request.text, most))

    def _make_room(self) -> None:
        needed = {request: request.cached.length + request.computed for request in self._running}
        self.cache.reserve(tokens for request, tokens in needed.items() if tokens > request.cached.width)
        for request in list(self._running):
            while request.place is not None:
                if self.cache.grow(request.place, request.place.length + request.computed):
                    break
                if request.drafts:
                    request.drafts = ()
                else:
                    self._preempt()

    def _preempt(self) -> None:
        """Put the row that joined last back to the front of the queue."""
        request = self._running.pop()
        self.cache.remove(request.cached)
        request.place = None
        self._waiting.appendleft(request)

    def _is_read(self, request: Request) -> bool:
        """Whether this step computes the last token of a row's text."""
        return request.cached.length + len(request.new) == len(request.text)

    def _forward(self, sampled: Sequence[Request]) -> Tensor:
        """The logits [tokens, vocabulary] after the last token of each row's text and after each of its drafts."""
        device = self.model.device
        new = {request.cached: (*request.new, *request.drafts) for request in self._running}
        index = self.cache.begin_step({place: len(tokens) for place, tokens in new.items()}, device)
        count = sum(map(len, new.values()))
        ids, positions = [0] * count, [0] * count
        for place, tokens in new.items():
            for offset, (at, token) in enumerate(zip(index[place], tokens, strict=True)):
                ids[at], positions[at] = token, place.length + offset
        kept = [at for request in sampled for at in index[request.cached][-1 - len(request.drafts) :]]
        with self.autocast():
            logits: Tensor = self.model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                **self.cache.forward_arguments(device),
                logits_to_keep=torch.tensor(kept, dtype=torch.long, device=device),
            ).logits
        return logits[0]

    def _record(self, sampled: Sequence[Request], found: tuple[list[int], list[float]], version: int) -> None:
        """Append what was sampled: of drafts, those that would have been sampled, and the token after them."""
        for request in self._running:
            request.cached.length += len(request.new)
        columns = iter(zip(*found, strict=True))
        for request in sampled:
            row, drafts = request.row, request.drafts
            stops = self.sampler.stops(row.sampling)
            for number, (token, logprob) in enumerate([next(columns) for _ in range(len(drafts) + 1)]):
                row.add(token, logprob, version, ends=token in stops, tokenizer=self.tokenizer)
                if row.finished or number == len(drafts) or token != drafts[number]:
                    break
                request.cached.length += 1


def check_supported(model: PreTrainedModel) -> None:
    """Raise ModelError for a model whose attention cannot read keys of rows of different lengths."""
    config = model.config
    has_attention = config._attn_implementation == attention.NAME and attention.has_full_attention(config)
    if not (has_attention and ragged_cache.works(model)):
        raise ModelError(
            f"continuous_batching=true: the layers of this {config.model_type} model do not all attend to all earlier "
            "tokens through PyTorch's attention. Set it to false"
        )
