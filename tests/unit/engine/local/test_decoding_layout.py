"""A CPU decodes from transposed copies of the matrices, made anew for every call."""

from __future__ import annotations

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import make_model, run
from torch import nn

from hone.engine.local import decoding_layout
from hone.engine.local.decoding_layout import FEWEST_TOKENS, transposed_weights
from hone.types import Sampling

SAMPLING = Sampling(max_new_tokens=FEWEST_TOKENS, temperature=0.0, ignore_eos=True)


@pytest.fixture
def small_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_layout, "TRANSPOSED_FROM", 0)


def strides(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: module.weight.stride() for name, module in model.named_modules() if hasattr(module, "weight")
    }


@pytest.mark.usefixtures("small_models_too")
@pytest.mark.parametrize("kind", ["llama", "qwen3"])  # qwen3: tied
def test_linear_layers_have_transposed_copies_until_the_block_exits(kind: str) -> None:
    model = make_model(kind)
    before, parameters, ids = strides(model), list(model.parameters()), torch.arange(2, 12)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with transposed_weights(model, FEWEST_TOKENS):
            within = strides(model)
            assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)
    assert (before["lm_head"][1], within["lm_head"][0]) == (1, 1)  # the fast axis: inputs before, outputs now
    assert within["model.embed_tokens"] == before["model.embed_tokens"]  # read by rows
    assert strides(model) == before
    assert all(own is held for own, held in zip(parameters, model.parameters(), strict=True))


@pytest.mark.usefixtures("small_models_too")
def test_weights_that_changed_between_two_calls_are_sampled_from() -> None:
    model, prompts = make_model("qwen3"), make_prompts()
    generator = make_generator(model)
    run(generator.generate(prompts, SAMPLING))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.7)
    done = run(generator.generate(prompts, SAMPLING))
    other = make_model("qwen3")
    other.load_state_dict(model.state_dict())
    assert [c.tokens for (c,) in done] == [
        c.tokens for (c,) in run(make_generator(other).generate(prompts, SAMPLING))
    ]


@pytest.mark.usefixtures("small_models_too")
def test_a_call_that_fails_leaves_the_models_own_weights() -> None:
    model = make_model()
    before = strides(model)
    with pytest.raises(KeyError), transposed_weights(model, FEWEST_TOKENS):
        raise KeyError
    assert strides(model) == before


@pytest.mark.parametrize("tokens", [FEWEST_TOKENS - 1, FEWEST_TOKENS])
def test_small_models_and_short_calls_have_no_copies(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    if tokens < FEWEST_TOKENS:
        monkeypatch.setattr(decoding_layout, "TRANSPOSED_FROM", 0)
    with transposed_weights(model, tokens):
        assert model.lm_head.weight.is_contiguous()
