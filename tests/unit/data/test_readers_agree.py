"""The same row is trained on the same tokens, whatever file holds it: rows as people have them, in every reader."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace
from typing import Any

import pytest

from hone.data import preference_formats
from hone.data.chat import Encoder
from hone.data.formats import Example, Format
from hone.data.sources import load_rows

TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>tools\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name + ' ' + call.function.arguments | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return said("", tool_calls=[{"type": "function", "function": {"name": name, "arguments": arguments}}])


def tool(name: str, **properties: str) -> dict[str, Any]:
    kinds = {key: {"type": kind} for key, kind in properties.items()}
    about = {"name": name, "parameters": {"type": "object", "properties": kinds}}
    return {"type": "function", "function": about}


SUM = (user("2+2?"), said("4"))
WEATHER = (
    user("Weather?"),
    call("weather", city="Paris"),
    {"role": "tool", "content": "sun"},
    said("Sunny."),
)
ADD = (user("3+4?"), call("add", a=3, b=4), {"role": "tool", "content": "7"}, said("7"))
TOOLS = [tool("weather", city="string"), tool("add", a="number", b="number")]
SHAPES: dict[str, list[tuple[dict[str, Any], Example | tuple[Example, Example]]]] = {
    "sharegpt with a system column": [
        (
            {
                "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}],
                "system": "Brief.",
            },
            Example((system("Brief."), *SUM)),
        ),
        (
            {
                "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}],
                "system": "",
            },
            Example(SUM),
        ),
    ],
    "axolotl's train": [
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "No.", "train": False},
                    {"from": "human", "value": "2+2?"},
                    {"from": "gpt", "value": "4", "train": True},
                ]
            },
            Example((user("Hi"), said("No."), *SUM), untrained=frozenset({1})),
        )
    ],
    "alpaca with history": [
        (
            {
                "instruction": "Add.",
                "input": "2+2",
                "output": "4",
                "system": "Brief.",
                "history": [["Hi", "Hello"]],
            },
            Example((system("Brief."), user("Hi"), said("Hello"), user("Add.\n\n2+2"), said("4"))),
        ),
        (
            {"instruction": "2+2?", "input": "", "output": "4", "system": "", "history": []},
            Example(SUM, 1),
        ),
    ],
    "openai with tools": [
        ({"messages": list(WEATHER), "tools": TOOLS}, Example(WEATHER, tools=TOOLS)),
        ({"messages": list(ADD), "tools": TOOLS}, Example(ADD, tools=TOOLS)),
    ],
    "openai's weight": [
        (
            {"messages": [user("Hi"), said("No.", weight=0), user("2+2?"), said("4", weight=1)]},
            Example((user("Hi"), said("No."), *SUM), untrained=frozenset({1})),
        )
    ],
    "dolly": [
        (
            {"instruction": "Who?", "context": "Ann is here.", "response": "Ann", "category": "qa"},
            Example((user("Who?\n\nAnn is here."), said("Ann")), 1),
        )
    ],
    "openorca": [
        (
            {"system_prompt": "Brief.", "question": "2+2?", "response": "4", "id": "x.1"},
            Example((system("Brief."), *SUM), 2),
        )
    ],
    "trl prompt-completion": [
        ({"prompt": [user("2+2?")], "completion": [said("4")]}, Example(SUM, 1)),
    ],
    "trl text": [({"prompt": "2+2", "completion": "=4"}, Example(prompt="2+2", completion="=4"))],
    "chatglm": [
        (
            {"prompt": "2+2?", "response": "4", "history": [["Hi", "Hello"]]},
            Example((user("Hi"), said("Hello"), *SUM)),
        )
    ],
    "nemo rl": [({"input": "2+2?", "output": "4"}, Example(SUM, 1))],
    "hh-rlhf": [
        (
            {
                "chosen": "\n\nHuman: 2+2?\n\nAssistant: 4",
                "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5",
            },
            (
                Example(prompt="\n\nHuman: 2+2?\n\nAssistant:", completion=" 4"),
                Example(prompt="\n\nHuman: 2+2?\n\nAssistant:", completion=" 5"),
            ),
        )
    ],
    "ultrafeedback": [
        (
            {
                "prompt": "2+2?",
                "chosen": list(SUM),
                "rejected": [user("2+2?"), said("5")],
                "messages": list(SUM),
                "score_chosen": 8.5,
                "score_rejected": 2.0,
            },
            (Example(SUM, 1), Example((user("2+2?"), said("5")), 1)),
        )
    ],
    "orca dpo pairs": [
        (
            {"system": "Brief.", "question": "2+2?", "chosen": "It is 4", "rejected": "It is 5"},
            (
                Example((system("Brief."), user("2+2?"), said("It is 4")), 2),
                Example((system("Brief."), user("2+2?"), said("It is 5")), 2),
            ),
        )
    ],
    "alpaca preference": [
        (
            {
                "instruction": "Add.",
                "input": "2+2",
                "chosen": "It is 4",
                "rejected": "It is 5",
                "history": [["Hi", "Hello"]],
            },
            (
                Example((user("Hi"), said("Hello"), user("Add.\n\n2+2"), said("It is 4")), 3),
                Example((user("Hi"), said("Hello"), user("Add.\n\n2+2"), said("It is 5")), 3),
            ),
        )
    ],
    "sharegpt preference": [
        (
            {
                "conversations": [{"from": "human", "value": "2+2?"}],
                "chosen": {"from": "gpt", "value": "4"},
                "rejected": {"from": "gpt", "value": "5"},
            },
            (Example(SUM, 1), Example((user("2+2?"), said("5")), 1)),
        )
    ],
}


def jsonl(rows, path):
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.with_suffix(".jsonl")


def json_list(rows, path):
    path.with_suffix(".json").write_text(json.dumps(rows))
    return path.with_suffix(".json")


def parquet(rows, path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def csv_table(rows, path):
    with path.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        for row in rows:
            table.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    return path.with_suffix(".csv")


def saved(rows, path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


def in_memory(rows, path):
    """As the Python API writes down a `datasets.Dataset`."""
    from hone.api.in_memory import dataset_of, keep_rows

    datasets = pytest.importorskip("datasets")
    return keep_rows(dataset_of(datasets.Dataset.from_list(rows), "dataset")[0], path, "train")


WRITERS = [jsonl, json_list, parquet, csv_table, saved, in_memory]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("write", WRITERS, ids=lambda writer: writer.__name__)
def test_a_row_is_the_same_whatever_holds_it(shape, write, chatml, tmp_path, monkeypatch):
    monkeypatch.setattr(chatml, "chat_template", TEMPLATE)
    encoder = Encoder(chatml)
    given = SHAPES[shape]
    path = write([row for row, _ in given], tmp_path / "rows")
    entry = SimpleNamespace(dataset_name=str(path), subset=None, split=None, limit=None)
    for row, (_, wanted) in zip(load_rows(entry, role="train"), given, strict=True):
        if isinstance(wanted, Example):
            read = [Format().supervised(row)]
        else:
            read = preference_formats.read(row, Format()).responses
        for example, right in zip(read, [wanted] if isinstance(wanted, Example) else wanted, strict=True):
            assert example == right
            assert encoder.encode(example) == encoder.encode(right)


def test_what_is_not_trained_on_has_no_target(chatml, monkeypatch):
    monkeypatch.setattr(chatml, "chat_template", TEMPLATE)
    row = {"messages": [user("Hi"), said("No.", weight=0), user("2+2?"), said("4")]}
    encoded = Encoder(chatml).encode(Format().supervised(row))
    targets = [t for t, m in zip(encoded.tokens, encoded.mask, strict=True) if m]
    assert chatml.decode(targets) == "4<|im_end|>"
