"""What a run is told of its rows before the first step, and rows that are others than a checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.algorithms.dpo import DPO
from hone.algorithms.sft import SFT
from hone.config.schema.dpo import DPOConfig
from hone.config.schema.sft import SFTConfig
from hone.data import build_preferences, build_supervised
from hone.errors import CheckpointError, DataError

ROWS = [{"question": f"{i}+1?", "answer": str(i + 1), "id": i, "source": None} for i in range(6)]
ASK = {"role": "user", "content": "2+2?"}


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(path: str, root=SFTConfig, *, may_change: bool = False, length: int = 64, **section):
    name = "sft" if root is SFTConfig else "dpo"
    return root.model_validate(
        {
            "data": {"train": {"dataset_name": path}},
            "policy": {"max_total_sequence_length": length},
            "checkpointing": {"allow_config_change": may_change},
            name: section,
        }
    )


def test_columns_that_are_not_read_are_named(tmp_path, chatml):
    rows = [*ROWS, {"question": "2+2?", "answer": "4", "system": "Brief.", "more": "x"}]
    told = SFT(settings(write(tmp_path / "rows.jsonl", rows)), chatml).notes()
    assert told == [f"{tmp_path}/rows.jsonl: unused columns: id, more"]
    pairs = [{"question": "2+2?", "chosen": "4", "rejected": "5", "category": "sums", "system": "Brief."}]
    told = DPO(settings(write(tmp_path / "pairs.jsonl", pairs), DPOConfig), chatml).notes()
    assert told == [f"{tmp_path}/pairs.jsonl: unused columns: category"]


def kto(path: Path, good: int, bad: int, **section):
    labels = [True] * good + [False] * bad
    rows = [{"prompt": f"{i}", "completion": "x", "label": label} for i, label in enumerate(labels)]
    return settings(write(path / "kto.jsonl", rows), DPOConfig, preference_loss="kto", **section)


def test_kto_with_one_kind_of_answers_says_so(tmp_path, chatml):
    (told,) = DPO(kto(tmp_path, 5, 0), chatml).notes()
    assert told.startswith(
        "kto: all 5 answers are desirable, and nothing says what is worse: add rows with label false"
    )
    (told,) = DPO(kto(tmp_path, 0, 4), chatml).notes()
    assert told.startswith("kto: all 4 answers are undesirable, and nothing says what is better")


def test_kto_is_told_the_weights_of_its_paper(tmp_path, chatml):
    # 9 good and 3 bad of weight 1 are as 3 : 1; 1 to 4/3 is what a weight of 1/3 to 4/9 of the good gives.
    (told,) = DPO(kto(tmp_path, 9, 3), chatml).notes()
    assert told.endswith("recommends dpo.desirable_weight between 0.333 and 0.444")
    assert DPO(kto(tmp_path, 9, 3, desirable_weight=0.4), chatml).notes() == []
    assert DPO(kto(tmp_path, 4, 3), chatml).notes() == []


LATE = (
    "{% for m in messages %}"
    "{% if messages | length > 1 and loop.first %}{% for i in range(90) %}{{ ' apples' }}{% endfor %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("epochs", [1, None])
def test_no_row_that_anything_is_left_of_ends_the_run(epochs, tmp_path, chatml, llama3, monkeypatch):
    limits = {"max_num_epochs": epochs, "max_num_steps": 5}
    same = [
        {"prompt": [ASK], "chosen": "4", "rejected": f"4{' ' * i}"} for i in range(1, 4)
    ]  # and Llama 3 trims
    data = build_preferences(settings(write(tmp_path / "same.jsonl", same), DPOConfig, **limits), llama3)
    with pytest.raises(DataError, match=r"none of the 2 rows of .*same.jsonl can be trained on: .*the same"):
        data.next(2)
    monkeypatch.setattr(chatml, "chat_template", LATE)  # which is short for the probe of lengths alone
    rows = write(tmp_path / "rows.jsonl", ROWS)
    data = build_supervised(settings(rows, **limits), chatml)
    with pytest.raises(
        DataError, match=r"none of the 5 rows of .*rows.jsonl can be trained on: .* .*=64 tok"
    ):
        data.next(4)


@pytest.mark.parametrize("build", [build_supervised, build_preferences])
def test_rows_that_say_something_else_are_noticed_when_a_run_goes_on(build, tmp_path, chatml):
    root = SFTConfig if build is build_supervised else DPOConfig
    rows = (
        ROWS if root is SFTConfig else [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(6)]
    )
    path = write(tmp_path / "rows.jsonl", rows)
    data = build(settings(path, root), chatml)
    ids = [sample.id for sample in data.next(2)]
    state = json.loads(json.dumps(data.state_dict()))
    again = build(settings(path, root), chatml)
    again.load_state_dict(state)
    assert again.state_dict() == state
    following = [sample.id for sample in again.next(2)]
    assert not set(ids) & set(following)

    changed = [*rows[:5], {**rows[5], next(iter(rows[5])): "something else"}]
    write(tmp_path / "rows.jsonl", changed)
    with pytest.raises(
        CheckpointError, match=r"rows.jsonl still has as many rows, but their content has changed"
    ):
        build(settings(path, root), chatml).load_state_dict(state)
    build(settings(path, root, may_change=True), chatml).load_state_dict(state)
    del state["content"]  # as checkpoints had it before
    build(settings(path, root), chatml).load_state_dict(state)


def test_the_content_is_the_same_in_another_file(tmp_path, chatml):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"question": f"{i}+1?", "answer": str(i + 1)} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    states = [
        build_supervised(settings(path), chatml).state_dict()
        for path in (write(tmp_path / "rows.jsonl", rows), str(tmp_path / "rows.parquet"))
    ]
    assert states[0] == states[1]
