"""Prompts and a generator of a tiny model, for the tests of generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny import EOS, VOCABULARY, make_tokenizer
from transformers import PreTrainedModel

from hone.engine.local.generator import LocalGenerator
from hone.types import Prompt

LENGTHS = (3, 9, 1, 6, 12)


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
