"""Where a completion ends: every end-of-sequence token, stop tokens, stop strings, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from generating import make_generator, make_prompts
from tiny import EOS, make_model, make_tokenizer, run
from torch import Tensor
from transformers import PreTrainedModel

from hone.engine.local import generator as module
from hone.engine.local.generator import LocalGenerator
from hone.errors import HoneError
from hone.model import load_tokenizer
from hone.model.loading import stop_tokens
from hone.types import Completion, Prompt, Sampling


def generation_of(model: PreTrainedModel, **sampling: Any) -> list[Completion]:
    done = run(
        make_generator(model, stops=sampling.pop("stops", ())).generate(
            make_prompts(), Sampling(**sampling), count=8
        )
    )
    return [completion for completions in done for completion in completions]


def test_every_end_of_sequence_token_stops() -> None:
    """A list in the generation config, another in the model config, the tokenizer's: all of them."""
    model = make_model()
    model.generation_config.eos_token_id = [7, 11]
    model.config.eos_token_id = 13
    stops = stop_tokens(model, make_tokenizer())
    assert stops == (EOS, 7, 11, 13)
    completions = generation_of(model, max_new_tokens=60, stops=stops)
    ends = {c.tokens[-1] for c in completions if c.finish == "stop"}
    assert ends == {EOS, 7, 11, 13}
    assert all(not set(stops) & set(c.tokens[:-1]) for c in completions)
    assert all(len(c.tokens) == len(c.logprobs) for c in completions)


def test_stop_token_ids_stop_too() -> None:
    completions = generation_of(make_model(), max_new_tokens=40, stops=(EOS,), stop_token_ids=(20, 21))
    assert {c.tokens[-1] for c in completions if c.finish == "stop"} == {EOS, 20, 21}
    assert all(not {EOS, 20, 21} & set(c.tokens[:-1]) for c in completions)


def test_completions_without_a_stop_have_the_length_asked_for() -> None:
    completions = generation_of(make_model(), max_new_tokens=9, stops=())
    assert {(len(c.tokens), c.finish) for c in completions} == {(9, "length")}


def test_the_context_limits_prompt_and_completion_together() -> None:
    prompts = make_prompts((2, 10, 15))
    done = run(
        make_generator(make_model(), stops=(), context=16).generate(prompts, Sampling(max_new_tokens=8))
    )
    assert [len(completions[0].tokens) for completions in done] == [8, 6, 1]


@pytest.mark.parametrize(
    ("length", "message"), [(16, "p0 has 16 tokens and the context 16"), (0, "p0 has no tokens")]
)
def test_a_prompt_that_cannot_be_answered_is_named(length: int, message: str) -> None:
    with pytest.raises(HoneError, match=message):
        run(
            make_generator(make_model(), context=16).generate(
                make_prompts((length,)), Sampling(max_new_tokens=8)
            )
        )


class Script:
    """In place of `sample`: the same given tokens for every row."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = iter(tokens)

    def __call__(self, logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        tokens = torch.full((logits.shape[0],), next(self.tokens))
        return tokens, torch.zeros(logits.shape[0])


def test_stop_strings_stop_at_the_token_that_completes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    tokens = tokenizer("abcXdeYfg", add_special_tokens=False).input_ids
    assert len(tokens) == 9
    monkeypatch.setattr(module, "sample", Script(tokens))
    sampling = Sampling(max_new_tokens=9, stop_strings=("nothing like it", "deY"))
    done = run(make_generator(make_model()).generate(make_prompts(), sampling, count=2))
    for completions in done:
        for completion in completions:
            assert tokenizer.decode(completion.tokens) == "abcXdeY"
            assert completion.finish == "stop"


def test_stop_strings_of_several_bytes_per_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded tokenizer knows bytes: one such character is three tokens, and the string is 12 characters."""
    tokenizer = load_tokenizer("hone/tiny")
    stop = "答案到此为止谢谢各位。。"
    tokens = tokenizer("ok " + stop, add_special_tokens=False).input_ids
    if len(tokens) < 20:
        pytest.skip("this tokenizer joins these characters")
    monkeypatch.setattr(module, "sample", Script([*tokens, *[5] * 50]))
    model = make_model(vocab_size=len(tokenizer))
    generator = LocalGenerator(model, tokenizer, stop_tokens=(), context=120)
    sampling = Sampling(max_new_tokens=len(tokens) + 20, stop_strings=(stop,))
    (completion,) = run(generator.generate([Prompt("p", (5, 6), "")], sampling))[0]
    assert completion.tokens == tuple(tokens)
    assert completion.finish == "stop"
