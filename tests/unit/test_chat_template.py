"""Generation stops at the tokens that assistant turns end with: read off the templates that TRL ships."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny
import yaml
from transformers import GenerationConfig, PreTrainedTokenizerBase

from hone.chat_template import end_notice, turn_ends
from hone.engine.build import build
from hone.engine.local.model_factory import make_model
from hone.export import convert
from hone.model.loading import load_model, load_tokenizer, stop_tokens

SPECIAL = re.compile(
    r"<\|[^|>\s'\"{}]+\|?>|<[^|>\s'\"{}]+\|>|<｜[^>]*>|<(?:start|end)_of_turn>|<end_of_utterance>"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer_with(template: str, eos: str = "<|endoftext|>") -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer("hone/tiny", chat_template=template)
    written = sorted({*SPECIAL.findall(tokenizer.chat_template), "<|im_end|>", eos})
    tokenizer.add_special_tokens({"additional_special_tokens": written})
    tokenizer.eos_token = eos
    return tokenizer


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("qwen2_5", ["<|im_end|>"]),
        ("qwen3_5_think", ["<|im_end|>"]),
        ("phi3", ["<|end|>"]),
        ("llama3_1", ["<|eot_id|>"]),
        ("gemma3", ["<end_of_turn>"]),
        ("cohere2", ["<|END_OF_TURN_TOKEN|>"]),  # behind <|END_RESPONSE|>
        ("deepseek_r1_distill", ["<｜end▁of▁sentence｜>"]),  # not what stands between two calls
        ("glm4moe", ["<|observation|>", "<|user|>"]),  # turns end with the next role
        ("gptoss", ["<|call|>", "<|return|>"]),  # <|end|> also stands behind a thought
        ("smolvlm", ["<end_of_utterance>"]),  # content has to be a list of parts
    ],
)
def test_what_ends_a_turn(name: str, ends: list[str]) -> None:
    trl = pytest.importorskip("trl")
    tokenizer = tokenizer_with(str(Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"))
    assert sorted(tokenizer.convert_ids_to_tokens(list(turn_ends(tokenizer)))) == ends


def test_a_tokenizer_without_a_template_has_none() -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = None
    assert (turn_ends(tokenizer), end_notice(tokenizer)) == ((), "")


def test_the_model_stops_where_turns_end_and_says_so_at_the_start() -> None:
    """As Qwen2.5's base models: turns end with <|im_end|>, a text with <|endoftext|>."""
    tokenizer = tokenizer_with(CHATML)
    both = tuple(sorted(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])))
    model = load_model("hone/tiny")
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    assert stop_tokens(model, tokenizer) == both
    notice = "assistant turns with <|im_end|>; the tokenizer's end of sequence is <|endoftext|>"
    config = tiny.grpo_config(policy={"model_name": "hone/tiny"})
    with build(config, tokenizer) as parts:
        assert set(both) <= set(parts.generator.stop_tokens)
        assert any(notice in text for text in parts.notices)
    assert end_notice(tokenizer_with(CHATML, eos="<|im_end|>")) == ""


@pytest.mark.parametrize("adapter", [False, True])
def test_what_is_exported_stops_there_too(adapter: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(CHATML)
    start = tmp_path / "base"
    load_model("hone/tiny-sft").save_pretrained(start)
    tokenizer.save_pretrained(start)
    policy = tiny.sft_config(model_name=str(start), lora={"enabled": adapter, "dim": 2}).policy
    learner = tiny.make_learner(make_model(policy, tokenizer, 0, True, True), policy)
    step = tmp_path / "step_1"
    tiny.run(learner.save(step / "policy"))
    tokenizer.save_pretrained(step / "policy" / "tokenizer")
    (step / "config.yaml").write_text(yaml.safe_dump({"policy": policy.model_dump()}))
    out = convert(step / "config.yaml", step / "policy" / "weights", tmp_path / "out", adapter=adapter)
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert set(GenerationConfig.from_pretrained(out).eos_token_id) >= set(ends)
