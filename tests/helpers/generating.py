"""Prompts and a generator of a tiny model, for the tests of generation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import EOS, VOCABULARY, make_model, make_tokenizer
from transformers import PreTrainedModel

from hone.engine.local.generator import LocalGenerator
from hone.engine.weight_files import FileReceiver
from hone.errors import WorkerLostError
from hone.types import Completion, Prompt, Sampling

LENGTHS = (3, 9, 1, 6, 12)
ROWS = 4
"""Completions of a batch of a Server."""


def make_prompts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Prompt]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Prompt(f"p{i}", tuple(torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()), "text")
        for i, n in enumerate(lengths)
    ]


def make_generator(model: PreTrainedModel, stops: Sequence[int] = (EOS,), **kwargs: Any) -> LocalGenerator:
    return LocalGenerator(
        model, make_tokenizer(), stop_tokens=stops, context=kwargs.pop("context", 64), **kwargs
    )


class Server:
    """A server in this process, which is lost at the calls (of any sort, from 1) that `lost_at` names."""

    batches_itself = False

    def __init__(self, name: str, folder: Path, lost_at: Sequence[int] = (), **model: Any) -> None:
        self.name, self.folder, self.lost_at = name, folder, lost_at
        self.model = {"stops": (EOS,), "context": 64, "seed": 5} | model
        self.calls = self.starts = self.batches = 0
        self.generator: LocalGenerator | None = None

    def start(self) -> None:
        self.starts += 1
        stops, context, seed = (self.model[key] for key in ("stops", "context", "seed"))
        self.generator = make_generator(make_model(seed=seed), stops, context=context, max_rows=ROWS)
        self.receiver = FileReceiver(self.generator, self.folder)

    def close(self) -> None:
        self.generator = None

    async def _call(self) -> LocalGenerator:
        await asyncio.sleep(0)
        self.calls += 1
        if self.calls in self.lost_at:
            self.generator = None
        if self.generator is None:
            raise WorkerLostError(f"{self.name} died")
        return self.generator

    async def receive(self, version: int) -> None:
        await self._call()
        await self.receiver.receive(version)

    async def abort(self, keys: Sequence[tuple[str, int]]) -> None:
        self.aborted = [*keys]

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        generator = await self._call()
        self.batches += 1
        return await generator.generate(prompts, sampling, count=count)
