"""Weights that arrive between two tokens of a running completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import make_model, run
from torch import Tensor

from hone.engine.local import decoding_layout
from hone.errors import HoneError
from hone.model.weights import named_weights
from hone.types import Completion, Sampling, VersionSpan

LENGTH, AT = 40, 7
GREEDY = Sampling(max_new_tokens=LENGTH, temperature=0.0, ignore_eos=True)


def generator_with(actions: dict[int, Callable[[Any], None]]) -> Any:
    """A generator for which `actions[n]` is called between its tokens n and n + 1."""
    count = [0]

    def between_tokens() -> None:
        count[0] += 1
        actions.get(count[0], lambda generator: None)(generator)

    generator = make_generator(make_model(), stops=(), between_tokens=between_tokens)
    return generator


def new_weights(generator: Any) -> None:
    generator.load_weights(1, named_weights(make_model(seed=5)))


@pytest.fixture(params=["own layout", "transposed copies"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models decode from transposed copies of their matrices."""
    if request.param == "transposed copies":
        monkeypatch.setattr(decoding_layout, "uses_copies", lambda model: True)


@torch.no_grad()
def expected(prompt: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """By transformers alone: keys and values of the first AT - 1 tokens are of the old model, the rest of the new."""
    from transformers import DynamicCache

    old, new = make_model().eval(), make_model(seed=5).eval()
    cache, tokens, logprobs = DynamicCache(config=old.config), list[int](), list[float]()
    ids = torch.tensor([prompt])
    for step in range(LENGTH):
        model = old if step < AT else new
        logits: Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1].float()
        tokens.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1)[tokens[-1]]))
        ids = torch.tensor([[tokens[-1]]])
    return tokens, logprobs


def test_completions_go_on_with_the_new_weights_and_the_keys_and_values_that_they_have(layout: None) -> None:
    generator = generator_with({AT: new_weights})
    done: list[list[Completion]] = run(generator.generate(make_prompts(), GREEDY))
    for prompt, (completion,) in zip(make_prompts(), done, strict=True):
        tokens, logprobs = expected(prompt.tokens)
        assert list(completion.tokens) == tokens
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert completion.versions == (VersionSpan(0, 0, AT), VersionSpan(1, AT, LENGTH))
    alone = make_generator(make_model(seed=5), stops=())
    alone.version = 1
    again = [run(one.generate(make_prompts(), GREEDY)) for one in (generator, alone)]
    assert again[0] == again[1], "the next call is of the new weights alone"


def test_completions_that_have_ended_are_of_the_old_weights(layout: None) -> None:
    sampling = Sampling(max_new_tokens=LENGTH, seed=1)
    plain = run(make_generator(make_model()).generate(make_prompts(), sampling, count=3))
    early = [one for group in plain for one in group if len(one.tokens) <= AT]
    assert early
    generator = generator_with({AT: new_weights})
    generator.stop_tokens = make_generator(make_model()).stop_tokens
    found = run(generator.generate(make_prompts(), sampling, count=3))
    assert [one for group in found for one in group if len(one.tokens) <= AT] == early


def test_completions_that_nobody_wants_end_with_what_they_have(layout: None) -> None:
    prompts = make_prompts()
    whole = run(generator_with({}).generate(prompts, GREEDY, count=2))
    generator = generator_with({AT: lambda one: one.abort([(prompts[1].id, 1), (prompts[3].id, 0)])})
    cut = run(generator.generate(prompts, GREEDY, count=2))
    lengths = [[len(one.tokens) for one in group] for group in cut]
    assert lengths == [[LENGTH] * 2, [LENGTH, AT], [LENGTH] * 2, [AT, LENGTH], [LENGTH] * 2]
    assert cut[1][1].tokens == whole[1][1].tokens[:AT]
    assert [one.tokens for one in (cut[0] + cut[2] + cut[4])] == [
        one.tokens for one in (whole[0] + whole[2] + whole[4])
    ]
    assert run(generator.generate(prompts, GREEDY, count=2)) == whole, "a later call has all"


def test_after_an_update_that_fails_nothing_is_sampled_from_a_mixture(layout: None) -> None:
    def broken(generator: Any) -> None:
        with pytest.raises(HoneError):
            generator.load_weights(1, [("no such weight", torch.zeros(1))])

    with pytest.raises(HoneError, match="last update of the generator's weights failed"):
        run(generator_with({AT: broken}).generate(make_prompts(), GREEDY))
