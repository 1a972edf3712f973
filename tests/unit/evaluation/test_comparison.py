"""`hone eval compare`: problems are paired, flips are named, what cannot be compared is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hone import cli
from hone.errors import ConfigError, DataError
from hone.evaluation.comparison import Scores, compare, holm, read_results


def scores(values: Sequence[float], **further: Any) -> dict[str, Scores]:
    given = {f"own:{i}": (float(value),) for i, value in enumerate(values)}
    return {"own": Scores("strict", 1, given, **further)}


def write(folder: Path, values: Sequence[float], *, gold: str = "1", version: int = 1) -> Path:
    """Results of `hone eval suite=own`, with these scores."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"suite": "own", "metric": "strict", "version": version}))
    lines = [
        {"group": f"own:{i}", "rewards": {"strict": value, "flexible": 1.0}, "reward": value, "answer": gold}
        for i, value in enumerate(values)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_flips_are_named_in_both_directions() -> None:
    (found,) = compare(scores([0, 1, 1, 0]), {"b": scores([1, 0, 1, 0])})
    assert (found.gained, found.lost) == (["own:0"], ["own:1"])
    assert found.test.difference == 0.0
    assert not found.differs


def test_answers_to_one_problem_are_one_observation() -> None:
    a = {"own": Scores("strict", 1, {"own:0": (0.0, 1.0), "own:1": (1.0, 1.0)})}
    b = {"own": Scores("strict", 1, {"own:0": (1.0, 1.0), "own:1": (1.0, 0.0)})}
    (found,) = compare(a, {"b": b})
    assert (found.gained, found.lost, found.other.problems) == (["own:0"], ["own:1"], 2)


def test_several_comparisons_are_adjusted_for_being_several() -> None:
    """Holm: 0.01 x 3, then 0.03 x 2, then max(0.06, 0.04)."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_among_five_equal_models_a_false_find_is_rare() -> None:
    """Each family of comparisons, not each comparison, errs in at most 5 of 100 cases."""
    rng = np.random.default_rng(3)
    solved = rng.random(300) < 0.5

    def flipped() -> dict[str, Scores]:
        return scores((solved ^ (rng.random(300) < 0.05)).astype(float).tolist())

    families = [compare(flipped(), {str(i): flipped() for i in range(5)}) for _ in range(40)]
    assert sum(any(one.differs for one in family) for family in families) <= 2


def test_a_planted_gain_of_five_points_on_500_problems_is_found() -> None:
    rng = np.random.default_rng(4)
    before = rng.random(500) < 0.4
    after = before.copy()
    after[rng.permutation(np.flatnonzero(~before))[:30]] = True
    after[rng.permutation(np.flatnonzero(before))[:5]] = False
    (found,) = compare(scores(before.astype(float)), {"b": scores(after.astype(float))})
    assert found.test.difference == pytest.approx(0.05)
    assert found.differs
    assert (len(found.gained), len(found.lost)) == (30, 5)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"else": scores([1])["own"]}, "nothing that both have"),
        ({"own": Scores("strict", 2, {"own:0": (1.0,)})}, "of version 2, the baseline strict of version 1"),
        ({"own": Scores("flexible", 1, {"own:0": (1.0,)})}, "different numbers"),
        ({"own": Scores("strict", 1, {"own:9": (1.0,)})}, "no problem in common"),
        (scores([1, 1], golds={"own:0": "2"}), "the right answer of own:0 differs"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: dict[str, Scores], says: str) -> None:
    with pytest.raises(DataError) as caught:
        compare(scores([1, 0], golds={"own:0": "1"}), {"b": other})
    assert says in str(caught.value)


def test_the_command_writes_a_table_a_picture_and_all_flips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path / "old", [0] * 20 + [1] * 20)
    new = write(tmp_path / "new", [1] * 10 + [0] * 10 + [1] * 22)
    out = tmp_path / "out"
    assert cli.main(["eval", "compare", str(old), str(new), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "better: own:0, own:1, own:2, own:3, own:4, own:5, own:6, own:7 … 2 more" in shown
    assert "2 problems are left out" in shown
    (found,) = json.loads((out / "comparison.json").read_text())["comparisons"]
    assert found["gained"] == [f"own:{i}" for i in range(10)]
    assert found["p_value"] == pytest.approx(2 / 2**10)
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_read_by_suite(tmp_path: Path) -> None:
    write(tmp_path / "all/own", [1, 0])
    report = {"suites": {"own": {"suite": "own", "metric": "flexible", "version": 3}}}
    (tmp_path / "all/report.json").write_text(json.dumps(report))
    found = read_results(tmp_path / "all")
    assert found["own"].values == {"own:0": (1.0,), "own:1": (1.0,)}
    assert found["own"].version == 3


def test_damaged_samples_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", [1])
    (folder / "samples.jsonl").write_text('{"group": "own:0"}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl is not a file of samples"):
        read_results(folder)


def test_one_model_that_is_no_run_needs_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "compare", str(write(tmp_path / "a", [1])), "--out", str(tmp_path / "out")]) == 2
    assert "give two models or folders of results" in capsys.readouterr().err


def test_a_run_is_compared_with_the_model_that_it_began_with(tmp_path: Path) -> None:
    from hone.cli.compare import labels, with_baseline

    (tmp_path / "config.yaml").write_text("policy: {model_name: org/base}\n")
    assert with_baseline([str(tmp_path)]) == ["org/base", str(tmp_path)]
    assert labels(["runs/a/step_1", "runs/b/step_1", "org/base"]) == ["a/step_1", "b/step_1", "org/base"]
    with pytest.raises(ConfigError, match="named twice"):
        labels(["runs/a", "runs/a"])


@pytest.mark.slow
def test_models_are_evaluated_and_compared(tmp_path: Path) -> None:
    words = ["hone/tiny", "hone/tiny-sft", "data.limit=40", "--out", str(tmp_path / "out")]
    assert cli.main(["eval", "compare", *words]) == 0
    (found,) = json.loads((tmp_path / "out/comparison.json").read_text())["comparisons"]
    assert (found["model"], found["problems"], found["differs"]) == ("tiny-sft", 40, True)
    assert found["difference"] > 0.2
