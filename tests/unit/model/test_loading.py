"""Loading: what cannot be loaded, or only half, says so in one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import EOS, VOCABULARY, make_model, make_tokenizer

from hone.errors import ConfigError, HoneError, ModelError
from hone.model import load_model, load_tokenizer
from hone.model.attention import NAME
from hone.model.loading import context_length, stop_tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    model = make_model("llama")
    model.set_attn_implementation("sdpa")
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def test_a_folder_comes_back_as_it_was_saved(folder: Path) -> None:
    model = load_model(str(folder))
    expected = make_model("llama").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.config._attn_implementation == NAME
    assert context_length(model) == 128


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_weights_are_held_in_fp32(folder: Path, stored: torch.dtype) -> None:
    make_model("llama").to(stored).save_pretrained(folder)
    assert {p.dtype for p in load_model(str(folder)).parameters()} == {torch.float32}


def test_overrides_change_the_config(folder: Path) -> None:
    model = load_model(str(folder), overrides={"max_position_embeddings": 999, "attention_dropout": 0.25})
    assert context_length(model) == 999
    assert model.config.attention_dropout == 0.25


def test_an_unknown_override_is_refused(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"attention_dropuot: llama models have no such.*mean attention_dropout\?"
    ):
        load_model(str(folder), overrides={"attention_dropuot": 0.1})


def test_activation_checkpointing_is_on_in_training_alone(folder: Path) -> None:
    model = load_model(str(folder), activation_checkpointing=True)
    assert model.is_gradient_checkpointing
    assert not load_model(str(folder)).is_gradient_checkpointing


def one_line(error: HoneError) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model folder .*nowhere does not exist"):
        load_model(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="nowhere does not exist"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without config\.json.*name the run.s folder"):
        load_model(str(tmp_path))
    (tmp_path / "config.yaml").write_text("policy: {}")
    with pytest.raises(ModelError, match=r"is a run's folder: `hone convert .* OUT` makes a model of it"):
        load_model(str(tmp_path))


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has a config\.json but no weights"):
        load_model(str(folder))


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_damaged_weights(folder: Path, content: bytes | None) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50] if content is None else content)
    with pytest.raises(ModelError, match="cannot load model /") as caught:
        load_model(str(folder))
    one_line(caught.value)


def test_a_damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load model /") as caught:
        load_model(str(folder))
    one_line(caught.value)


def test_an_unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing_known"}))
    with pytest.raises(ModelError, match="cannot load model") as caught:
        load_model(str(folder))
    assert "nothing_known" in one_line(caught.value)


def test_weights_that_are_not_all_there(folder: Path) -> None:
    """transformers would warn and draw the missing ones at random."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks \d+ weights of LlamaForCausalLM, such as model\.layers\.2"):
        load_model(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    with pytest.raises(
        ModelError, match=r"down_proj.* is \[32, 48\] in the weight files and \[32, 96\] by the config"
    ):
        load_model(str(folder), overrides={"intermediate_size": 96})


def test_overrides_that_contradict_each_other(folder: Path) -> None:
    with pytest.raises(
        ModelError, match=r"lm_head\.weight is \[64, 32\].*\[64, 33\] by the config"
    ) as caught:
        load_model(str(folder), overrides={"hidden_size": 33})
    one_line(caught.value)


def test_an_override_of_the_wrong_type(folder: Path) -> None:
    with pytest.raises(ModelError, match="'num_hidden_layers' expected int, got str") as caught:
        load_model(str(folder), overrides={"num_hidden_layers": "x"})
    one_line(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": "1.0"}', b'{"version": "1.0", "model": {"type": "X"}}']
)
def test_a_damaged_tokenizer(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match="cannot load tokenizer /") as caught:
        load_tokenizer(str(folder))
    one_line(caught.value)


def test_the_embedded_model_is_drawn_from_the_seed() -> None:
    first, same, other = (load_model("hone/tiny", seed=seed) for seed in (1, 1, 2))
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    load_model("hone/tiny", seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # and draws from nobody else's generator


def without(folder: Path, *tokens: str) -> None:
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in tokens}))
    if (folder / "special_tokens_map.json").is_file():
        (folder / "special_tokens_map.json").unlink()


def test_a_tokenizer_without_a_pad_token_pads_with_the_end(folder: Path) -> None:
    without(folder, "pad_token")
    assert load_tokenizer(str(folder)).pad_token_id == EOS


def test_a_tokenizer_with_neither_is_refused(folder: Path) -> None:
    without(folder, "pad_token", "eos_token")
    with pytest.raises(ModelError, match="neither a pad nor an eos token"):
        load_tokenizer(str(folder))


def test_chat_templates(folder: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]

    def rendered(template: str | None) -> str:
        return load_tokenizer(str(folder), chat_template=template).apply_chat_template(
            messages, tokenize=False
        )

    assert rendered(None) == "abc"
    assert rendered("{% for m in messages %}<{{ m['content'] }}>{% endfor %}") == "<ab><c>"
    (tmp_path / "template.jinja").write_text("{% for m in messages %}{{ m['role'] }} {% endfor %}")
    assert rendered(str(tmp_path / "template.jinja")) == "user assistant "


def test_a_template_file_that_is_not_there_is_no_template(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"chat_template=my_template\.jinja is neither"):
        load_tokenizer(str(folder), chat_template="my_template.jinja")


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [(None, None, (EOS,)), ([7, 8], None, (EOS, 7, 8)), (7, [9, 7], (EOS, 7, 9)), (None, 12, (EOS, 12))],
)
def test_stop_tokens_of_all_who_have_some(
    generation: object, config: object, expected: tuple[int, ...]
) -> None:
    model = make_model()
    model.generation_config.eos_token_id = generation
    model.config.eos_token_id = config
    assert stop_tokens(model, make_tokenizer()) == expected
    assert max(expected) < VOCABULARY


def test_one_of_several_chat_templates_is_chosen_by_name(folder: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"tool_use": "{{ 'tools' }}", "rag": "{{ 'documents' }}"}
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder), chat_template="rag").chat_template == "{{ 'documents' }}"
    with pytest.raises(ConfigError, match=r"chat_template=rga is neither.*own are called tool_use, rag"):
        load_tokenizer(str(folder), chat_template="rga")
