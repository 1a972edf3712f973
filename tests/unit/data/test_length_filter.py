"""Counting tokens ahead: the same counts, the same rows, and an environment that is put back."""

from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path

import pytest

from hone.config.schema.dpo import DPOConfig
from hone.config.schema.grpo import GRPOConfig
from hone.config.schema.sft import SFTConfig
from hone.data import build_preferences, build_prompts, build_supervised, length_filter
from hone.data.chat import Encoder
from hone.data.formats import Format
from hone.errors import DataError
from tests.helpers.conversations import with_template

TEXTS = ["apples", "", "<|im_end|> as text", "漢字 é", "the answer is 12", "\n\n  x "] * 20


@pytest.mark.parametrize("name", ["chatml", "llama3", "metaspace", "plain"])
def test_counts_are_those_of_the_tokens(name, request):
    tokenizer = request.getfixturevalue(name)
    encoder = Encoder(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(2)  # as some tokenizer.json have it
    tokenizer.backend_tokenizer.enable_padding(length=64)
    kept = [text for text in TEXTS if "|" not in text]
    assert encoder.count_tokens(kept) == [len(encoder.tokens_of(text)) for text in kept]
    assert encoder.count_tokens(TEXTS)[2] > 4  # one by one: none of it is the control token


def test_a_long_text_is_no_matter_for_a_warning_of_transformers(chatml, caplog, monkeypatch):
    """Whether it is cut or refused is said by the run."""
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)
    tokenizer = copy.deepcopy(chatml)
    tokenizer.model_max_length = 4
    encoder = Encoder(tokenizer)
    assert len(encoder.tokens_of("the answer is 12 " * 4)) > 4
    encoder.encode(Format().supervised({"text": "the answer is 12 " * 4}))
    assert caplog.text == ""


def rows_of(path: Path, kind: str) -> str:
    rows = []
    for i in range(400):  # prompts of 1 to 120 words: short by bytes, short, near the limit, and long
        asked = " ".join(["apples"] * (i * 7 % 120 + 1))
        answers = {"answer": f"{i}"} if kind == "sft" else {"chosen": f"{i}", "rejected": f"no {i}"}
        rows.append({"question": asked, **answers})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_what_is_left_out_is_what_encoding_every_row_leaves_out(kind, tmp_path, chatml, monkeypatch):
    root, build = (SFTConfig, build_supervised) if kind == "sft" else (DPOConfig, build_preferences)
    data = {"train": {"dataset_name": rows_of(tmp_path / "rows.jsonl", kind)}}
    config = root(data=data, policy={"max_total_sequence_length": 64})
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(length_filter, "_CHUNK", 32)  # many chunks, which are counted while others are read
    screened = build(config, chatml)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"

    class Undecided(length_filter.LengthEstimator):
        def surely_shorter(self, content):
            return False

        def compare_tokens(self, contents):
            return [None for _ in contents]

    for module in ("supervised", "preferences"):
        monkeypatch.setattr(f"hone.data.{module}.LengthEstimator", Undecided)
    encoded = build(config, chatml)
    assert screened.training_datasets[0].excluded == encoded.training_datasets[0].excluded
    assert 100 < screened.num_rows < 300
    assert dict(screened.counts) == dict(encoded.counts)
    drawn, again = screened.next(50), encoded.next(50)
    assert [sample.id for sample in drawn] == [sample.id for sample in again]
    assert all((a.tokens_T == b.tokens_T).all() for a, b in zip(drawn, again, strict=True))


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)


@pytest.mark.parametrize("build", [build_supervised, build_prompts])
def test_a_conversation_whose_roles_do_not_alternate_is_refused_before_the_first_step(
    build, tmp_path, chatml
):
    ask, answer = {"role": "user", "content": "apples"}, {"role": "assistant", "content": "12"}
    rows = [{"messages": [ask, answer]}] * 20 + [{"messages": [ask, ask, answer]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = SFTConfig if build is build_supervised else GRPOConfig
    config = root(data={"train": {"dataset_name": str(path)}}, policy={"max_total_sequence_length": 256})
    with pytest.raises(
        DataError, match=r"row 20 \(line 21\): .*refuses the conversation: roles must alternate"
    ):
        build(config, with_template(chatml, ALTERNATING))


@pytest.mark.parametrize("build", [build_supervised, build_prompts])
def test_what_a_row_gives_the_template_counts_towards_its_length(build, tmp_path, chatml):
    documents = "{% for d in documents or [] %}{{ d.text }}{% endfor %}"
    ask = {"role": "user", "content": "apples"}
    rows: list[dict] = [{"messages": [ask, {"role": "assistant", "content": "12"}]} for _ in range(9)]
    rows[5]["chat_template_kwargs"] = {"documents": [{"text": "the answer is 12 " * 60}]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = SFTConfig if build is build_supervised else GRPOConfig
    data = {"train": {"dataset_name": str(path)}, "overlong_prompts": "drop"}
    built = build(
        root(data=data, policy={"max_total_sequence_length": 100}),
        with_template(chatml, documents + chatml.chat_template),
    )
    assert built.num_rows == 8
    assert list(built.training_datasets[0].excluded) == [5]
