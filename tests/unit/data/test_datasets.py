"""What the loops draw: samples and prompts, their order, their counts, resuming, and what wrong data says."""

from __future__ import annotations

import copy
import json
import random
from types import SimpleNamespace

import pytest
import torch

from hone.config.schema import EvalConfig
from hone.config.schema.grpo import GRPOConfig
from hone.config.schema.sft import SFTConfig
from hone.data import build_eval_prompts, build_prompts, build_supervised
from hone.data.chat import Encoder
from hone.data.formats import PromptText
from hone.data.length_filter import LengthEstimator
from hone.errors import ConfigError, DataError

WORDS = ("apples", "France", "Mia", "think")
ROWS = [{"question": f"How many {WORDS[i % 4]}? {i}", "answer": str(i)} for i in range(23)]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def sft(data, length=64, **section):
    return SFTConfig.model_validate(
        {"data": data, "policy": {"max_total_sequence_length": length}, "sft": section}
    )


def grpo(data, length=64, **section):
    return GRPOConfig.model_validate(
        {"data": data, "policy": {"max_total_sequence_length": length}, "grpo": section}
    )


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "rows.jsonl")


def test_samples_are_the_rows(file, chatml):
    data = build_supervised(sft({"train": {"dataset_name": file}, "shuffle": False}), chatml)
    (sample,) = data.next(1)
    assert sample.id == "rows:0@0"
    assert sample.tokens_T.dtype == torch.long
    assert sample.loss_mask_T.dtype == torch.bool
    assert not sample.loss_mask_T[0]
    assert chatml.decode(sample.tokens_T[sample.loss_mask_T]) == "0<|im_end|>"
    assert data.counts["rows"] == 23
    assert data.num_rows == 23


def test_every_row_once_per_epoch_and_a_short_last_batch(file, chatml):
    data = build_supervised(sft({"train": {"dataset_name": file}}, max_num_epochs=2), chatml)
    assert data.total_steps(5) == 10
    batches = []
    while batch := data.next(5):
        batches.append([s.id for s in batch])
    assert [len(b) for b in batches] == [5] * 9 + [1]
    ids = [i for b in batches for i in b]
    assert sorted(ids) == sorted(f"rows:{r}@{e}" for e in (0, 1) for r in range(23))
    assert data.epoch == 2


@pytest.mark.parametrize("build", [build_supervised, build_prompts])
def test_resuming_anywhere_goes_on_exactly(build, tmp_path, chatml):
    entries = [
        {"dataset_name": write(tmp_path / "a.jsonl"), "weight": 0.3},
        {"dataset_name": write(tmp_path / "b.jsonl", ROWS[:7]), "weight": 0.7},
    ]
    config = (sft if build is build_supervised else grpo)({"train": entries})

    def described(items):
        return [
            (i.id, [int(t) for t in (i.tokens_T if build is build_supervised else i.tokens)]) for i in items
        ]

    whole = build(config, chatml)
    expected = [described(whole.next(4)) for _ in range(30)]
    generator = random.Random(0)
    for _ in range(8):
        cut = generator.randrange(30)
        first = build(config, chatml)
        assert [described(first.next(4)) for _ in range(cut)] == expected[:cut]
        second = build(config, chatml)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert [described(second.next(4)) for _ in range(30 - cut)] == expected[cut:]
        assert second.counts == whole.counts


def test_mixture_has_the_weights_asked_for(tmp_path, chatml):
    entries = [
        {"dataset_name": write(tmp_path / "a.jsonl"), "weight": 1.0},
        {"dataset_name": write(tmp_path / "b.jsonl"), "weight": 3.0},
    ]
    data = build_prompts(grpo({"train": entries}), chatml)
    names = [p.dataset for p in data.next(40)]
    assert (names.count("a"), names.count("b")) == (10, 30)


def test_two_datasets_of_one_name_keep_their_ids_apart(tmp_path, chatml):
    (tmp_path / "x").mkdir()
    paths = [write(tmp_path / "rows.jsonl"), write(tmp_path / "x" / "rows.jsonl")]
    data = build_supervised(sft({"train": [{"dataset_name": p} for p in paths]}), chatml)
    assert len({s.id for s in data.next(46)}) == 46


def test_prompts(file, chatml):
    config = grpo({"train": {"dataset_name": file, "env_name": "math"}, "shuffle": False}, max_num_epochs=9)
    data = build_prompts(config, chatml)
    first = data.next(1)[0]
    assert first.content == [{"role": "user", "content": "How many apples? 0"}]
    assert first.row == ROWS[0]
    assert (first.id, first.dataset, first.env) == ("rows:0@0.0", "rows", "math")
    assert chatml.decode(first.tokens).endswith("<|im_start|>assistant\n")
    ids = [p.id for _ in range(20) for p in data.next(5)]
    assert len(set(ids)) == 100
    assert ids[22] == "rows:0@1.23"
    assert data.counts["drawn"] == 101


