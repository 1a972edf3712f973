"""What is missing, what is no text, and files that are damaged: null, or one line that names the place."""

from __future__ import annotations

import gzip
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from hone.data.formats import Format
from hone.data.sources import load_rows
from hone.data.values import tidy_row
from hone.errors import DataError


def load(path):
    return load_rows(
        SimpleNamespace(dataset_name=str(path), subset=None, split=None, limit=None, kwargs={}), role="train"
    )


def test_missing_values_are_null(tmp_path):
    pandas = pytest.importorskip("pandas")
    row = {"a": float("nan"), "b": pandas.NA, "c": pandas.NaT, "d": np.float32("nan"), "e": [math.nan, 1.5]}
    assert tidy_row(row) == {"a": None, "b": None, "c": None, "d": None, "e": [None, 1.5]}
    (tmp_path / "a.jsonl").write_text('{"a": NaN, "b": [NaN, Infinity], "c": "NaN"}\n')
    assert list(load(tmp_path / "a.jsonl")) == [{"a": None, "b": [None, math.inf], "c": "NaN"}]
    frame = pandas.DataFrame({"q": ["x", float("nan")], "n": [1.0, None]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert list(load(tmp_path / "a.parquet")) == [{"q": "x", "n": 1.0}, {"q": None, "n": None}]
    assert list(load(tmp_path / "a.csv")) == [{"q": "x", "n": "1.0"}, {"q": None, "n": None}]


def test_a_data_frame_or_a_dataset_from_the_users_own_code(tmp_path):
    pytest.importorskip("pandas")
    pytest.importorskip("datasets")
    (tmp_path / "mine.py").write_text(
        "import datasets, pandas\n"
        "rows = [{'q': 'x', 'arguments': {'a': 1}}, {'q': None, 'arguments': {'b': 2}}]\n"
        "def table(): return datasets.Dataset.from_list(rows)\n"
        "def frame(): return pandas.DataFrame({'q': ['x', float('nan')]})\n"
    )
    assert list(load(f"{tmp_path}/mine.py:table"))[1] == {"q": None, "arguments": {"b": 2}}
    assert list(load(f"{tmp_path}/mine.py:frame")) == [{"q": "x"}, {"q": None}]


def test_a_null_that_json_wrote_stays_and_one_that_arrow_filled_in_goes(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [
        {"calls": [{"arguments": {"city": "Paris", "at": None}}, None], "tags": [None, 1]},
        {"calls": [{"arguments": {"n": [{"x": 1}, {"y": 2}]}}], "tags": None},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(load(tmp_path / "a.jsonl")) == rows
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(load(tmp_path / "a.parquet")) == [
        {"calls": [{"arguments": {"city": "Paris"}}, None], "tags": [None, 1]},
        {"calls": [{"arguments": {"n": [{"x": 1}, {"y": 2}]}}], "tags": None},
    ]


def test_a_map_of_arrow_is_a_dict(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    column = pa.array([[("a", 1), ("b", 2)]], type=pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"m": column}), tmp_path / "a.parquet")
    assert list(load(tmp_path / "a.parquet")) == [{"m": {"a": 1, "b": 2}}]


GOOD = b'{"text": "a"}\n'
DAMAGED = {
    "half a character": (
        GOOD + b'{"text": "b\\ud83d"}\n',
        r":2: column 'text' contains half of a character \(\\ud83d",
    ),
    "half a character, deep": (
        b'{"m": [{"x": "\\uDE00"}]}\n',
        r":1: column 'm' contains half of a char.*\\ude00",
    ),
    "half a character in a key": (
        b'{"a\\ud83d": 1}\n',
        r":1: column 'a\\ud83d' contains half of a character",
    ),
    "too deep to parse": (
        GOOD + b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b"}\n",
        r":2: .*more than 100 levels",
    ),
    "too deep for templates": (
        GOOD + b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}\n",
        r":2: .*more than 100 lev",
    ),
    "thousands of digits": (
        GOOD + b'{"n": ' + b"9" * 6000 + b"}\n",
        r":2: a number with thousands of digits",
    ),
    "not UTF-8": (GOOD * 3 + b'{"text": "\xff"}\n', r":4: not UTF-8 text \(invalid start byte"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_line_is_named(name, packed, tmp_path):
    content, said = DAMAGED[name]
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=rf"{path.name}{said}") as error:
        load(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_whole_character_in_two_halves_is_one(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n')
    assert list(load(tmp_path / "a.jsonl")) == [{"text": "\U0001f600"}]


def test_a_row_whose_answer_is_missing_says_which_column(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\n2+2?,4\n3+3?,\n")
    row = load(tmp_path / "a.csv")[1]
    with pytest.raises(DataError, match=r"column 'answer' is empty \(null, NaN or an empty cell\)"):
        Format().supervised(row)
    with pytest.raises(DataError, match=r"column 'prompt' is empty"):
        Format().prompt({"prompt": None, "answer": "4"})


@pytest.mark.parametrize("damage", ["flipped", "cut", "header"])
def test_a_damaged_gzip_says_after_which_line(damage, tmp_path):
    lines = b"".join(b'{"text": "%d"}\n' % (i * 7919 % 100003) for i in range(200_000))
    packed = bytearray(gzip.compress(lines, 1))
    if damage == "flipped":
        packed[len(packed) // 2 : len(packed) // 2 + 200] = bytes(200)
    packed = packed[: len(packed) // 2] if damage == "cut" else packed
    (tmp_path / "a.jsonl.gz").write_bytes(b"x" + packed if damage == "header" else packed)
    with pytest.raises(DataError, match=r"a.jsonl.gz: damaged or not compressed as its name says, ") as error:
        load(tmp_path / "a.jsonl.gz")
    if damage == "flipped":  # the checksum at the end tells, or the place where nothing can be unpacked
        assert re.search(r"(within its \d+ lines|after line \d+): ", str(error.value))
    else:
        after = int(str(error.value).split("after line ")[1].split(":")[0])
        assert after == 0 if damage == "header" else 80_000 < after < 120_000


def test_a_column_that_a_csv_has_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,text\na,b\n")
    with pytest.raises(DataError, match=r"a.csv:1: the header has the column 'text' more than once"):
        load(tmp_path / "a.csv")
