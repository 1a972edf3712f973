"""Rows from every kind of source, and what each wrong one says."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from hone.data.sources import load_rows
from hone.data.splits import holdout
from hone.errors import DataError

ROWS = [{"question": f"q{i}", "answer": str(i)} for i in range(10)]


@dataclass
class Entry:
    dataset_name: str
    subset: str | None = None
    split: str | None = None
    limit: int | None = None


def load(path, kind="train", **options):
    return load_rows(Entry(str(path), **options), role=kind)


def write_lines(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def write_parquet(path, rows=ROWS):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_csv(path, rows=ROWS):
    path.write_text("question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in rows))
    return path


def write_json(path, rows=ROWS):
    path.write_text(json.dumps(rows, indent=1))
    return path


def write_gz(path, rows=ROWS):
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    return path


WRITERS = {
    "a.jsonl": write_lines,
    "a.json": write_json,
    "lines.json": write_lines,
    "a.parquet": write_parquet,
    "a.csv": write_csv,
    "a.jsonl.gz": write_gz,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name, tmp_path):
    rows = load(WRITERS[name](tmp_path / name))
    assert list(rows) == ROWS
    assert (len(rows), rows[3], rows[-1], list(rows[2:4])) == (10, ROWS[3], ROWS[9], ROWS[2:4])
    assert list(load(tmp_path / name, limit=3)) == ROWS[:3]
    assert list(load(tmp_path / name, split="train[20%:5]")) == ROWS[2:5]


def test_json_that_wraps_the_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"data": ROWS}))
    assert list(load(tmp_path / "a.json")) == ROWS


def test_line_separators_inside_json_strings_are_not_line_ends(tmp_path):
    row = {"text": "a\u2028b\x85c"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert list(load(tmp_path / "a.jsonl")) == [row]


def test_csv_cells_stay_text_and_may_hold_lines(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,answer\n"two\nlines, and ""quotes""",007\n')
    assert list(load(tmp_path / "a.csv")) == [{"prompt": 'two\nlines, and "quotes"', "answer": "007"}]


def test_a_folder_by_split(tmp_path):
    write_lines(tmp_path / "train-00000-of-00002.jsonl", ROWS[:4])
    write_lines(tmp_path / "train-00001-of-00002.jsonl", ROWS[4:8])
    write_lines(tmp_path / "dev.jsonl", ROWS[8:])
    (tmp_path / "README.md").write_text("no data")
    train = load(tmp_path)
    assert list(train) == ROWS[:8]
    assert train[5] == ROWS[5]
    assert "train-00001-of-00002.jsonl, row 1 (line 2)" in train.location(5)
    assert list(load(tmp_path, "validation")) == list(load(tmp_path, split="validation")) == ROWS[8:]
    with pytest.raises(DataError, match=r"no split 'test'; it has train, validation. Set data.train.split"):
        load(tmp_path, split="test")


def test_a_folder_with_subsets(tmp_path):
    write_lines(tmp_path / "main" / "part.jsonl")
    write_lines(tmp_path / "other" / "part.jsonl", ROWS[:1])
    assert list(load(tmp_path, subset="main")) == ROWS