def test_system_prompt_and_template_settings_reach_the_tokens(tmp_path, file, qwen3):
    (tmp_path / "s.txt").write_text("be brief")
    config = grpo({"train": {"dataset_name": file, "system_prompt_file": str(tmp_path / "s.txt")}})
    config.policy.tokenizer.chat_template_kwargs = {"enable_thinking": False}
    text = qwen3.decode(build_prompts(config, qwen3).next(1)[0].tokens)
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>")
    assert text.endswith("<think>\n\n</think>\n\n")


def test_truncated_and_excluded_rows_are_counted(tmp_path, chatml):
    rows = [*ROWS[:3], {"question": "why " * 80, "answer": "no"}, {"question": "Why?", "answer": "so " * 80}]
    config = sft({"train": {"dataset_name": write(tmp_path / "a.jsonl", rows)}}, length=48)
    data = build_supervised(config, chatml)
    assert (data.counts["rows"], data.counts["excluded_rows"], data.num_rows) == (5, 1, 4)
    samples = data.next(4)
    assert sorted(s.id for s in samples) == [f"a:{i}@0" for i in (0, 1, 2, 4)]
    assert max(len(s) for s in samples) == 48
    assert (data.counts["drawn"], data.counts["truncated"], data.counts["excluded"]) == (4, 1, 0)
    config = sft({"train": {"dataset_name": write(tmp_path / "b.jsonl", rows[3:4])}}, length=48)
    with pytest.raises(DataError, match=r"no row of .*b.jsonl has a token to train on within 48 tokens"):
        build_supervised(config, chatml)


def test_held_out_rows_are_not_trained_on(file, chatml):
    config = sft({"train": {"dataset_name": file, "split_validation_size": 0.2}})
    data = build_supervised(config, chatml)
    held = {s.id for s in data.validation}
    trained = {s.id.split("@")[0] for s in data.next(data.num_rows)}
    assert (len(held), len(trained)) == (5, 18)
    assert not held & trained
    assert held == {s.id for s in build_supervised(config, chatml).validation}


def test_validation_entries(tmp_path, file, chatml):
    long = {"question": "Why?", "answer": "so " * 80}
    value = write(tmp_path / "val.jsonl", [*ROWS[:4], long])
    data = build_supervised(
        sft({"train": {"dataset_name": file}, "validation": {"dataset_name": value}}), chatml
    )
    assert [s.id for s in data.validation] == [f"val:{i}" for i in range(5)]
    assert (data.counts["validation_rows"], data.counts["validation_truncated"]) == (5, 1)
    prompts = build_prompts(
        grpo({"train": {"dataset_name": file}, "validation": {"dataset_name": value}}), chatml
    )
    assert [p.id for p in prompts.validation] == [f"val:{i}" for i in range(5)]
    assert prompts.validation[2].row["answer"] == "2"


def test_only_unmask_final_and_the_seeds_template(tmp_path, plain):
    rows = [{"input": "2+2?", "output": "4"}]
    entry = {
        "dataset_name": write(tmp_path / "a.jsonl", rows),
        "prompt_template": "Human: {input}\n\nAssistant: {output}",
    }
    sample = build_supervised(sft({"train": entry}), plain).next(1)[0]
    assert plain.decode(sample.tokens_T) == "Human: 2+2?\n\nAssistant: 4<|im_end|>"
    assert plain.decode(sample.tokens_T[sample.loss_mask_T]) == "4<|im_end|>"


def test_evaluation_prompts(file, chatml):
    section = {"dataset_name": file, "limit": 3, "repeat": 2}
    data = build_eval_prompts(EvalConfig.model_validate({"data": section}), chatml)
    prompts = data.all_prompts(data.training_datasets)
    assert [p.id for p in prompts] == ["rows:0.0", "rows:0.1", "rows:1.0", "rows:1.1", "rows:2.0", "rows:2.1"]
    assert prompts[4].row == ROWS[2]


