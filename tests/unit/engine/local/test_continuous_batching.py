"""Continuous batching: rows that join as others leave are what they are alone, within the memory that is allowed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import VOCABULARY, make_model, run, sft_config
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3MoeConfig

from hone.engine.local import continuous_batching as module
from hone.engine.local.continuous_batching import ContinuousBatcher, ContinuousBatching, Request
from hone.engine.local.decoding_row import DecodingRow
from hone.errors import ModelError
from hone.model.adapters import with_lora
from hone.model.attention import use_grouped_sdpa
from hone.model.ragged_attention import RaggedLayer
from hone.types import Completion, Prompt, Sampling

CONTEXT = 64
LENGTHS = (3, 1, 30, 25)


def flat(done: list[list[Completion]]) -> list[Completion]:
    return [one for each in done for one in each]


def sampled(
    settings: ContinuousBatching | None,
    prompts: Sequence[Prompt] | None = None,
    *,
    kind: str = "llama",
    max_rows: int = 4,
    count: int = 2,
    **sampling: Any,
) -> list[Completion]:
    generator = make_generator(make_model(kind), context=CONTEXT, max_rows=max_rows, continuous=settings)
    settings_ = Sampling(**{"max_new_tokens": 16, "seed": 1} | sampling)
    return flat(run(generator.generate(prompts or make_prompts(LENGTHS), settings_, count=count)))


def largest_gap(one: Sequence[Completion], other: Sequence[Completion]) -> float:
    pairs = zip(one, other, strict=True)
    return max(abs(a - b) for x, y in pairs for a, b in zip(x.logprobs, y.logprobs, strict=True))


def batcher(max_rows: int = 4, **settings: Any) -> ContinuousBatcher:
    continuous = ContinuousBatching(**settings)
    return make_generator(
        make_model(), (), context=CONTEXT, max_rows=max_rows, continuous=continuous
    ).batcher()


def row_of(prompt: Prompt, number: int = 0, **sampling: Any) -> DecodingRow:
    return DecodingRow.of(prompt, number, Sampling(**{"max_new_tokens": 8, "seed": 1} | sampling), CONTEXT)


def finish(one: ContinuousBatcher) -> list[DecodingRow]:
    done: list[DecodingRow] = []
    while one.busy:
        done += one.step(0)
    return done


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.8, "min_new_tokens": 9},
        {"repetition_penalty": 1.3, "stop_strings": ("a",)},
    ],
)
@pytest.mark.parametrize(
    "settings",
    [
        ContinuousBatching(),
        ContinuousBatching(kv_cache_tokens=CONTEXT + 40),
        ContinuousBatching(num_speculative_tokens=3, prompt_lookup_max=2),
    ],
    ids=["plain", "little memory", "drafts"],
)
def test_completions_are_those_of_fixed_batches(
    settings: ContinuousBatching, sampling: dict[str, Any]
) -> None:
    expected = sampled(None, kind="qwen3", **sampling)
    found = sampled(settings, kind="qwen3", **sampling)
    assert [(one.tokens, one.finish, one.versions) for one in found] == [
        (one.tokens, one.finish, one.versions) for one in expected
    ]
    assert largest_gap(found, expected) < 1e-5


@pytest.mark.parametrize("kind", ["lora", "mixture of experts", "absolute positions", "bfloat16"])
def test_completions_are_those_of_fixed_batches_in_other_models(kind: str) -> None:
    small = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if kind == "mixture of experts":
        moe = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
        size = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
        model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**small, **size, **moe))
    elif kind == "absolute positions":
        model = AutoModelForCausalLM.from_config(GPT2Config(**small, n_embd=32, n_layer=2, n_head=4))
    else:
        model = make_model()
    use_grouped_sdpa(model)
    if kind == "lora":
        model = with_lora(model, sft_config(lora={"enabled": True, "dim": 2}).policy.lora)
    own: dict[str, Any] = {"context": CONTEXT, "max_rows": 4}
    if kind == "bfloat16":
        own["autocast"] = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    prompts, sampling = make_prompts(LENGTHS), Sampling(max_new_tokens=10, seed=1)
    expected = flat(run(make_generator(model, **own).generate(prompts, sampling, count=2)))
    own["continuous"] = ContinuousBatching(num_speculative_tokens=2)
    found = flat(run(make_generator(model, **own).generate(prompts, sampling, count=2)))
    if kind != "bfloat16":
        assert [one.tokens for one in found] == [one.tokens for one in expected]
    same = [(a, b) for a, b in zip(found, expected, strict=True) if a.tokens == b.tokens]
    assert len(same) > 5
    assert largest_gap(*zip(*same, strict=True)) < (0.05 if kind == "bfloat16" else 2e-5)


def test_the_same_requests_have_the_same_bits() -> None:
    settings = ContinuousBatching(kv_cache_tokens=3 * CONTEXT, num_speculative_tokens=2)
    assert sampled(settings) == sampled(settings)


def test_a_prompt_longer_than_a_step_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sampled(None)
    monkeypatch.setattr(module, "STEP_TOKENS", 7)
    found = sampled(ContinuousBatching())
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert largest_gap(found, expected) < 1e-5


def test_a_row_joins_as_soon_as_another_leaves() -> None:
    one = batcher(max_rows=2)
    prompts = make_prompts((5, 6, 7))
    for prompt, limit in zip(prompts, (2, 6, 3), strict=True):
        one.add(row_of(prompt, max_new_tokens=limit))
    ends = {}
    for step in range(1, 7):
        ends.update({row.prompt.id: step for row in one.step(0)})
    assert ends == {"p0": 2, "p2": 5, "p1": 6}  # p2 joins at step 3
    assert not one.busy


class Forwards:
    """Counts the tokens that a model computes."""

    def __init__(self, one: ContinuousBatcher) -> None:
        self.tokens: list[int] = []
        one.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        self.tokens.append(kwargs["input_ids"].numel())


def test_a_prompt_is_read_once_for_all_of_its_completions() -> None:
    one = batcher(max_rows=3)
    counted = Forwards(one)
    prompt = make_prompts((30,))[0]
    for number in range(6):
        one.add(row_of(prompt, number, max_new_tokens=2))
    finish(one)
    # the prompt; then the first's second token and two joined; ...: each completion's 2 tokens, and 29 of the prompt
    assert sum(counted.tokens) == 29 + 6 * 2
    assert counted.tokens[0] == 30


def test_what_two_prompts_begin_with_is_read_once() -> None:
    one = batcher()
    counted = Forwards(one)
    first = make_prompts((30,))[0]
    one.add(row_of(first))
    one.step(0)
    one.add(row_of(replace(first, id="other", tokens=(*first.tokens[:25], 9, 9, 9))))
    one.step(0)
    assert counted.tokens == [30, 1 + 3]


def test_after_an_update_no_row_begins_with_keys_of_other_weights() -> None:
    one = batcher()
    counted = Forwards(one)
    prompt = make_prompts((30,))[0]
    one.add(row_of(prompt))
    one.step(0)
    one.add(row_of(prompt, 1))
    one.step(1)
    assert counted.tokens == [30, 1 + 30]


def test_the_version_of_each_token_is_recorded() -> None:
    one = batcher()
    row = row_of(make_prompts((5,))[0])
    one.add(row)
    for version in (3, 3, 4, 4, 4, 5, 5, 5):
        one.step(version)
    assert row.completion().versions == ((3, 0, 2), (4, 2, 5), (5, 5, 8))


def test_the_cache_never_holds_more_than_its_budget() -> None:
    generator = random.Random(0)
    one = batcher(max_rows=12, kv_cache_tokens=200)
    rows = [
        row_of(prompt, max_new_tokens=generator.randrange(1, 20))
        for prompt in make_prompts([generator.randrange(1, 34) for _ in range(20)])
    ]
    for row in rows:
        one.add(row)
    most = 0
    while one.busy:
        one.step(0)
        held = sum(part.shape[0] * part.shape[2] for part, _ in one.cache.layers[0].slabs.values())
        assert held <= 200
        most = max(most, held)
    assert most > 150
    assert all(row.finished for row in rows)


def test_a_row_that_goes_back_to_the_queue_keeps_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    preempted: list[tuple[Request, int]] = []
    real = ContinuousBatcher._preempt

    def watched(self: ContinuousBatcher) -> None:
        preempted.append((self._running[-1], len(self._running[-1].row.tokens)))
        real(self)

    monkeypatch.setattr(ContinuousBatcher, "_preempt", watched)
    monkeypatch.setattr("hone.engine.local.ragged_cache.BLOCK", 8)
    prompts = make_prompts((3, 4, 5, 6))
    found = sampled(
        ContinuousBatching(kv_cache_tokens=CONTEXT), prompts, count=2, max_new_tokens=40, ignore_eos=True
    )
    assert any(tokens for _, tokens in preempted)
    expected = sampled(None, prompts, count=2, max_new_tokens=40, ignore_eos=True)
    assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_a_cancelled_row_frees_its_place() -> None:
    one = batcher(max_rows=1)
    first, second = (row_of(prompt, max_new_tokens=20) for prompt in make_prompts((5, 6)))
    running, waiting = one.add(first), one.add(second)
    one.step(0)
    one.cancel(running)
    one.step(0)
    assert (len(first.tokens), len(second.tokens)) == (1, 1)
    one.cancel(waiting)
    assert one.step(0) == []
    assert not one.busy
    assert one.cache.rows_in_use == 0


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
def test_a_model_with_windows_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ModelError, match=f"continuous_batching=true: the layers of this {kind} model"):
        sampled(ContinuousBatching(), kind=kind)


def test_a_model_that_reads_keys_as_tensors_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that scales its keys: found by trying."""
    real = RaggedLayer.update
    monkeypatch.setattr(RaggedLayer, "update", lambda *given, **more: (real(*given, **more)[0] * 2, given[2]))
    with pytest.raises(ModelError, match="continuous_batching=true: the layers of this llama model"):
        sampled(ContinuousBatching())


def test_drafts_save_steps_where_text_repeats() -> None:
    """A model that repeats a pattern: what was drafted is accepted, and the tokens are the same."""
    steps, texts = [], []
    for count in (0, 4):
        one = batcher(num_speculative_tokens=count)
        with torch.no_grad():  # the next token is a function of the last: attention and MLP add nothing
            for name, parameter in one.model.named_parameters():
                if "o_proj" in name or "down_proj" in name:
                    parameter.zero_()
        row = row_of(Prompt("p", (5, 6), ""), max_new_tokens=48, temperature=0.0)
        one.add(row)
        steps.append(0)
        while one.busy:
            one.step(0)
            steps[-1] += 1
        texts.append(row.tokens)
    assert texts[0] == texts[1]
    assert len(set(texts[0])) < VOCABULARY // 4  # it goes in a circle
    assert steps[0] == 48
    assert steps[1] < 24
