"""`hone show data`: what it shows is what a run is trained on, and what it does not train on is said."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hone import cli
from hone.config import load
from hone.data import build_preferences, build_prompts, build_supervised
from hone.engine.local.local_engine import tokenizer_of
from hone.errors import DataError
from hone.report.data_page import page
from hone.report.data_preview import gather
from hone.report.data_terminal import show

SFT = [
    {"messages": [{"role": "user", "content": "Hi 😀"}, {"role": "assistant", "content": "No.", "weight": 0},
                  {"role": "user", "content": "<b>2+2?</b>"}, {"role": "assistant", "content": "4 é"}], "id": 1},
    {"instruction": "Add.", "input": "2+2", "output": "4", "history": [["Hi", "Hello"]]},
    {"question": "apples " * 90, "answer": "4"},
]  # fmt: skip
DPO = [
    {"question": "2+2?", "chosen": "It is 4", "rejected": "It is 5", "score_chosen": 8, "score_rejected": 3},
    {"question": "2+2?", "chosen": "It is 4", "rejected": "It is 4", "category": "sums"},
]
GRPO = [{"question": "2+2?", "answer": "4", "system": "Brief."}, {"question": "3+3?", "answer": "6"}]
ROWS = {"sft": SFT, "dpo": DPO, "grpo": GRPO}


@pytest.fixture(params=ROWS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def arguments(kind: str, folder: Path) -> list[str]:
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    return [f"data.train.dataset_name={path}", "policy.max_total_sequence_length=96"]


def shown(loaded: Any, **options: Any) -> list[tuple[list[int], list[bool]]]:
    view = gather(loaded, **{"count": 5, **options})
    return [
        ([i for p in sequence.pieces for i in p.ids], [p.target for p in sequence.pieces for _ in p.ids])
        for row in view.rows
        for sequence in row.sequences
    ]


def test_what_is_shown_is_what_is_trained_on(kind: str, tmp_path: Path) -> None:
    loaded = load(kind, None, arguments(kind, tmp_path))
    build = {"sft": build_supervised, "dpo": build_preferences, "grpo": build_prompts}[kind]
    data = build(loaded.config, tokenizer_of(loaded.config))
    drawn = data.next(data.num_rows)
    if kind == "grpo":
        wanted = [(list(prompt.tokens), [False] * len(prompt.tokens)) for prompt in drawn]
    else:
        wanted = [(sample.tokens_T.tolist(), sample.loss_mask_T.tolist()) for sample in drawn]
    assert shown(loaded, count=data.num_rows) == wanted


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that breaks no path."""
    monkeypatch.setenv("COLUMNS", "400")


def test_the_terminal_marks_what_is_learned_from_and_says_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", "data", "sft", "--rows", "0,2", *arguments("sft", tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "⟦4 é<|im_end|>⟧" in out
    assert "No.<|im_end|>" in out and "⟦No." not in out  # noqa: PT018
    assert "left out: it has no target" in out
    assert "left out, no target within 96 tokens: 1" in out
    assert "sft.jsonl, row 2 (line 3)" in out
    assert out.rstrip().endswith("sft.jsonl: id")


def test_comparisons_and_prompts_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "data", "dpo", *arguments("dpo", tmp_path)]) == 0
    out = capsys.readouterr().out
    for part in (
        "⟦It is 4<|im_end|>⟧",
        "⟦It is 5<|im_end|>⟧",
        "margin: 5.0",
        "left out, identical: 1",
        "category",
    ):
        assert part in out
    assert cli.main(["show", "data", "grpo", *arguments("grpo", tmp_path)]) == 0
    out = capsys.readouterr().out
    for part in (
        "Brief.<|im_end|>",
        "answer: 6",
        "the completion follows each prompt",
        "<|im_start|>assistant",
    ):
        assert part in out
    assert "⟦" not in out


@pytest.mark.parametrize(("options", "marked"), [({}, False), ({"no_color": True}, True)])
def test_without_colours_there_are_marks(options: dict[str, Any], marked: bool, tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", **options)
    show(console, gather(load("dpo", None, arguments("dpo", tmp_path)), count=1))
    assert ("⟦It is 4" in re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())) == marked
    assert ("32mI" in out.getvalue()) != marked  # green


