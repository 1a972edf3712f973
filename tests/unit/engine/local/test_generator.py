"""The built-in generator: exact log-probabilities, tokens that depend on nothing but their own seed, every stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import CONFIGS, EOS, PAD, VOCABULARY, make_learner, make_model, run, sft_config
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    MambaConfig,
    MiniMaxConfig,
    PreTrainedModel,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
)

from hone.algorithms import sft
from hone.engine.local import generator as module
from hone.errors import HoneError, ModelError
from hone.model.weights import checksum, named_weights
from hone.types import Completion, Prompt, Rollout, Sample, Sampling, sample_of


def scored(
    model: PreTrainedModel, prompts: Sequence[Prompt], done: list[list[Completion]], **kwargs: Any
) -> float:
    """Largest gap between the generator's log-probabilities and the learner's forward."""
    samples: list[Sample] = []
    for prompt, completions in zip(prompts, done, strict=True):
        samples += [sample_of(Rollout(prompt, completion, "")) for completion in completions]
    learner = make_learner(model, sft_config(train_micro_batch_size=4).policy, **kwargs)
    theirs = run(learner.forward(samples))
    return max(
        float((sample.token_columns["generation_logprobs"] - values).abs().max())
        for sample, values in zip(samples, theirs, strict=True)
    )


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_agree_with_the_learner(kind: str, temperature: float) -> None:
    """fp32, mixed prompt lengths, windows of 5 that prompts and completions both pass (Mistral, Gemma 2)."""
    model, prompts = make_model(kind), make_prompts()
    sampling = Sampling(max_new_tokens=16, temperature=temperature, seed=1)
    done = run(make_generator(model).generate(prompts, sampling, count=3))
    assert scored(model, prompts, done, temperature=temperature) < 1e-4
    assert max(len(c.tokens) for completions in done for c in completions) == 16


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_logprobs_agree_with_eager_attention(kind: str) -> None:
    """Eager attention adds its mask to the scores: a mask of booleans would let padding through."""
    model, prompts = make_model(kind, attn_implementation="eager"), make_prompts()
    assert model.config._attn_implementation == "eager"
    done = run(make_generator(model).generate(prompts, Sampling(max_new_tokens=12, seed=1), count=2))
    assert scored(model, prompts, done) < 1e-4


def test_logprobs_agree_for_a_model_with_recurrent_layers() -> None:
    """Qwen3-Next: gated delta rule and attention; the rule by chunks and the rule by steps round apart."""
    config = Qwen3NextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        initializer_range=0.15,
    )
    torch.manual_seed(0)
    model, prompts = AutoModelForCausalLM.from_config(config, dtype=torch.float32), make_prompts()
    done = run(
        make_generator(model, stops=range(2, 6)).generate(
            prompts, Sampling(max_new_tokens=12, seed=1), count=2
        )
    )
    assert scored(model, prompts, done) < 1e-3


def test_a_model_that_would_ignore_the_cache_is_refused() -> None:
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with pytest.raises(ModelError, match="cannot decode mamba models"):
        make_generator(model)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = MiniMaxConfig(vocab_size=VOCABULARY, num_local_experts=2, **shape)
    with pytest.raises(ModelError, match="cannot decode minimax models"):
        make_generator(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


@pytest.mark.parametrize("config", [RecurrentGemmaConfig, BartConfig])
def test_a_cache_that_a_model_does_not_use_is_found_by_trying(config: Any) -> None:
    """One keeps its state to itself, the other has layers that the cache does not count."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
    small = {"d_model": 32, "decoder_layers": 4, "decoder_ffn_dim": 32, "lru_width": 32}
    model = AutoModelForCausalLM.from_config(
        config(vocab_size=VOCABULARY, num_key_value_heads=1, **shape, **small), dtype=torch.float32
    )
    with pytest.raises(ModelError, match=f"cannot decode {model.config.model_type} models"):
        run(make_generator(model).generate(make_prompts(), Sampling(max_new_tokens=2, seed=1)))


