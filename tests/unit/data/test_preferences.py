"""Preference data: what each format says, where the prompt ends, and what is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.config.schema.dpo import DPOConfig
from hone.data import PreferenceData, build_preferences
from hone.errors import ConfigError, DataError
from hone.types import Sample

HH = Path(__file__).resolve().parents[4] / "shared/data/hh-rlhf/harmless-base-test.jsonl.gz"
ASK = {"role": "user", "content": "What is 3 + 9?"}
GOOD, BAD = {"role": "assistant", "content": "12"}, {"role": "assistant", "content": "13, I think"}


def data_of(
    rows: list[dict[str, Any]], tokenizer: Any, tmp_path: Path, length: int = 256, **entry: Any
) -> PreferenceData:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DPOConfig(
        policy={"max_total_sequence_length": length},
        data={"train": {"dataset_name": str(path), **entry}, "shuffle": False},
        dpo={"max_num_epochs": 1},
    )
    return build_preferences(config, tokenizer)


def said(data: PreferenceData, tokenizer: Any, n: int = 1) -> list[tuple[str, str, str]]:
    """(side, prompt, targets) of each sample."""
    return [
        (
            sample.id.rpartition(":")[2],
            tokenizer.decode(sample.tokens_T[: sample.prefix]),
            tokenizer.decode(sample.tokens_T[sample.loss_mask_T]),
        )
        for sample in data.next(n)
    ]


CONVERSATION = "<|im_start|>user\nWhat is 3 + 9?<|im_end|>\n<|im_start|>assistant\n"
ANSWERS = [("chosen", CONVERSATION, "12<|im_end|>"), ("rejected", CONVERSATION, "13, I think<|im_end|>")]


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        ({"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}, {}),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, {}),
        ({"prompt": "What is 3 + 9?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, {}),  # Tulu 3
        ({"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, {}),
        ({"prompt": "What is 3 + 9?", "chosen": [GOOD], "rejected": [BAD]}, {}),
        ({"prompt": [ASK], "chosen": GOOD, "rejected": BAD}, {}),
        ({"context": [ASK], "response1": "13, I think", "response2": "12", "overall_preference": 2}, {}),
        ({"context": [ASK], "response1": "12", "response2": "13, I think", "overall_preference": -1}, {}),
        (
            {
                "context": [ASK],
                "completions": [
                    {"rank": 2, "completion": [{"role": "assistant", "content": "No idea"}]},
                    {"rank": 0, "completion": [GOOD]},
                    {"rank": 3, "completion": [BAD]},
                ],
            },
            {},
        ),
        (
            {"question": "What is 3 + 9?", "better": "12", "worse": "13, I think"},
            {"input_key": "question", "chosen_key": "better", "rejected_key": "worse"},
        ),
    ],
    ids=[
        *("explicit", "implicit", "Tulu 3", "repeated prompt", "prompt as text", "one message"),
        *("HelpSteer3 second", "HelpSteer3 first", "ranked", "named columns"),
    ],
)
def test_every_format_says_the_same(row: dict[str, Any], entry: Any, chatml: Any, tmp_path: Path) -> None:
    assert said(data_of([row], chatml, tmp_path, **entry), chatml) == ANSWERS


def test_plain_text_is_taken_literally(plain: Any, tmp_path: Path) -> None:
    row = {"prompt": "The capital of France is", "chosen": " Paris", "rejected": " Rome."}
    assert said(data_of([row], plain, tmp_path), plain) == [
        ("chosen", "The capital of France is", " Paris<|im_end|>"),
        ("rejected", "The capital of France is", " Rome.<|im_end|>"),
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The capital of France is Paris", "The capital of France is Rome", "The capital of France is"),
        ("The capital is Paris.", "The capital is Pakistan.", "The capital is"),  # they differ within a word
        ("The capital is Paris", "The capital is Paris, yes", "The capital is"),
        ("The capital", "The capital is Paris", "The"),
        ("The capital, Paris", "The capital is Paris", "The capital"),
        ("Ask:\n\nyes", "Ask:\n\nno", "Ask:"),
        (
            "\n\nHuman: Hello?\n\nAssistant: Hi! I am",
            "\n\nHuman: Hello?\n\nAssistant: Hi! You",
            "\n\nHuman: Hello?\n\nAssistant:",
        ),
        (
            "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: D",
            "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: E",
            "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:",
        ),
    ],
)
def test_implicit_prompts_of_text(
    chosen: str, rejected: str, prompt: str, plain: Any, tmp_path: Path
) -> None:
    (good, bad) = said(data_of([{"chosen": chosen, "rejected": rejected}], plain, tmp_path), plain)
    eos = "<|im_end|>"
    assert (good[1], bad[1]) == (prompt, prompt)
    assert (good[1] + good[2], bad[1] + bad[2]) == (chosen + eos, rejected + eos)


def test_the_prompts_tokens_are_those_that_a_generator_is_given(plain: Any, tmp_path: Path) -> None:
    """Where a prompt and an answer would merge into one token, they are tokenised apart."""
    row = {"prompt": "The cap", "chosen": "ital of France", "rejected": "s"}
    samples = data_of([row], plain, tmp_path).next(1)
    alone = plain("The cap", add_special_tokens=False)["input_ids"]
    assert [sample.tokens_T[: len(alone)].tolist() for sample in samples] == [alone, alone]
    assert [sample.prefix for sample in samples] == [len(alone)] * 2


def test_a_pair_is_a_unit_with_labels_and_margin(chatml: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], "margin": 0.5},
        {"prompt": [ASK], "chosen": [BAD], "rejected": [GOOD], "chosen_score": 8.0, "rejected_score": 5.0},
        {"prompt": [ASK], "chosen": [BAD], "rejected": [GOOD]},
    ]
    samples = data_of(rows, chatml, tmp_path).next(3)
    assert [sample.id for sample in samples[:2]] == ["rows:0@0:chosen", "rows:0@0:rejected"]
    assert [sample.unit for sample in samples] == ["rows:0@0"] * 2 + ["rows:1@0"] * 2 + ["rows:2@0"] * 2
    assert [sample.sequence_columns["label"] for sample in samples] == [1.0, -1.0] * 3
    assert [sample.sequence_columns["margin"] for sample in samples] == [0.5, 0.5, 3.0, 3.0, 0.0, 0.0]
    assert all(sample.group == sample.unit and sample.prefix > 0 for sample in samples)


def test_what_cannot_be_learned_from_is_counted_with_its_reason(chatml: Any, tmp_path: Path) -> None:
    other = {"role": "user", "content": "And 4 + 4?"}
    long = {"role": "user", "content": "What is " + "1 + " * 200 + "1?"}
    rows = [
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [GOOD]},
        {"context": [ASK], "response1": "a", "response2": "b", "overall_preference": 0},
        {"chosen": [ASK, GOOD], "rejected": [other, BAD]},
        {"prompt": None, "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [{"role": "user", "content": " "}], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [long], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASK], "chosen": [BAD], "rejected": [GOOD]},
    ]
    data = data_of(rows, chatml, tmp_path, length=64)
    assert [sample.unit for sample in data.next(5)] == ["rows:0@0"] * 2 + ["rows:7@0"] * 2
    reasons = {name: count for name, count in data.counts.items() if name.startswith("excluded_")}
    assert reasons.pop("excluded_rows") == 6
    why = ("identical", "tie", "prompts_differ", "null_prompt", "empty_prompt", "truncated")
    assert {name: count for name, count in reasons.items() if count} == dict.fromkeys(
        (f"excluded_{reason}" for reason in why), 1
    )
    assert data.excluded_notice() == (
        "6 of 8 rows are left out: 1 identical, 1 tie, 1 prompts differ, 1 without a prompt ('prompt' is null), "
        "1 empty prompt, 1 truncated"
    )


@pytest.mark.parametrize("column", ["prompt", "question", "conversations"])
def test_a_prompt_that_is_null_is_named_where_the_sides_hold_none(
    column: str, chatml: Any, tmp_path: Path
) -> None:
    rows = [
        {column: None, "chosen": "It is 4", "rejected": "It is 5"},
        {column: None, "chosen": [GOOD], "rejected": [BAD]},
    ]
    why = rf"can be trained on \(2 without a prompt \('{column}' is null\)\): check its columns"
    with pytest.raises(DataError, match=why):
        data_of(rows, chatml, tmp_path)
    whole = {column: None, "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}
    assert said(data_of([whole], chatml, tmp_path), chatml) == ANSWERS


def test_sides_that_truncation_makes_the_same_are_left_out_when_drawn(chatml: Any, tmp_path: Path) -> None:
    text = "the answer is 12, because 3 + 9 = 12. " * 20
    sides = {side: [{"role": "assistant", "content": text + side}] for side in ("chosen", "rejected")}
    rows = [{"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}, {"prompt": [ASK], **sides}]
    data = data_of(rows, chatml, tmp_path, length=48)
    assert {sample.unit for sample in data.next(2)} == {"rows:0@0"}
    assert (data.counts["drawn"], data.counts["excluded"]) == (2, 1)


def test_when_no_row_is_left_the_message_says_why(chatml: Any, tmp_path: Path) -> None:
    rows = [{"prompt": [ASK], "chosen": [GOOD], "rejected": [GOOD]}] * 3
    with pytest.raises(DataError, match=r"rows\.jsonl can be trained on \(3 identical\)"):
        data_of(rows, chatml, tmp_path)


@pytest.mark.parametrize(
    ("row", "entry", "words"),
    [
        ({"prompt": "a", "answer": "b"}, {}, ["prompt, answer", "'chosen' and 'rejected'"]),
        ({"prompt": "a", "chosen": "b", "rejected": [BAD]}, {}, ["both be text", "both be lists"]),
        ({"prompt": "a", "completion": "b", "label": "good"}, {}, ["'label'", "'good'"]),
        (
            {"question": "a", "worse": "b"},
            {"input_key": "question", "chosen_key": "better", "rejected_key": "worse"},
            ["'better'", "question"],
        ),
        ({"context": [ASK], "completions": [{"rank": 0, "completion": [GOOD]}]}, {}, ["two completions"]),
        ({"prompt": [ASK], "chosen": [GOOD], "rejected": 3}, {}, ["list of messages"]),
    ],
)
def test_bad_rows_are_named(
    row: dict[str, Any], entry: Any, words: list[str], chatml: Any, tmp_path: Path
) -> None:
    good = {
        "prompt": [ASK],
        "chosen": [GOOD],
        "rejected": [BAD],
        "better": "1",
        "worse": "2",
        "question": "q",
    }
    with pytest.raises(DataError) as caught:
        data_of([good, row], chatml, tmp_path, **entry)
    for word in [*words, "rows.jsonl, row 1"]:
        assert word in str(caught.value), str(caught.value)


def test_templates_of_one_answer_are_refused(chatml: Any, tmp_path: Path) -> None:
    row = {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}
    with pytest.raises(ConfigError, match="chosen_key"):
        data_of([row], chatml, tmp_path, output_key="chosen")


def test_rated_answers(chatml: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": [ASK], "completion": [GOOD], "label": True},
        {"prompt": [ASK], "completion": [BAD], "label": False},
        {"prompt": "What is 3 + 9?", "completion": "12", "label": 1},
    ]
    data = data_of(rows, chatml, tmp_path)
    assert not data.paired
    samples = data.next(3)
    assert [sample.sequence_columns["label"] for sample in samples] == [1.0, -1.0, 1.0]
    assert len({sample.unit for sample in samples}) == 3
    mixed = [*rows, {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}]
    with pytest.raises(DataError, match="a run needs rows of one kind"):
        data_of(mixed, chatml, tmp_path)


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {n} + 1?"}],
            "chosen": [{"role": "assistant", "content": f"{n + 1}"}],
            "rejected": [{"role": "assistant", "content": f"{n + 2}, maybe"}],
        }
        for n in range(count)
    ]


def test_mismatched_answers_are_of_the_next_row_whatever_the_batch(chatml: Any, tmp_path: Path) -> None:
    data = data_of(rows_of(4), chatml, tmp_path)
    samples = data.next(4)
    texts = [chatml.decode(sample.tokens_T) for sample in data.mismatched(samples)]
    for n, text in enumerate(texts):
        assert f"What is {n} + 1?" in text
        assert f"assistant\n{(n + 1) % 4 + 1}<|im_end|>" in text
    alone = data.mismatched(samples[2:4])
    assert [chatml.decode(sample.tokens_T) for sample in alone] == texts[1:2]
    assert [chatml.decode(s.tokens_T[s.loss_mask_T]) for s in alone] == ["3<|im_end|>"]


def test_the_order_resumes_and_can_be_looked_ahead(chatml: Any, tmp_path: Path) -> None:
    def build() -> PreferenceData:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(10)))
        entry = {"dataset_name": str(path), "split_validation_size": 0.2}
        return build_preferences(DPOConfig(data={"train": entry}, dpo={"max_num_epochs": 3}), chatml)

    def units(samples: list[Sample]) -> list[str]:
        return [sample.unit for sample in samples][::2]

    first, ahead = build(), build()
    upcoming = [sample.unit.split("@")[0] for chunk in ahead.upcoming(8) for sample in chunk][::2]
    drawn = [*units(first.next(3)), *units(first.next(2))]
    state = first.state_dict()
    rest = units(first.next(5))
    assert [unit.split("@")[0] for unit in [*drawn, *rest]][:8] == upcoming
    second = build()
    second.load_state_dict(state)
    assert units(second.next(5)) == rest
    assert second.counts["drawn"] == 10
    assert {sample.unit.split(":")[0] for sample in second.validation} == {"validation/rows"}
    held = {sample.unit.split(":")[1] for sample in second.validation}
    assert len(held) == 2
    assert not held & {unit.split(":")[1].split("@")[0] for unit in [*drawn, *rest]}


@pytest.mark.skipif(not HH.exists(), reason="the HH-RLHF file is not here")
def test_hh_rlhf(plain: Any) -> None:
    config = DPOConfig(
        policy={"max_total_sequence_length": 512},
        data={"train": {"dataset_name": str(HH), "limit": 200}, "shuffle": False},
    )
    data = build_preferences(config, plain)
    assert data.counts["rows"] == 200
    samples = data.next(100)
    assert len(samples) > 100
    for good, bad in zip(samples[::2], samples[1::2], strict=True):
        prompt = plain.decode(good.tokens_T[: good.prefix])
        assert prompt.endswith("\n\nAssistant:")
        assert good.tokens_T[: good.prefix].tolist() == bad.tokens_T[: bad.prefix].tolist()
        assert good.loss_mask_T.nonzero()[0] == bad.loss_mask_T.nonzero()[0] == good.prefix
