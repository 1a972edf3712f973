"""The shipped tokenizer, chat template and weights, and the recipes that train them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone import embedded
from hone.embedded import task

SCRIPTS = Path(__file__).parents[3] / "scripts"
NAMES = ["hone/tiny", "hone/tiny-sft"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(embedded.MODELS["hone/tiny"])


@pytest.fixture(scope="module")
def build():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import build_embedded
    finally:
        sys.path.remove(str(SCRIPTS))
    return build_embedded


@pytest.mark.parametrize(
    "text",
    [
        "Tom has 12 apples.",
        "  two  spaces, a tab\t, lines\r\n\n and the end  ",
        "naïve café, e\u0301 and \u00e9 stay apart",
        "漢字 עברית \u200f 👩‍👩‍👧‍👦 \U0010ffff \x00\x7f",
        "1234567 3.14 -7 ½ ٣",
        "<think>a</think><answer> 7</answer><|im_end|> <| im_end |>",
        "def f(x):\n    return x['a'] != \"b\"\n",
    ],
)
def test_every_text_comes_back(tokenizer, text: str):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_character_of_the_basic_plane_comes_back(tokenizer):
    for start in range(0, 0xD800, 0x400):
        text = "".join(map(chr, range(start, start + 0x400)))
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_and_tags(tokenizer):
    assert len(tokenizer) == 512
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert set(tokenizer.all_special_tokens) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        ids = tokenizer(f"a{tag}b")["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == ["a", tag, "b"]
        assert tag in tokenizer.decode(ids, skip_special_tokens=True)
    # Numbers as the answers have them are one token, with and without a space before.
    assert all(len(tokenizer(f"{space}{n}")["input_ids"]) == 1 for n in range(1, 21) for space in ("", " "))


def test_template_masks_what_the_assistant_says_with_its_end(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tom has 7 apples."},
        {"role": "assistant", "content": "<answer>7</answer>"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "I guess."},
    ]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    said = [t for t, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(said) == "<answer>7</answer><|im_end|>I guess.<|im_end|>"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTom has 7 apples.<|im_end|>\n"
        "<|im_start|>assistant\n<answer>7</answer><|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nI guess.<|im_end|>\n"
    )


def test_a_longer_conversation_begins_with_the_shorter_one(tokenizer):
    def tokens(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)

    for row in task.rows("validation", 8):
        messages = [*row["prompt"], *row["completion"], *row["prompt"], *row["completion"]]
        whole = tokens(messages)
        for turns in range(1, 4):
            assert whole[: len(tokens(messages[:turns]))] == tokens(messages[:turns])
        asked = tokens(messages[:3], add_generation_prompt=True)
        assert whole[: len(asked)] == asked
        assert tokenizer.decode(whole[len(asked) :]) == row["completion"][0]["content"] + "<|im_end|>\n"


@pytest.mark.parametrize("name", NAMES)
def test_folders_are_complete(name: str):
    folder = embedded.MODELS[name]
    files = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    weights = {"model.safetensors"} if name == "hone/tiny-sft" else set()
    assert {path.name for path in folder.iterdir()} == files | weights | {"chat_template.jinja"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_500_000


def test_text_files_are_those_that_the_script_builds(build, tmp_path):
    build.build_texts(tmp_path)
    assert build.check(tmp_path, weights=False) == 0
    (tmp_path / "tiny" / "config.json").write_text("{}\n")
    assert build.check(tmp_path, weights=False) == 1


def test_shipped_weights_are_half_good(build):
    model = AutoModelForCausalLM.from_pretrained(embedded.MODELS["hone/tiny-sft"])
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert 0.8e6 < sum(weight.numel() for weight in model.parameters()) < 1.2e6
    assert 0.2 <= build.accuracy(embedded.MODELS["hone/tiny-sft"], 128) <= 0.5


def test_recipes_load_and_agree_with_the_script(build):
    from hone.config import load

    sft, grpo, evaluation = (
        load(kind, embedded.RECIPES[kind], []).config for kind in ("sft", "grpo", "eval")
    )
    assert sft.policy.model_name == "hone/tiny"
    assert grpo.policy.model_name == evaluation.generation.model_name == "hone/tiny-sft"
    batch, steps = sft.policy.train_global_batch_size, sft.sft.max_num_steps
    assert (batch, steps, sft.policy.optimizer.kwargs["lr"]) == (build.BATCH, build.STEPS, build.LR)
    assert batch * steps == task.SPLIT_ROWS["sft"]  # one epoch
    first, second, milestones = sft.policy.scheduler
    assert first.kwargs["total_iters"] + second.kwargs["total_iters"] == steps
    assert milestones.milestones == [first.kwargs["total_iters"]] == [build.WARM_UP]
    assert grpo.policy.train_global_batch_size == (
        grpo.grpo.num_prompts_per_step * grpo.grpo.num_generations_per_prompt
    )