def test_the_page_holds_the_same_and_runs_nothing(tmp_path: Path) -> None:
    view = gather(load("sft", None, arguments("sft", tmp_path)), count=2)
    text = page(view)
    assert "<script" not in text
    assert "<b>2" not in text
    assert "😀" in text
    assert 'class="t on"' in text
    assert "Unused columns" in text
    assert cli.main(["show", "data", "--html", str(tmp_path / "a.html"), *arguments("sft", tmp_path)]) == 0
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    loaded = load("sft", None, arguments("sft", tmp_path))
    for rows, said in (
        (["7"], r"has no row 7: its last is 2"),
        (["x"], r"'x' is no row: give numbers from 0, as in 0,17 or sft:17"),
        (["other:1"], r"no dataset 'other': there are sft"),
    ):
        with pytest.raises(DataError, match=said):
            gather(loaded, count=1, rows=rows)
    with pytest.raises(DataError, match="there are no held-out rows"):
        gather(loaded, count=1, validation=True)


def test_an_evaluation_and_held_out_prompts() -> None:
    view = gather(load("eval", None, ["data.limit=4"]), count=2)
    assert [row.location for row in view.rows] == [
        "hone/word-problems (test), row 0",
        "hone/word-problems (test), row 1",
    ]
    few = [
        f"data.{name}.{key}"
        for name in ("train", "validation")
        for key in ("dataset_name=hone/word-problems", "limit=4")
    ]
    view = gather(load("grpo", None, few), count=1, validation=True)
    assert view.rows[0].location == "hone/word-problems (validation), row 0"


REFUSED = {
    "sft": (SFT[:2], {"messages": [{"role": "user", "content": "Hi"}]}, "no assistant message to learn from"),
    "dpo": (DPO, {"text": "2+2?"}, "no set of columns that is a preference"),
    "grpo": (GRPO, {"answer": "4"}, "no prompt: one of prompt, messages"),
}


@pytest.mark.parametrize("many", [False, True])
def test_every_refused_row_is_listed_beside_those_that_are_fine(
    kind: str, many: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, refused, why = REFUSED[kind]
    path = tmp_path / "rows.jsonl"
    rows = [refused, *fine, *[refused] * (24 if many else 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    count = len(rows) - len(fine)
    wanted = ["show", "data", kind, f"data.train.dataset_name={path}", "data.shuffle=false"]
    assert cli.main(wanted) == 1
    out, err = capsys.readouterr()
    assert "row 1 (line 2)" in out
    assert "2+2" in out
    assert f"refused, a run stops at them: {count}\n" in out
    listed = [line for line in out.splitlines() if why in line]
    assert len(listed) == min(count, 20)
    assert listed[0].startswith(f"{path}, row 0 (line 1): ")
    assert ("and 5 more" in out) == many
    assert err.splitlines()[-1].startswith(f"error: a run stops at {count} rows of this data")
    if not many:
        page = tmp_path / "a.html"
        assert cli.main([*wanted, "--html", str(page)]) == 1
        assert "Refused, a run stops at them: 2" in page.read_text()
        assert page.read_text().count(why) == 2


def test_a_refused_row_that_is_asked_for_is_listed_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [*SFT[:2], *[{"messages": []}] * 30]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["show", "data", "sft", "--rows", "1,31", f"data.train.dataset_name={path}"]) == 1
    assert "them: 30\n" + f"{path}, row 31 (line 32): " in capsys.readouterr().out


def test_data_of_which_every_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    for kind, (_, refused, why) in REFUSED.items():
        path.write_text(json.dumps(refused) + "\n")
        assert cli.main(["show", "data", kind, f"data.train.dataset_name={path}"]) == 1
        out, err = capsys.readouterr()
        assert f"{path}: every row is invalid" in out
        assert f"{path}, row 0 (line 1): " in out
        assert why in out
        assert err == "error: a run stops at 1 row of this data: correct or remove what is refused\n"


def test_prompts_that_are_too_long_are_refused_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": "apples " * 200}, *GRPO, {"question": "apples " * 300}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    length = "policy.max_total_sequence_length=96"
    assert cli.main(["show", "data", "grpo", f"data.train.dataset_name={path}", length]) == 1
    out = capsys.readouterr().out
    assert out.count("tokens, but at most 95 are allowed by") == 2
    assert "too long as well" not in out