def test_logprobs_under_truncated_sampling_are_those_of_the_whole_distribution() -> None:
    model, prompts = make_model(), make_prompts()
    sampling = Sampling(max_new_tokens=10, top_k=5, top_p=0.8, seed=1)
    done = run(make_generator(model).generate(prompts, sampling, count=2))
    assert scored(model, prompts, done) < 1e-4


def test_logprobs_follow_the_weights() -> None:
    """After an update the generator samples from what the learner now holds (rule 4)."""
    model, prompts = make_model(), make_prompts()
    policy = sft_config(optimizer={"name": "torch.optim.SGD", "kwargs": {"lr": 0.5}}).policy
    learner, generator = make_learner(model, policy), make_generator(model)
    before = run(generator.generate(prompts, Sampling(8, seed=1)))
    run(sft.step(learner, [sample_of(Rollout(prompts[0], before[0][0], ""))]))
    generator.load_weights(7, learner.weights())
    after = run(generator.generate(prompts, Sampling(8, seed=1)))
    assert after[0][0].version == 7
    assert after[0][0].logprobs != before[0][0].logprobs
    assert scored(model, prompts, after) < 1e-4


def test_other_weights_than_the_learners_are_taken_or_refused_never_kept() -> None:
    """A generator with weights of its own copies all of them; any that were not given would be stale."""
    learner, generator = make_learner(make_model(seed=0)), make_generator(make_model(seed=1))
    weights = dict(learner.weights())
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(HoneError, match=r"version 3.* does not hold the learner's weights"):
        generator.load_weights(3, ((n, w) for n, w in weights.items() if n != name))
    with pytest.raises(HoneError, match="no weight other"):
        generator.load_weights(3, [("other", weights[name])])
    with pytest.raises(HoneError, match="the last update of the generator's weights failed"):
        run(generator.generate(make_prompts(), Sampling(4)))
    generator.load_weights(3, learner.weights())
    assert generator.checksum() == checksum(learner.weights())
    assert all(torch.equal(w, weights[n]) for n, w in named_weights(generator.model))


@pytest.fixture(scope="module")
def reference() -> tuple[PreTrainedModel, list[Prompt], Sampling, dict[str, list[tuple[int, ...]]]]:
    model, prompts, sampling = make_model(), make_prompts(), Sampling(max_new_tokens=12, seed=5)
    done = run(make_generator(model).generate(prompts, sampling, count=4))
    return (
        model,
        prompts,
        sampling,
        {p.id: [c.tokens for c in cs] for p, cs in zip(prompts, done, strict=True)},
    )


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 100])
def test_tokens_do_not_depend_on_the_rows_at_once(reference: Any, rows: int) -> None:
    model, prompts, sampling, expected = reference
    done = run(make_generator(model, max_rows=rows).generate(prompts, sampling, count=4))
    assert {p.id: [c.tokens for c in cs] for p, cs in zip(prompts, done, strict=True)} == expected


def test_tokens_do_not_depend_on_company_or_order(reference: Any) -> None:
    model, prompts, sampling, expected = reference
    backwards = prompts[::-1]
    done = run(make_generator(model).generate(backwards, sampling, count=4))
    assert {p.id: [c.tokens for c in cs] for p, cs in zip(backwards, done, strict=True)} == expected
    for prompt in prompts:
        alone = run(make_generator(model).generate([prompt], sampling, count=2))
        assert [c.tokens for c in alone[0]] == expected[prompt.id][:2]