def test_a_url(tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/bucket/train.jsonl.gz", gzip.compress(json.dumps(ROWS[0]).encode()))
    fs.pipe("/bucket/test.jsonl", json.dumps(ROWS[1]).encode())
    assert list(load("memory://bucket/train.jsonl.gz")) == ROWS[:1]
    assert list(load("memory://bucket", split="test")) == ROWS[1:2]
    with pytest.raises(DataError, match=r"there is no memory://bucket/none.jsonl"):
        load("memory://bucket/none.jsonl")
    with pytest.raises(DataError, match=r"no data file at memory://bucket/none"):
        load("memory://bucket/none")
    with pytest.raises(DataError, match=r"could not be reached: .*Protocol not known"):
        load("nosuchprotocol://bucket/a.jsonl")


def test_plain_files_do_not_import_datasets_or_pandas(tmp_path):
    paths = [str(w(tmp_path / n)) for n, w in WRITERS.items()]
    code = (
        "import sys; from types import SimpleNamespace as N; from hone.data.sources import load_rows\n"
        "entry = lambda p: N(dataset_name=p, subset=None, split=None, limit=None)\n"
        f"for p in {paths!r}: list(load_rows(entry(p), role='train'))\n"
        "print([m for m in ('datasets', 'pandas', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_saved_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data.select([7, 2])).save_to_disk(tmp_path / "dict")
    assert list(load(tmp_path / "one")) == ROWS
    assert load(tmp_path / "one")[4] == ROWS[4]
    assert list(load(tmp_path / "dict", "test")) == [ROWS[7], ROWS[2]]
    assert list(load(tmp_path / "dict", split="train[:2]")) == ROWS[:2]
    with pytest.raises(DataError, match=r"data.validation: .* no split 'dev'; it has train, test"):
        load(tmp_path / "dict", "validation", split="dev")


class TestBadInput:
    def test_missing_file_names_the_nearest(self, tmp_path):
        write_lines(tmp_path / "train.jsonl")
        with pytest.raises(DataError, match=r"no file or folder .*trian.jsonl; did you mean .*train.jsonl\?"):
            load(tmp_path / "trian.jsonl")
        with pytest.raises(DataError, match=r"no file or folder .*zzz.jsonl; .* has train.jsonl"):
            load(tmp_path / "zzz.jsonl")
        with pytest.raises(DataError, match=r"nosuch does not exist"):
            load(tmp_path / "nosuch" / "deep" / "a.jsonl")

    def test_empty(self, tmp_path):
        for name in ("a.jsonl", "a.json", "a.csv"):
            (tmp_path / name).write_text("")
            with pytest.raises(DataError, match=rf"data.train: .*{name} has no rows"):
                load(tmp_path / name)
        (tmp_path / "folder").mkdir()
        with pytest.raises(DataError, match=r"has no data files \(.jsonl"):
            load(tmp_path / "folder")

    def test_invalid_json_has_its_line(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": \n')
        with pytest.raises(DataError, match=r"a.jsonl:3: invalid JSON"):
            load(tmp_path / "a.jsonl")
        (tmp_path / "b.jsonl").write_text('{"a": 1}\n[1]\n')
        with pytest.raises(DataError, match=r"b.jsonl:2: a row must be an object with columns, not a list"):
            load(tmp_path / "b.jsonl")
        (tmp_path / "c.json").write_text('[{"a": 1},\n oops]')
        with pytest.raises(DataError, match=r"c.json:2: invalid JSON"):
            load(tmp_path / "c.json")
        (tmp_path / "d.json").write_text("[1, 2]")
        with pytest.raises(DataError, match=r"d.json, row 0: must be an object with columns, not a number"):
            load(tmp_path / "d.json")

    def test_damaged_files(self, tmp_path):
        (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip")
        with pytest.raises(DataError, match="damaged or not compressed"):
            load(tmp_path / "a.jsonl.gz")
        whole = gzip.compress(b'{"a": 1}\n' * 100)
        (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="damaged or not compressed"):
            load(tmp_path / "cut.jsonl.gz")
        (tmp_path / "a.parquet").write_bytes(b"not parquet")
        with pytest.raises(DataError, match="not a readable Parquet file"):
            load(tmp_path / "a.parquet")
        (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}')
        with pytest.raises(DataError, match="not UTF-8"):
            load(tmp_path / "a.jsonl")
        (tmp_path / "a.csv").write_text("a,b\n1,2\n1\n")
        with pytest.raises(DataError, match=r"a.csv:3: fewer cells than the header's 2 columns \(a, b\)"):
            load(tmp_path / "a.csv")

    def test_unknown_format_and_split(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(DataError, match=r"unknown format; known are \.jsonl"):
            load(tmp_path / "a.txt")
        write_lines(tmp_path / "a.jsonl")
        with pytest.raises(DataError, match="invalid"):
            load(tmp_path / "a.jsonl", split="train[a:b]")

    def test_hub_that_does_not_answer(self, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def unreachable(*args, **kwargs):
            raise ConnectionError("Couldn't reach 'org/data' on the Hub\nmore")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        message = (
            r"data.validation.dataset_name=org/data: there is no such local file .* hub cannot be reached"
        )
        with pytest.raises(DataError, match=message):
            load("org/data", "validation")

    def test_upstream_names(self, monkeypatch):
        datasets = pytest.importorskip("datasets")
        asked = []

        def loaded(name, subset, split):
            asked.append((name, subset, split))
            return datasets.Dataset.from_list(ROWS)

        monkeypatch.setattr(datasets, "load_dataset", loaded)
        assert list(load("OpenMathInstruct-2")) == ROWS
        load("gsm8k", split="test")
        load("some/thing", subset="x")
        assert asked == [
            ("nvidia/OpenMathInstruct-2", None, "train_1M"),
            ("openai/gsm8k", "main", "test"),
            ("some/thing", "x", None),
        ]

    def test_hub_name_that_does_not_exist_and_split_that_does_not(self, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def not_there(*args, **kwargs):
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'org/data' doesn't exist on the Hub")

        monkeypatch.setattr(datasets, "load_dataset", not_there)
        with pytest.raises(DataError, match=r"'org/data' is neither a local file or folder nor a dataset"):
            load("org/data")

        def bad_split(*args, **kwargs):
            raise ValueError("Unknown split \"x\". Should be one of ['train'].")

        monkeypatch.setattr(datasets, "load_dataset", bad_split)
        with pytest.raises(DataError, match=r"could not be loaded: Unknown split \"x\". Should be one of"):
            load("org/data", split="x")

    def test_a_path_is_not_taken_for_a_hub_name(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(DataError, match="no file or folder"):
            load(tmp_path / "nothing")


def test_holdout_is_deterministic_and_complete():
    train, held = holdout(100, 0.05, seed=3)
    assert (len(train), len(held)) == (95, 5)
    assert sorted(train + held) == list(range(100))
    assert (train, held) == holdout(100, 0.05, seed=3)
    assert held != holdout(100, 0.05, seed=4)[1]
    assert len(holdout(3, 0.01, seed=0)[1]) == 1
    with pytest.raises(DataError, match="leaves none to train on"):
        holdout(1, 0.5, seed=0)