class TestBadData:
    def test_no_data(self, chatml):
        with pytest.raises(ConfigError, match=r"data.train is not set"):
            build_supervised(sft({}), chatml)
        with pytest.raises(ConfigError, match=r"data.dataset_name is not set"):
            build_eval_prompts(EvalConfig.model_validate({"data": {}}), chatml)

    def test_a_row_without_its_column_is_found_before_training(self, tmp_path, chatml):
        path = write(tmp_path / "a.jsonl", [*ROWS, {"question": "x", "anwser": "y"}])
        message = r"a.jsonl, row 23 \(line 24\): it has the columns question, anwser, .*'anwser' meant to be"
        with pytest.raises(DataError, match=message):
            build_supervised(sft({"train": {"dataset_name": path}}), chatml)
        path = write(tmp_path / "b.jsonl", [*ROWS, {"answer": "y"}])
        with pytest.raises(DataError, match=r"b.jsonl, row 23 .* no prompt: one of prompt, messages"):
            build_prompts(grpo({"train": {"dataset_name": path}}), chatml)

    def test_a_wrong_validation_row_is_found_too(self, tmp_path, file, chatml):
        value = write(tmp_path / "val.jsonl", [{"nothing": 1}])
        config = sft({"train": {"dataset_name": file}, "validation": {"dataset_name": value}})
        with pytest.raises(DataError, match=r"val.jsonl, row 0"):
            build_supervised(config, chatml)

    def test_prompt_longer_than_the_context(self, tmp_path, chatml):
        rows = [*ROWS[:3], {"question": "why " * 80}, {"question": "who " * 90}]
        path = write(tmp_path / "a.jsonl", rows)
        message = (
            r"a.jsonl, row 3 \(line 4\): the prompt has \d+ tokens, but at most 63 are allowed by "
            r"policy.max_total_sequence_length=64, which must also hold the answer \(1 other row is .*=drop"
        )
        with pytest.raises(DataError, match=message):
            build_prompts(grpo({"train": {"dataset_name": path}}), chatml)
        with pytest.raises(DataError, match=r"at most 40 are allowed by data.max_input_seq_length=40"):
            build_prompts(grpo({"train": {"dataset_name": path}, "max_input_seq_length": 40}), chatml)
        data = build_prompts(grpo({"train": {"dataset_name": path}, "overlong_prompts": "drop"}), chatml)
        assert (data.counts["rows"], data.counts["dropped_rows"], data.num_rows) == (5, 2, 3)
        reason = (
            "longer than 63 tokens (policy.max_total_sequence_length=64, which must also hold the answer)"
        )
        assert data.dropped_notices() == [f"2 of 5 prompts are left out: {reason}"]
        assert {p.id.split("@")[0] for p in data.next(3)} == {"a:0", "a:1", "a:2"}
        only_long = write(tmp_path / "b.jsonl", rows[3:])
        with pytest.raises(DataError, match=r"every prompt of .*b.jsonl is longer than 63 tokens"):
            build_prompts(grpo({"train": {"dataset_name": only_long}, "overlong_prompts": "drop"}), chatml)

    def test_the_length_check_is_exact_at_the_border(self, file, chatml):
        lengths = [
            len(p.tokens) for p in build_prompts(grpo({"train": {"dataset_name": file}}), chatml).next(23)
        ]
        build_prompts(grpo({"train": {"dataset_name": file}}, length=max(lengths) + 1), chatml)
        with pytest.raises(DataError, match=f"has {max(lengths)} tokens"):
            build_prompts(grpo({"train": {"dataset_name": file}}, length=max(lengths)), chatml)

    def test_conversation_without_chat_template_names_the_row(self, tmp_path, plain):
        path = write(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
        with pytest.raises(DataError, match=r"a.jsonl, row 0 \(line 1\): the row is a conversation, but"):
            build_prompts(grpo({"train": {"dataset_name": path}}, length=4096), plain)

    def test_what_the_template_refuses_is_found_before_training(self, file, chatml):
        tokenizer = copy.copy(chatml)
        tokenizer.chat_template = "{{ raise_exception('system first') }}"
        for build, section in ((build_prompts, grpo), (build_supervised, sft)):
            with pytest.raises(
                DataError, match=r"rows.jsonl, row 0 .* refuses the conversation: system first"
            ):
                build(section({"train": {"dataset_name": file}}, length=4096), tokenizer)


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3", "metaspace", "with a system text"])
def test_the_length_screen_never_lets_a_long_one_pass(name, request):
    tokenizer = request.getfixturevalue(name if " " not in name else "chatml")
    if " " in name:
        tokenizer = copy.copy(tokenizer)
        tokenizer.chat_template = "You are a helpful assistant. " * 3 + tokenizer.chat_template
    encoder = Encoder(tokenizer)
    generator = random.Random(0)
    decided = []
    for _ in range(200):
        words = [generator.choice(["a", "the answer", "漢字 é", "apples?", "\n\n  "]) for _ in range(40)]
        texts = [" ".join(words[: generator.randint(1, 40)]) for _ in range(generator.randint(1, 3))]
        content = [{"role": "user", "content": t} for t in texts] if encoder.chat else texts[0]
        length = len(encoder.encode_prompts([encoder.render_prompt(PromptText(content))])[0])
        screen = LengthEstimator(encoder, generator.randint(8, 400))
        judged = screen.surely_shorter(content) or screen.compare_tokens([content])[0]
        assert judged is None or judged == (length < screen.limit)
        decided.append(judged)
    assert min(decided.count(True), decided.count(False)) > (20 if encoder.chat else 5)


def test_the_first_batch_encodes_only_what_it_needs(file, chatml, monkeypatch):
    seen = []
    original = Encoder.render
    monkeypatch.setattr(
        Encoder, "render", lambda self, example: seen.append(example) or original(self, example)
    )
    data = build_supervised(sft({"train": {"dataset_name": file}}, length=4096, max_num_epochs=30), chatml)
    data.next(4)
    assert len(seen) == 1 + 4  # one to see whether the template works at all
    for _ in range(20):
        data.next(23)
    assert len(seen) == 23  # the first row's tokens were kept


def test_namespace_is_enough():
    """`load_rows` asks for four attributes only."""
    from hone.data.sources import load_rows

    entry = SimpleNamespace(dataset_name="hone/word-problems", subset=None, split="validation", limit=2)
    rows = load_rows(entry, role="validation")
    assert len(rows) == 2