def test_completions_differ_by_number_seed_and_draw(reference: Any) -> None:
    model, prompts, sampling, expected = reference
    assert len(set(expected["p0"])) == 4
    other = run(make_generator(model).generate(prompts[:1], Sampling(12, seed=6), count=4))
    assert [c.tokens for c in other[0]] != expected["p0"]
    again = Prompt("p0 drawn again", prompts[0].tokens, prompts[0].content)
    assert [c.tokens for c in run(make_generator(model).generate([again], sampling, count=4))[0]] != expected[
        "p0"
    ]


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_greedy_equals_transformers(kind: str) -> None:
    model, prompts = make_model(kind).eval(), make_prompts()
    done = run(make_generator(model).generate(prompts, Sampling(max_new_tokens=20, temperature=0.0), count=2))
    for prompt, (first, second) in zip(prompts, done, strict=True):
        theirs = model.generate(
            torch.tensor([prompt.tokens]),
            attention_mask=torch.ones(1, len(prompt.tokens)),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=EOS,
            pad_token_id=PAD,
            use_cache=True,
        )
        assert list(first.tokens) == theirs[0, len(prompt.tokens) :].tolist()
        assert first == second
    assert scored(model, prompts, done) < 1e-4  # of the untempered distribution


class Calls:
    """Rows and new tokens of every call of the model, but for the three that try its cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.trials = 3
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self.trials:
            self.trials -= 1
            return
        self.shapes.append(tuple(kwargs["input_ids"].shape))


def test_a_groups_prompt_is_computed_once() -> None:
    model = make_model()
    calls = Calls(model)
    run(make_generator(model, stops=()).generate(make_prompts(), Sampling(max_new_tokens=3), count=6))
    # 5 prompts, the longest of 12 tokens, once; then 30 rows decode one token at a time (the first comes for free)
    assert calls.shapes == [(5, 12), (30, 1), (30, 1)]


def test_a_groups_prompt_is_computed_once_when_not_all_rows_fit() -> None:
    """7 rows at once hold two groups of three: no group is cut in two."""
    model = make_model()
    calls = Calls(model)
    run(
        make_generator(model, stops=(), max_rows=7).generate(
            make_prompts((4, 4, 4)), Sampling(max_new_tokens=2), count=3
        )
    )
    assert calls.shapes == [(2, 4), (6, 1), (1, 4), (3, 1)]


def test_finished_rows_leave_the_batch() -> None:
    model = make_model()
    calls = Calls(model)
    done = run(
        make_generator(model, stops=range(2, 12)).generate(
            make_prompts(), Sampling(max_new_tokens=40), count=8
        )
    )
    lengths = [len(c.tokens) for completions in done for c in completions]
    needed = Counter()
    for length in lengths:
        needed.update(range(1, length))  # a row that goes on after token t is in the call that follows it
    decoded = [rows for rows, new in calls.shapes[1:] if new == 1]
    assert len(decoded) == max(lengths) - 1
    for step, rows in enumerate(decoded, start=1):
        assert needed[step] <= rows <= needed[step] / module.COMPACT_BELOW + 1
    assert decoded[-1] < 10 < decoded[0]


def test_the_models_mode_is_left_as_it_was() -> None:
    model = make_model().train()
    run(make_generator(model).generate(make_prompts(), Sampling(max_new_tokens=2)))
    assert model.training


def test_generation_leaves_the_model_trainable() -> None:
    """Nothing made under inference mode stays in the model (rotary tables of a length-dependent rope, for one)."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = make_model(max_position_embeddings=16, rope_parameters=rope)
    run(make_generator(model, stops=()).generate(make_prompts((10,)), Sampling(max_new_tokens=30)))
    learner = make_learner(model)
    sample = Sample("long", torch.arange(2, 42), torch.tensor([False] + [True] * 39))
    assert run(sft.step(learner, [sample]))["loss"] > 0


@pytest.mark.parametrize("shape", [(3,), (64, 48), (70, 300), (2, 4099)])
def test_the_checksum_sees_weights_that_have_changed_places(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    before, last = checksum([("w", weight)]), len(weight) - 1
    for other in (weight.flip(0), weight.roll(1, -1), weight[torch.tensor([last, *range(1, last), 0])]):
        assert checksum([("w", other)]) != before
    assert checksum([("w", weight.clone())]) == before
    assert checksum([("w", weight.t() if weight.dim() == 2 else weight.flip(0))]) != before
    assert checksum([("w", weight), ("v", weight + 1)]) != checksum([("w", weight + 1), ("v", weight)])
    assert checksum([("w", weight.bfloat16())]) == checksum([("w", weight.bfloat16().clone())])
