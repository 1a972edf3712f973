"""Real data: every gold answer scores 1 and a corrupted one 0, with the shipped functions as a run uses them."""

from __future__ import annotations

import ast
import asyncio
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool, Scored

DATA = Path(__file__).resolve().parents[6] / "shared" / "data"
GSM8K = [DATA / "gsm8k" / name for name in ("test.jsonl", "train.jsonl")]
HUMANEVAL = DATA / "humaneval" / "HumanEval.jsonl.gz"
pytestmark = pytest.mark.slow


def scores(names: Sequence[str], prompts: list, completions: list, columns: dict) -> list[Scored]:
    workers = max(1, min(4, os.cpu_count() or 1))
    with RewardPool(resolve_all(names), num_workers=workers, timeout_s=600, max_failure_fraction=0.0) as pool:
        return asyncio.run(pool.score(prompts, completions, columns))


def rows_of(path: Path) -> list[dict]:
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("path", GSM8K, ids=lambda path: path.stem)
def test_gsm8k(path: Path) -> None:
    """As boxed, tagged and plain answers; then off by one, which no function may take for right."""
    rows = rows_of(path)
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
    wrong = [str(int(gold.replace(",", "")) + 1) for gold in golds]
    assert len(rows) in (1319, 7473)
    columns = {"answer": [row["answer"] for row in rows]}
    prompts = [row["question"] for row in rows]
    for given, reward in ((golds, 1.0), (wrong, 0.0)):
        boxed = [rf"So the answer is $\boxed{{{text}}}$." for text in given]
        tagged = [f"<think>hm</think><answer>{text}</answer>" for text in given]
        plain = [f"The answer is {text}" for text in given]
        for names, completions in (
            (["math"], boxed),
            (["answer", "numeric", "math"], tagged),
            (["numeric"], plain),
            (["exact"], given),
        ):
            for row, one in zip(rows, scores(names, prompts, completions, columns), strict=True):
                assert one.rewards == dict.fromkeys(names, reward), row["answer"][-40:]


@pytest.mark.parametrize("path", GSM8K, ids=lambda path: path.stem)
def test_gsm8k_with_the_datas_own_solutions(path: Path) -> None:
    rows = rows_of(path)
    columns = {"answer": [row["answer"] for row in rows]}
    found = scores(["numeric"], [row["question"] for row in rows], columns["answer"], columns)
    assert [one.reward for one in found] == [1.0] * len(rows)


def corrupted(row: dict) -> dict[str, str]:
    """The solution without its body, and with each of its results made another."""
    whole = ast.parse(row["prompt"] + row["canonical_solution"])
    function = next(n for n in whole.body if isinstance(n, ast.FunctionDef) and n.name == row["entry_point"])
    function.body = [ast.Return(ast.Constant(None))]
    empty = ast.unparse(ast.fix_missing_locations(whole))
    renamed = row["prompt"] + row["canonical_solution"]
    wrapped = (
        f"{renamed}\n_right = {row['entry_point']}\n"
        f"def {row['entry_point']}(*arguments): return [_right(*arguments)]\n"
    )
    return {"returns nothing": empty, "another result": wrapped}


def test_tests_in_the_form_of_humaneval_are_run() -> None:
    rows = rows_of(HUMANEVAL)
    assert len(rows) == 164
    columns = {name: [row[name] for row in rows] for name in ("test", "entry_point")}
    prompts = [row["prompt"] for row in rows]
    fence = "`" * 3
    whole = [f"{fence}python\n{row['prompt']}{row['canonical_solution']}{fence}" for row in rows]
    bodies = [row["canonical_solution"] for row in rows]
    for completions in (whole, bodies):
        found = scores(["code"], prompts, completions, columns)
        failed = {
            row["task_id"]: one.extra for row, one in zip(rows, found, strict=True) if one.reward != 1.0
        }
        assert failed == {}
    for kind in ("returns nothing", "another result"):
        found = scores(["code"], prompts, [corrupted(row)[kind] for row in rows], columns)
        passed = [row["task_id"] for row, one in zip(rows, found, strict=True) if one.reward != 0.0]
        assert passed == [], kind
