"""The same tokens and targets as TRL's SFT data preparation, on the same rows."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from hone.data.chat import Encoder
from hone.data.formats import Format

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k" / "train.jsonl"
TEMPLATES = Path(trl.__file__).parent / "chat_templates"

TALK = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
    {"role": "user", "content": "Thanks! How many apples?"},
    {"role": "assistant", "content": "Tom has 7 apples."},
]
SYSTEM = [{"role": "system", "content": "let me think"}, *TALK]


def prepared_by_trl(rows, tokenizer, **options):
    """input_ids and targets of each row, from SFTTrainer._prepare_dataset without building a trainer."""
    trainer = types.SimpleNamespace(_tokenizer=tokenizer, chat_template=None, completion_only_loss=True)
    args = trl.SFTConfig(
        output_dir="unused", report_to=[], max_length=None, use_cpu=True, bf16=False, **options
    )
    out = trl.SFTTrainer._prepare_dataset(
        trainer, datasets.Dataset.from_list(rows), tokenizer, args, False, None, "train"
    )
    return [(r["input_ids"], [label != -100 for label in r["labels"]]) for r in out]


def ours(rows, tokenizer):
    encoder = Encoder(tokenizer)
    encoded = [encoder.encode(Format().supervised(r)) for r in rows]
    return [(e.tokens, e.mask) for e in encoded]


def first_is_no_target(rows):
    """TRL leaves the first label to the shift in the loss; here it is never a target."""
    return [(tokens, [False, *mask[1:]]) for tokens, mask in rows]


@pytest.mark.parametrize("name", ["plain", "llama3", "metaspace"])
def test_plain_language_modelling(name, request):
    tokenizer = request.getfixturevalue(name)
    rows = [{"text": t} for t in ("the answer is 12", "Tom has 7 apples.\nMia too.", "think")]
    assert ours(rows, tokenizer) == first_is_no_target(prepared_by_trl(rows, tokenizer))


@pytest.mark.parametrize("name", ["plain", "llama3", "metaspace"])
def test_plain_prompt_completion(name, request):
    tokenizer = request.getfixturevalue(name)
    rows = [
        {"prompt": "What is the capital of France?", "completion": " Paris"},
        {"prompt": "Tom has\n", "completion": "7 apples. Mia has 3."},
    ]
    assert ours(rows, tokenizer) == first_is_no_target(prepared_by_trl(rows, tokenizer))


def test_conversations_with_generation_marks(marked):
    rows = [{"messages": TALK}, {"messages": SYSTEM}, {"messages": TALK[:2]}]
    assert ours(rows, marked) == prepared_by_trl(rows, marked, assistant_only_loss=True)


def test_conversational_prompt_completion_but_for_the_line_end_behind_the_turn(chatml):
    """TRL also trains on the white space behind <|im_end|>, which no generation reaches."""
    rows = [{"prompt": TALK[:1], "completion": TALK[1:2]}, {"prompt": TALK[:3], "completion": TALK[3:]}]
    for (tokens, mask), (their_tokens, their_mask) in zip(
        ours(rows, chatml), prepared_by_trl(rows, chatml), strict=True
    ):
        assert tokens == their_tokens
        assert (mask[:-1], mask[-1], their_mask[-1]) == (their_mask[:-1], False, True)
        assert chatml.decode(tokens[-1]) == "\n"


@pytest.mark.skipif(not GSM8K.exists(), reason="needs the GSM8K rows")
def test_gsm8k_rows(llama3):
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()[:40]]
    as_trl = [
        {
            "prompt": [{"role": "user", "content": r["question"]}],
            "completion": [{"role": "assistant", "content": r["answer"]}],
        }
        for r in rows
    ]
    assert ours(rows, llama3) == prepared_by_trl(as_trl, llama3)


FAMILIES = ["qwen2_5", "qwen3", "llama3", "qwen3_instruct_2507"]
# TRL's marked Qwen3 template renders earlier turns otherwise than the original: nothing to compare there.
SHAPES = [(f, t) for f in FAMILIES for t in (TALK[:2], SYSTEM[:3], TALK) if f != "qwen3" or len(t) < 4]


@pytest.mark.parametrize(("family", "talk"), SHAPES)
def test_places_found_without_marks_are_those_of_trls_marked_templates(family, talk, chatml, llama3):
    """TRL patches templates with {% generation %} marks by hand; we find the same places in the originals."""
    original, patched = (TEMPLATES / f"{family}{end}.jinja" for end in ("", "_training"))
    if not patched.exists() or not original.exists():
        pytest.skip("this TRL has no such template")
    import copy

    tokenizer = copy.copy(llama3 if family == "llama3" else chatml)
    results = []
    for template in (original, patched):
        tokenizer.chat_template = template.read_text()
        results += ours([{"messages": talk}], tokenizer)
    (tokens, mask), (marked_tokens, marked_mask) = results
    assert tokens == marked_tokens
    white = [k for k, token in enumerate(tokens) if not tokenizer.decode(token).strip()]
    differ = [k for k in range(len(mask)) if mask[k] != marked_mask[k]]
    assert set(differ) <= set(white), "only white space behind the end-of-turn token may differ"
    assert any(mask)
