"""Datasets of users' own, by dotted path: as the tutorials write them, and what each wrong one says."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hone.config import load
from hone.data.sources import load_rows
from hone.errors import DataError
from hone.user_code import is_code

TUTORIAL = """
from torch.utils.data import Dataset
import json

class CustomPreferenceDataset(Dataset):
    def __init__(self, data_path):
        with open(data_path, 'r') as f:
            self.data = json.load(f)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, idx):
        item = self.data[idx]
        return {
            'prompt': item['prompt'],
            'chosen': item['chosen'],
            'rejected': item['rejected']
        }
"""
OTHERS = """
import itertools

def rows(split, count=3):
    for n in range(count):
        yield {"question": f"{split} {n}", "answer": str(n)}

def endless():
    return ({"text": str(n)} for n in itertools.count())

ready = [{"text": "a"}, {"text": "b"}]
number = 7

def texts():
    return ["one", "two"]

def broken():
    raise RuntimeError("no such table")

def breaks_later():
    yield {"text": "a"}
    raise OSError("gone")

class Plain:
    pass
"""
PAIRS = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}", "more": n} for n in range(8)]


@dataclass
class Entry:
    dataset_name: str
    subset: str | None = None
    split: str | None = None
    limit: int | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the command, with the user's code and data in it."""
    (tmp_path / "custom_dataset.py").write_text(TUTORIAL)
    (tmp_path / "others.py").write_text(textwrap.dedent(OTHERS))
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(name: str, kind: str = "train", **options: Any) -> list[dict[str, Any]]:
    return list(load_rows(Entry(name, **options), role=kind))


@pytest.mark.parametrize(
    "name", ["custom_dataset.py:CustomPreferenceDataset", "{here}/custom_dataset.py:CustomPreferenceDataset"]
)
def test_the_tutorials_class(name: str, here: Path) -> None:
    found = rows_of(name.format(here=here), kwargs={"data_path": "pairs.json"})
    assert found == [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in PAIRS]


def test_a_dotted_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = here / "my_own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "data.py").write_text(OTHERS)
    assert is_code("my_own_package.data.rows")
    assert [row["question"] for row in rows_of("my_own_package.data.rows")] == [
        "train 0",
        "train 1",
        "train 2",
    ]
    assert not is_code("some-org/some.dataset")
    assert not is_code("no_such_package_here.rows")
    assert not is_code("rows.jsonl")


def test_what_a_function_gives_and_is_given(here: Path) -> None:
    assert rows_of("others.py:rows", kind="validation")[0]["question"] == "validation 0"
    assert rows_of("others.py:rows", split="extra")[0]["question"] == "extra 0"
    assert len(rows_of("others.py:rows", kwargs={"count": 5})) == 5
    assert rows_of("others.py:endless", limit=4)[-1] == {"text": "3"}
    assert rows_of("others.py:ready") == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("nowhere.py:rows", {}, "there is no file"),
        ("others.py:row", {}, "did you mean 'rows'?"),
        (
            "others.py:rows",
            {"kwargs": {"number": 1}},
            "it takes split, count: set them in data.train.kwargs",
        ),
        ("custom_dataset.py:CustomPreferenceDataset", {}, "data_path"),
        (
            "custom_dataset.py:CustomPreferenceDataset",
            {"kwargs": {"data_path": "x.json"}},
            "FileNotFoundError",
        ),
        ("others.py:number", {}, "returns a int"),
        ("others.py:ready", {"kwargs": {"a": 1}}, "leave them out"),
        ("others.py:texts", {}, "row 0: is a str; it must be a dict"),
        ("others.py:broken", {}, "RuntimeError: no such table"),
        ("others.py:breaks_later", {}, "OSError: gone"),
        ("others.py:Plain", {}, "returns a Plain"),
        ("others.py:rows", {"kwargs": {"count": 0}}, "has no rows"),
    ],
)
def test_what_is_wrong_is_said(name: str, options: dict[str, Any], says: str, here: Path) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(name, **options)
    assert says in str(caught.value)
    assert name.partition(":")[0] in str(caught.value)


def test_code_that_does_not_import_is_named(here: Path) -> None:
    (here / "wrong.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(
        DataError, match=r"data.train.dataset_name=wrong.py:rows cannot be imported: ModuleNotFound"
    ):
        rows_of("wrong.py:rows")


def test_in_a_configuration(here: Path) -> None:
    import tiny

    from hone.data import build_preferences

    name = "custom_dataset.py:CustomPreferenceDataset"
    words = [
        "policy.model_name=models/x",
        f"data.train.dataset_name={name}",
        "data.train.kwargs={data_path: pairs.json}",
    ]
    words += ["data.train.split_validation_size=0.25", "policy.max_total_sequence_length=64"]
    config = load("dpo", None, words).config
    assert config.data.train[0].kwargs == {"data_path": "pairs.json"}
    data = build_preferences(config, tiny.make_tokenizer())
    assert data.num_rows == 6
    assert len(data.validation) == 4  # two pairs
