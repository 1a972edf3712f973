"""Sampling settings against transformers' own processors, and what they do not change: the log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import EOS, make_model, make_tokenizer, run
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hone.engine.local.sampling import LogitConstraints, filtered, sample
from hone.types import Completion, Sampling

ROWS, TOKENS, WIDTH = 40, 30, 7


def peer(ids: torch.Tensor, logits: torch.Tensor, s: Sampling, prompt: int) -> torch.Tensor:
    """transformers' distribution of the next token; its order: penalty, minimum, temperature, top-k, top-p, min-p."""
    steps: list[Any] = []
    if s.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
    if s.min_new_tokens:
        steps.append(MinNewTokensLengthLogitsProcessor(prompt, s.min_new_tokens, [EOS, 5]))
    steps.append(TemperatureLogitsWarper(s.temperature))
    if s.top_k is not None:
        steps.append(TopKLogitsWarper(s.top_k))
    if s.top_p < 1:
        steps.append(TopPLogitsWarper(s.top_p))
    if s.min_p > 0:
        steps.append(MinPLogitsWarper(s.min_p))
    return LogitsProcessorList(steps)(ids, logits.clone()).softmax(-1)


SETTINGS = {
    "min-p": Sampling(9, min_p=0.1),
    "all but the likeliest": Sampling(9, min_p=1.0),
    "after temperature, top-k and top-p": Sampling(9, temperature=0.7, top_k=12, top_p=0.8, min_p=0.15),
    "penalty": Sampling(9, repetition_penalty=1.3),
    "bonus": Sampling(9, temperature=1.5, repetition_penalty=0.8),
    "minimum": Sampling(9, min_new_tokens=5),
    "all": Sampling(
        9, temperature=1.2, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.2, min_new_tokens=5
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_distribution_is_that_of_transformers(name: str) -> None:
    s, generator = SETTINGS[name], torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(ROWS, TOKENS, generator=generator)
    ids = torch.randint(0, TOKENS, (ROWS, WIDTH), generator=generator)
    seen = torch.zeros(ROWS, TOKENS, dtype=torch.bool).scatter_(1, ids, True)
    suppressed = torch.tensor([EOS, 5]) if s.min_new_tokens else None
    moved = LogitConstraints(seen, suppressed).apply(logits, s.repetition_penalty)
    ours = filtered((moved / s.temperature).softmax(-1), s)
    theirs = peer(ids, logits, s, prompt=WIDTH - 2)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), theirs, rtol=1e-5, atol=1e-7)
    if name != "bonus" and name != "penalty":
        assert (theirs == 0).any(), "nothing is left out: the case shows nothing"


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_probabilities_are_the_models_own(temperature: float) -> None:
    logits = 2 * torch.randn(ROWS, TOKENS, generator=torch.Generator().manual_seed(4))
    seen = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    seen[:, ::2] = False
    s = Sampling(9, temperature=temperature, min_p=0.2, repetition_penalty=3.0)
    held = LogitConstraints(seen, torch.tensor([EOS]), vocabulary_limit=20)
    draws = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    tokens, logprobs = sample(logits, draws, s, held)
    own = (logits / (temperature or 1.0)).log_softmax(-1)
    torch.testing.assert_close(logprobs, own.gather(1, tokens[:, None])[:, 0])
    assert int(tokens.max()) < 20
    assert EOS not in tokens.tolist()


def completions(**settings: Any) -> list[Completion]:
    limit = settings.pop("tokens", None)
    generator = make_generator(make_model(), stops=(EOS, 5), vocabulary_limit=limit)
    done = run(generator.generate(make_prompts(), Sampling(12, **settings), count=6))
    return [one for group in done for one in group]


def test_no_completion_ends_before_its_least_length() -> None:
    """Neither by an end of sequence nor by a stop token or a text; after that all of them end it."""
    stops: dict[str, Any] = {"stop_token_ids": (7, 8, 9), "stop_strings": ("a", "e", "o"), "seed": 2}
    free, held = completions(**stops), completions(**stops, min_new_tokens=4)
    assert any(len(one.tokens) < 4 and one.finish == "stop" for one in free)
    assert all(len(one.tokens) >= 4 for one in held)
    assert any(one.finish == "stop" for one in held)
    assert not any({EOS, 5, 7, 8, 9} & set(one.tokens[:3]) for one in held)
    texts = [make_tokenizer().decode(list(one.tokens)) for one in held]
    early = [text for text in texts if set(text[:4]) & set("aeo")]
    assert any(len(text) > 5 for text in early), "no text to ignore came, or it ended the completion later"


def test_the_models_own_ends_can_be_ignored() -> None:
    held = completions(ignore_eos=True, seed=2)
    assert all(one.finish == "length" and len(one.tokens) == 12 for one in held)
    assert any(EOS in one.tokens[:-1] for one in held)
    stopped = completions(
        ignore_eos=True, stop_token_ids=(7, 8, 9), seed=2
    )  # what is asked for ends it still
    assert {one.tokens[-1] for one in stopped if one.finish == "stop"} <= {7, 8, 9}
    assert any(one.finish == "stop" for one in stopped)


def test_a_penalty_sees_the_prompt_and_every_row_its_own_tokens() -> None:
    """So strong that nothing comes twice, or comes that the prompt has, while rows leave the batch."""
    prompts = make_prompts()
    generator = make_generator(make_model(), stops=(EOS,))
    sampling = Sampling(12, temperature=0.0, repetition_penalty=1e6)
    done = run(generator.generate(prompts, sampling, count=2))
    for prompt, group in zip(prompts, done, strict=True):
        for one in group:
            assert len(set(one.tokens)) == len(one.tokens)
            assert not set(one.tokens) & set(prompt.tokens)
    free = run(generator.generate(prompts, Sampling(12, temperature=0.0), count=2))
    assert any(len(set(one.tokens)) < len(one.tokens) for group in free for one in group)


def test_tokens_beyond_a_limit_never_come() -> None:
    assert max(token for one in completions(tokens=40, seed=1) for token in one.tokens) < 40
    assert max(token for one in completions(seed=1) for token in one.tokens) >= 40
