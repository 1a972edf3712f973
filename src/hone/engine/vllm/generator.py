"""Completions by vLLM servers. Each completion is one request, of whichever prompt or turn: vLLM batches them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import httpx2

from hone.engine.requests import completion_limit
from hone.engine.vllm.client import VLLMClient
from hone.engine.vllm.lora import ADAPTER
from hone.engine.weight_files import version_folder
from hone.errors import GeneratorError, WeightSyncError, WorkerLostError
from hone.model.counter_rng import key_of
from hone.types import Completion, Prompt, Sampling, VersionSpan


class Server(Protocol):
    """A vLLM server that is started here or on a cluster, or that runs already."""

    name: str
    """In messages."""
    url: str
    model: str
    """The name under which it has the model."""

    def start(self) -> None:
        """Return when it answers. Raises ClusterError if it does not."""

    def stop(self) -> None:
        """Stop it, if it was started here."""


class VLLMGenerator:
    """A GeneratorServer (hone.engine.base) of a vLLM server.

    `weights`: the folder that versions are published in, seen by the server, too; None if it never receives any.
    `adapter`: what is published is a LoRA adapter, and the server has the base. `context`: most tokens of prompt and
    completion. Tokens from `vocabulary_limit` on, of a vocabulary of `vocabulary`, are never sampled.
    """

    batches_itself = True

    def __init__(
        self,
        server: Server,
        *,
        weights: Path | None,
        stop_tokens: Iterable[int],
        context: int,
        adapter: bool = False,
        vocabulary_limit: int | None = None,
        vocabulary: int | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        self.name, self.server, self.weights, self.adapter = server.name, server, weights, adapter
        self.context, self.timeout_s = context, timeout_s
        self.stop_tokens = tuple(stop_tokens)
        self.suppressed = range(vocabulary_limit, vocabulary) if vocabulary_limit and vocabulary else range(0)

    def start(self) -> None:
        """Start the server, or see that it answers. Raises ClusterError if it cannot be had."""
        self.server.start()
        self.client = VLLMClient(self.server.url, timeout_s=self.timeout_s)
        self.is_asleep = False

    def close(self) -> None:
        """Stop the server, if it was started here."""
        self.server.stop()

    async def abort(self, keys: Sequence[tuple[str, int]]) -> None:
        """Nothing: vLLM ends a request whose call is cancelled."""

    async def sleep(self) -> None:
        """Give up memory until the next `receive`. A server that is lost is noticed there."""
        with contextlib.suppress(WorkerLostError):
            await self.client.sleep()
            self.is_asleep = True

    async def receive(self, version: int) -> None:
        """Have the server sample from the weights that were published as `version`. Raises WeightSyncError for one
        that is not there, or that the server refuses."""
        assert self.weights is not None
        folder = self.weights.resolve()
        path = version_folder(folder, version)  # known before the server gives up what it has
        if self.is_asleep:
            await self.client.wake_up()
            self.is_asleep = False
        try:
            if self.adapter:
                await self.client.load_adapter(ADAPTER, path, version)
            else:
                await self.client.update_weights(folder, version)
        except GeneratorError as error:
            raise WeightSyncError(version, None, str(error)) from error

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """`count` completions of each prompt, in order. Raises HoneError for a prompt that is empty or too long,
        GeneratorError for what the server refuses, and WorkerLostError for one that is gone."""
        wanted = [(prompt, prompt.first_completion + c) for prompt in prompts for c in range(count)]
        bodies = [self._body(prompt, number, sampling) for prompt, number in wanted]
        async with self.client.session() as session:
            done = await asyncio.gather(*(self._complete(session, body) for body in bodies))
        return [done[p * count : (p + 1) * count] for p in range(len(prompts))]

    def _body(self, prompt: Prompt, number: int, sampling: Sampling) -> dict[str, Any]:
        """The request for a prompt's completion of this number: sampling depends on nothing else."""
        limit = completion_limit(prompt, sampling, self.context)
        own = () if sampling.ignore_eos else self.stop_tokens
        return {
            "model": ADAPTER if self.adapter else self.server.model,
            "token_ids": list(prompt.tokens),
            "sampling_params": {
                "max_tokens": limit,
                "min_tokens": min(sampling.min_new_tokens, limit),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or 0,
                "min_p": sampling.min_p,
                "repetition_penalty": sampling.repetition_penalty,
                "seed": key_of(sampling.seed, prompt.id, number),
                "ignore_eos": True,  # ours are given, all of them
                "stop_token_ids": sorted({*own, *sampling.stop_token_ids}),
                "stop": list(sampling.stop_strings),
                "detokenize": bool(sampling.stop_strings),
                "skip_special_tokens": False,
                "logprobs": 0,
                "logit_bias": {str(token): -100.0 for token in self.suppressed} or None,
            },
        }

    async def _complete(self, session: httpx2.AsyncClient, body: dict[str, Any]) -> Completion:
        # Keys and values of other weights are not to be found: the salt is part of their name.
        salted = {**body, "cache_salt": f"v{self.client.version}"}
        answer = await self.client.call(session, "POST", "/inference/v1/generate", salted)
        choice = answer["choices"][0]
        spans = [
            VersionSpan(self._version(span["version"]), span["start"], span["end"])
            for span in choice["weight_versions"]
        ]
        if choice["finish_reason"] not in ("stop", "length"):
            raise GeneratorError(f"{self.client.url} ended a completion by {choice['finish_reason']}")
        return Completion(
            tokens=tuple(choice["token_ids"]),
            logprobs=tuple(one["logprob"] for one in choice["logprobs"]["content"]),
            finish=choice["finish_reason"],
            versions=tuple(spans),
        )

    def _version(self, label: str) -> int:
        """Raises WorkerLostError for weights that were not received here."""
        return 0 if self.weights is None else self.client.version_of(label)
