"""Suites as files: each is whole, its prompts are what its protocol says, and data of another shape is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from hone.config.suite_names import suite_names
from hone.data.chat import Encoder
from hone.errors import ConfigError, DataError
from hone.evaluation.extraction import extractor_of
from hone.evaluation.suite import load_suite
from hone.evaluation.suite_data import Examples, load_problems
from hone.evaluation.suite_prompts import PromptWriter, check_lengths, uses_chat
from tests.helpers.byte_level import byte_level
from tests.helpers.suite_rows import TEST, write_suite

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<s>", "</s>", "<|user|>", "<|assistant|>"]


def encoder(*, chat: bool) -> Encoder:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(SPECIALS, bos=None, trim_offsets=False), eos_token="</s>", bos_token="<s>"
    )
    tokenizer.chat_template = CHAT if chat else None
    return Encoder(tokenizer)


def writer(name: str, path: Path, *, chat: bool, count: int) -> PromptWriter:
    suite = load_suite(name)
    return PromptWriter(suite, encoder(chat=chat), chat, Examples(suite, str(path), count))


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_is_whole(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert "https://" in suite.paper
    assert set(suite.data.problem) <= set(suite.data.columns)
    for given in suite.extraction.values():
        extractor_of(given, name)
    if suite.kind != "loglikelihood":
        assert suite.metric in suite.extraction
        assert set(suite.extraction) == {"strict", "flexible"}


@pytest.mark.parametrize("name", suite_names())
@pytest.mark.parametrize("chat", [False, True])
def test_every_suite_writes_prompts_from_rows_of_its_shape(name: str, chat: bool, tmp_path: Path) -> None:
    path = write_suite(tmp_path, name)
    suite = load_suite(name)
    count = suite.fewshot.count if suite.fewshot is not None else 0
    rows = load_problems(suite, str(path), None)
    assert len(rows) == len(TEST[name])
    one = writer(name, path, chat=chat, count=count)
    further = {"choice": "x"} if suite.kind == "loglikelihood" else {}
    for row in rows:
        content = one.content(row, **further)
        text = content if isinstance(content, str) else content[-1]["content"]
        assert "{{" not in text
        assert isinstance(content, str) != chat
        if suite.target and not chat:
            assert not content.endswith(suite.render(suite.target, row))


def test_a_base_model_gets_worked_examples_before_the_problem(tmp_path: Path) -> None:
    one = writer("gsm8k", write_suite(tmp_path, "gsm8k"), chat=False, count=2)
    assert one.content(TEST["gsm8k"][0]) == (
        "Question: What is 0 + 1?\nAnswer: 0 + 1 = 1\n#### 1\n\n"
        "Question: What is 1 + 1?\nAnswer: 1 + 1 = 2\n#### 2\n\n"
        "Question: A hen lays 2 eggs a day. How many in 6 days?\nAnswer:"
    )


def test_examples_of_a_chat_are_earlier_turns(tmp_path: Path) -> None:
    one = writer("gsm8k", write_suite(tmp_path, "gsm8k"), chat=True, count=1)
    messages = one.content(TEST["gsm8k"][0])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "0 + 1 = 1\n#### 1"
    prompt = one.prompts(load_problems(one.suite, str(tmp_path / "gsm8k"), 1))[0]
    assert one.encoder.tokenizer.decode(prompt.tokens).endswith("#### NUMBER</s><|assistant|>")
    assert prompt.row["gold"] == "12"


def test_mmlu_examples_are_of_the_problems_own_subject(tmp_path: Path) -> None:
    one = writer("mmlu", write_suite(tmp_path, "mmlu"), chat=False, count=2)
    assert one.content(TEST["mmlu"][0]) == (
        "The following are multiple choice questions (with answers) about high school geography.\n\n"
        "Example 0 of high_school_geography?\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\n"
        "Example 1 of high_school_geography?\nA. a\nB. b\nC. c\nD. d\nAnswer: B\n\n"
        "Which is the largest ocean?\nA. Arctic\nB. Indian\nC. Pacific\nD. Atlantic\nAnswer:"
    )


def test_marks_of_wikihow_are_not_in_a_prompt(tmp_path: Path) -> None:
    one = writer("hellaswag", write_suite(tmp_path, "hellaswag"), chat=False, count=0)
    assert one.content(TEST["hellaswag"][0]) == "Baking bread: A baker kneads the dough. Then the baker"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gsm9k", "did you mean gsm8k?"),
        ("MATH500", "did you mean math500?"),
        ("zzzz", "The suites: arc_challenge, arc_easy"),
        ("own.yaml", "there is no file own.yaml"),
    ],
)
def test_an_unknown_suite_is_refused_with_the_nearest(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(name)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("kind: loglikelihood\n", "needs choices, label"),
        ("kind: speech\n", "kind"),
        ("colour: blue\n", "colour"),
        ("version: [", "is not a suite"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(change: str, says: str, tmp_path: Path) -> None:
    key = change.split(":")[0]
    lines = (Path(load_suite.__globals__["FOLDER"]) / "gsm8k.yaml").read_text().splitlines(keepends=True)
    (tmp_path / "own.yaml").write_text("".join(line for line in lines if not line.startswith(key)) + change)
    with pytest.raises(ConfigError) as caught:
        load_suite(str(tmp_path / "own.yaml"))
    assert says in str(caught.value)
    assert "own.yaml" in str(caught.value)


def refusal(action: Any) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        action()
    return str(caught.value)


def test_data_without_a_column_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "?", "reply": "1"}\n')
    said = refusal(lambda: load_problems(load_suite("gsm8k"), str(tmp_path / "rows.jsonl"), None))
    assert "has no column answer; it has question, reply" in said


def test_a_single_file_has_no_examples(tmp_path: Path) -> None:
    path = write_suite(tmp_path, "gsm8k") / "test.jsonl"
    said = refusal(lambda: Examples(load_suite("gsm8k"), str(path), 5))
    assert "takes 5 examples from the split train" in said
    assert "eval.num_fewshot=0" in said


def test_more_examples_than_there_are_are_refused(tmp_path: Path) -> None:
    one = writer("mmlu", write_suite(tmp_path, "mmlu"), chat=False, count=6)
    assert "has 5 examples with subject=anatomy, and 6 are asked for" in refusal(
        lambda: one.content(TEST["mmlu"][1])
    )


def test_a_suite_without_examples_refuses_some(tmp_path: Path) -> None:
    assert "has no few-shot examples" in refusal(lambda: Examples(load_suite("math500"), None, 4))


def test_a_chat_needs_a_template() -> None:
    gsm8k, mmlu = load_suite("gsm8k"), load_suite("mmlu")
    with_template, without = encoder(chat=True), encoder(chat=False)
    assert uses_chat(gsm8k, with_template, None, "m")
    assert not uses_chat(gsm8k, without, None, "m")
    assert not uses_chat(mmlu, with_template, None, "m")
    assert uses_chat(mmlu, with_template, True, "m")
    assert "m has no chat template" in refusal(lambda: uses_chat(gsm8k, without, True, "m"))


def test_long_prompts_stop_or_are_counted(tmp_path: Path) -> None:
    one = writer("gsm8k", write_suite(tmp_path, "gsm8k"), chat=False, count=0)
    prompts = one.prompts(load_problems(one.suite, str(tmp_path / "gsm8k"), None))
    shorter, longer = sorted(len(prompt.tokens) for prompt in prompts)
    assert shorter < longer
    assert "1 of 2 prompts are longer" in refusal(
        lambda: check_lengths(one.suite, prompts, shorter, drop=False)
    )
    kept, left_out = check_lengths(one.suite, prompts, shorter, drop=True)
    assert (len(kept), left_out) == (1, 1)
    assert len(check_lengths(one.suite, prompts, longer, drop=False)[0]) == 2
