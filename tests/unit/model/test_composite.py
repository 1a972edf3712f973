"""What is loaded of a checkpoint of text and vision is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import yaml
from tiny import make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config, Llama4Config

from hone.engine.model_notices import model_notices
from hone.export import convert
from hone.model.composite import left_out

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def test_a_text_model_out_of_a_checkpoint_of_text_and_vision_is_told_of(tmp_path: Path) -> None:
    Llama4Config(text_config=TEXT).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (told,) = left_out("llama4", AutoConfig.from_pretrained(tmp_path))
    assert told.startswith("llama4 holds models of text and vision: the text model alone (Llama4ForCausalLM)")
    assert told.replace("llama4 ", f"{tmp_path} ", 1) in model_notices(
        tiny.sft_config(model_name=str(tmp_path)), make_tokenizer()
    )


def test_what_is_loaded_as_a_whole_needs_no_word() -> None:
    assert left_out("gemma3", Gemma3Config(text_config=TEXT)) == []
    assert left_out("llama", tiny.make_model().config) == []


def test_a_conversion_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    Llama4Config(text_config=TEXT).save_pretrained(base)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base).text_config)
    policy = tiny.sft_config(model_name=str(base)).policy
    learner = tiny.make_learner(model, policy)
    step = tmp_path / "step_1"
    tiny.run(learner.save(step / "policy"))
    make_tokenizer().save_pretrained(step / "policy" / "tokenizer")
    (step / "config.yaml").write_text(yaml.safe_dump({"policy": policy.model_dump()}))
    convert(step / "config.yaml", step / "policy" / "weights", tmp_path / "out")
    assert "the text model alone (Llama4ForCausalLM)" in capsys.readouterr().err
