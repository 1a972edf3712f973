"""Models with a scalar head: which checkpoints have one, how a new one is drawn, where it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIGS, make_model
from transformers import AutoModelForSequenceClassification, BertConfig, GPT2Config

from hone.errors import ModelError
from hone.model.loading import empty_model, load_model
from hone.model.model_size import load_model_size
from hone.model.scalar_head import head_name, is_scalar
from hone.model.scorer import ScoreRequest, TokenScorer

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gemma2"]


@pytest.fixture
def causal(tmp_path: Path) -> str:
    make_model("llama").save_pretrained(tmp_path / "causal")
    return str(tmp_path / "causal")


def classifier(folder: Path, labels: int = 1, config: Any = None) -> str:
    config = config or CONFIGS["llama"]()
    config.num_labels = labels
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return str(folder)


def test_a_new_head_is_drawn_with_the_seed_and_the_body_is_the_checkpoints(causal: str) -> None:
    one, same, other = (load_model(causal, scalar=True, seed=seed) for seed in (1, 1, 2))
    assert is_scalar(one)
    assert head_name(one) == "score"
    assert one.score.weight.shape == (1, 32)
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    body = make_model("llama").model.state_dict()
    assert all(torch.equal(weight, body[name]) for name, weight in one.model.state_dict().items())


def test_drawing_a_head_leaves_the_runs_generator_alone(causal: str) -> None:
    before = torch.get_rng_state()
    load_model(causal, scalar=True, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_an_embedded_model_without_weights_gets_a_head_too() -> None:
    one, same = (load_model("hone/tiny", scalar=True, seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


def test_a_reward_model_keeps_its_head(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    ours = load_model(folder, scalar=True, seed=9, fresh_head=False)
    assert torch.equal(ours.score.weight, theirs.score.weight)


@pytest.mark.parametrize("load", [load_model, load_model_size])
def test_a_head_with_two_labels_is_refused_by_the_config_alone(load: Any, tmp_path: Path) -> None:
    folder = classifier(tmp_path / "two", labels=3)
    (tmp_path / "two" / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ModelError, match="num_labels=3: a reward model has one"):
        load(folder, scalar=True)


def test_a_language_model_is_no_reward_model(causal: str) -> None:
    with pytest.raises(ModelError, match=r"LlamaForCausalLM, not a reward model.*num_labels=1"):
        load_model(causal, scalar=True, fresh_head=False)


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="scores texts and cannot write any"):
        load_model(classifier(tmp_path / "rm"))


def test_a_head_for_tokens_is_refused(causal: str) -> None:
    config = Path(causal) / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "LlamaForTokenClassification"))
    with pytest.raises(ModelError, match="LlamaForTokenClassification: name a reward model"):
        load_model(causal, scalar=True)


def test_an_encoder_cannot_be_read_at_single_positions(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    folder = classifier(tmp_path / "bert", config=BertConfig(vocab_size=64, **shape))
    with pytest.raises(ModelError, match="use a decoder"):
        TokenScorer(load_model(folder, scalar=True))


def test_a_body_that_looks_ahead_is_refused(monkeypatch: pytest.MonkeyPatch, causal: str) -> None:
    model = load_model(causal, scalar=True)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    monkeypatch.setattr(type(model.model), "forward", bidirectional(type(model.model).forward))
    with pytest.raises(ModelError, match="not read off its last token"):
        TokenScorer(model)


def bidirectional(forward: Any) -> Any:
    def see_all(self: Any, input_ids: torch.Tensor, **given: Any) -> Any:
        length = input_ids.shape[1]
        given["attention_mask"] = torch.ones(1, 1, length, length, dtype=torch.bool)
        return forward(self, input_ids, **given)

    return see_all


@pytest.mark.parametrize("kind", [*KINDS, "gpt2"])
def test_values_are_the_models_own_scores_of_every_beginning(kind: str, tmp_path: Path) -> None:
    small = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64}
    config = GPT2Config(**small) if kind == "gpt2" else CONFIGS[kind]()
    model = load_model(classifier(tmp_path / kind, config=config), scalar=True).eval()
    scorer = TokenScorer(model)
    assert scorer.scalar
    assert not scorer.plain_head
    assert scorer.supports_packing
    ids = torch.randint(2, 64, (1, 9))
    read = scorer(ScoreRequest(ids, torch.arange(9), ids[0])).values_N
    model.config.pad_token_id = 0
    own = [model(ids[:, : end + 1]).logits[0, 0] for end in range(9)]
    torch.testing.assert_close(read, torch.stack(own), rtol=0, atol=1e-5)
    assert read.dtype == torch.float32


def test_values_are_fp32_whatever_the_body_computes_in(causal: str) -> None:
    model = load_model(causal, scalar=True)
    scorer, ids = TokenScorer(model), torch.randint(2, 64, (1, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = scorer(ScoreRequest(ids, torch.arange(9), ids[0])).values_N
        hidden = model.model(ids).last_hidden_state
    assert torch.equal(read, (hidden[0].float() @ model.score.weight.T)[:, 0])


def test_without_weights_the_same_model_is_made(causal: str) -> None:
    empty = empty_model(causal, scalar=True)
    real = load_model(causal, scalar=True)
    assert {n: p.shape for n, p in empty.named_parameters()} == {
        n: p.shape for n, p in real.named_parameters()
    }
    assert empty.device.type == "meta"
    assert empty.config.to_dict() == real.config.to_dict()


def test_the_shape_has_no_logits(causal: str) -> None:
    shape, language = load_model_size(causal, scalar=True), load_model_size(causal)
    assert shape.scalar
    assert not shape.plain_head
    assert shape.parameters == language.parameters - 64 * 32 + 32
    assert shape.linears == language.linears
