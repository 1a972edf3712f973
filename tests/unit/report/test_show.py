"""`hone show`: what it says, to whom, and what it says of what is not there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hone.cli import main
from hone.report.formatting import BLOCKS, sparkline
from hone.report.run_view import open_run
from hone.report.samples import mixed_groups, spaced, varied
from hone.report.terminal import worth
from tests.unit.report.seeing_making import HOSTILE, make_run, record, write


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> object:
    def show(*argv: object) -> str:
        assert main(["show", *map(str, argv)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return show


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> object:
    def show(*argv: object) -> str:
        assert main(["show", *map(str, argv)]) in (1, 2)
        out, err = capsys.readouterr()
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        assert not out
        return err

    return show


def test_a_run_at_a_glance(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    text = shown(make_run(tmp_path / "run"))
    assert text.startswith("grpo: hone/tiny-sft on ")
    assert "step 4 of 4, finished" in text
    assert "Reward " in text
    assert "0.4" in text
    assert "constant: Reward by function, format 1, Gradient norm 0.5" in text
    assert "step 4: 5 rollouts, mean reward 0.75, 1 failed, 2 left out" in text
    assert "question of rows:1@4" in text
    assert "\x1b" not in text, "no colours where nobody sees them"
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 100


@pytest.mark.parametrize(("width", "blocks"), [("50", 0), ("60", 7), ("80", 20)])
def test_sparklines_are_shorter_on_a_narrow_terminal_or_left_out(
    tmp_path: Path, shown, monkeypatch: pytest.MonkeyPatch, width: str, blocks: int
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", width)
    table = shown(make_run(tmp_path / "run", steps=20)).split("\n")[2:9]
    row = next(line for line in table if line.startswith("Reward "))
    assert sum(row.count(block) for block in BLOCKS) == blocks
    assert ("trend" in table[0]) == bool(blocks)
    assert max(map(len, table)) <= int(width)


def test_best_worst_failed_and_one_prompt(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    run = make_run(tmp_path / "run")
    text = shown(run, "--step", 2, "--best", 1, "--worst", 1)
    assert text.count("said at 2") == 2
    assert text.index("said at 2 for 1.0") < text.index("said at 2 for 0.0")
    text = shown(run, "--failed")
    assert "failed: timeout in reward 'answer'" in text
    assert "left out: truncated" in text
    text = shown(run, "--prompt", "rows:1@4")
    assert text.count("question of rows:1@4") == 1, "once, above the group"
    assert text.count("said at 4") == 3
    assert "held:0" in shown(run, "--validation")


def test_metrics_step_by_step_and_runs_beside_each_other(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", steps=6)
    rows = [line.split() for line in shown(one, "--metrics", "reward,entropy").splitlines()[2:]]
    assert rows[0] == ["step", "reward", "entropy"]
    assert rows[1:] == [
        ["1", "0.1", "1"],
        ["2", "0.2", "0.5"],
        ["3", "0.3", "0.333333"],
        ["4", "0.4", "0.25"],
    ]
    settings = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(
        settings.replace("num_prompts_per_step: 32", "num_prompts_per_step: 8")
    )
    text = shown(one, "--compare", other)
    assert [line.split() for line in text.splitlines() if line.startswith("Reward  ")] == [
        ["Reward", "0.4", "0.6", "0.4", "0.6"]
    ]
    assert ["grpo.num_prompts_per_step", "32", "8"] in [line.split() for line in text.splitlines()]
    assert "checkpoint_dir" not in text


@pytest.mark.parametrize("columns", [60, 80])
def test_names_of_compared_runs_are_broken_and_never_cut(
    columns: int, tmp_path: Path, shown, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [f"a_long_name_of_a_run_with_seed_{seed}" for seed in (1, 2)]
    lines = shown(make_run(tmp_path / names[0]), "--compare", make_run(tmp_path / names[1])).splitlines()
    last = next(i for i, line in enumerate(lines) if line.startswith("metric"))
    assert lines[last + 1].split() == ["Reward", *["0.4"] * 4]
    ends = [match.end() for match in re.finditer(r"0\.4", lines[last + 1])]
    heads = lines[max(i for i in range(last) if lines[i].startswith(("step", "grpo"))) + 1 : last + 1]
    width = ends[1] - ends[0]
    columns_of = [(ends[0] - width, ends[0]), *pairwise(ends)]
    assert ["".join(line[begin:end].strip() for line in heads) for begin, end in columns_of] == [
        f"{name}{at}" for at in ("best", "last") for name in names
    ]


def test_a_supervised_run_has_curves_only(tmp_path: Path, shown, refused) -> None:  # type: ignore[no-untyped-def]
    run = make_run(tmp_path / "run", "sft")
    text = shown(run)
    assert "Loss, training" in text
    assert "Loss, held out" in text
    assert "rollouts" not in text
    assert "hone sft, which samples nothing" in refused(run, "--failed")


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, refused) -> None:  # type: ignore[no-untyped-def]
    run = make_run(tmp_path / "results" / "grpo")
    assert f"did you mean {run}?" in refused(tmp_path / "results" / "grp")
    assert f"did you mean {run}?" in refused(tmp_path / "results")
    assert "from 1 to 4; the nearest is --step 4" in refused(run, "--step", 9)
    assert "did you mean entropy?" in refused(run, "--metrics", "entropi")
    assert "the first ids are rows:1@4, rows:2@4" in refused(run, "--prompt", "nobody")
    assert "--best 0" in refused(run, "--best", 0)
    quiet = make_run(tmp_path / "results" / "quiet", log_rollouts=False)
    assert "logger.log_rollouts=false" in refused(quiet, "--failed")
    (run / "config.yaml").write_text("policy: [")
    assert "invalid YAML" in refused(run)
    (run / "config.yaml").write_text("a: 1")
    assert "is not a run's" in refused(run)


def test_damaged_and_unfinished_runs_can_be_looked_at(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    run = make_run(tmp_path / "run", ended=False)
    with (run / "rollouts" / "step_4.jsonl").open("a") as file:
        file.write('{"step": 4, "gro')
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text() + "5,0.5")
    assert "step 4 of 4, ended without a word" in shown(run)
    assert "step 4: 5 rollouts" in shown(run)
    (run / "run.json").write_text("{")
    assert "\nstep 4 · " in shown(run), "a run of an older version has no run.json"
    assert open_run(run / "step_4").folder.path == run


def test_nothing_that_a_model_says_reaches_the_terminal_as_a_command(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    text = shown(make_run(tmp_path / "run", said=HOSTILE + " [bold]x[/bold]"))
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert "[bold]x[/bold]" in text, "no markup of ours either"


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    command = f"{sys.executable} -m hone show {run} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""


def test_where_hone_eval_saved_can_be_shown(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "report.json").write_text('{"model": "m", "dataset": "d", "score": 0.5, "prompts": 2}')
    write(tmp_path / "samples.jsonl", [record(0, "held:0", 1.0), record(0, "held:1", 0.0)])
    text = shown(tmp_path)
    assert text.startswith("eval: m on d")
    assert "step 0: 2 held-out samples, mean reward 0.5" in text
    assert "the worst 1" in shown(tmp_path, "--worst", 1)


def test_an_evaluation_shows_which_share_of_the_answers_was_cut_off(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    counted = {"model": "m", "dataset": "d", "prompts": 12, "tests_per_prompt": 2, "truncated": 6}
    (tmp_path / "report.json").write_text(json.dumps(counted))
    assert "25%" in shown(tmp_path)


def test_what_a_reward_function_told_is_shown(tmp_path: Path, shown) -> None:  # type: ignore[no-untyped-def]
    run = make_run(tmp_path / "run")
    write(run / "rollouts" / "step_4.jsonl", [record(4, "g", 1.0, extra={"parsed": "42", "steps": [1, 2]})])
    text = shown(run, "--best", 1)
    assert "parsed: 42" in text
    assert "steps: [1, 2]" in text


def test_the_best_checkpoint_is_the_one_that_the_run_ranks_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=4)
    (run / "step_2").mkdir()
    (run / "metrics.csv").write_text("step,accuracy,val_accuracy\n2,0.1,0.9\n3,1,1\n4,0.95,0.8\n")
    assert open_run(run).best() == (2, "val_accuracy", 0.9), "not by training's, nor one that is not kept"


def test_small_things_by_hand() -> None:
    assert spaced(range(10), 4) == [0, 3, 6, 9]
    assert spaced([5, 6], 4) == [5, 6]
    assert sparkline([0, 0, 1, 1], 2) == "▁█"
    rows = [{"group": g, "reward": r} for g, r in (("a", 1), ("a", 1), ("b", 0), ("b", 1), ("c", 1))]
    assert mixed_groups(rows) == [[2, 3], [0, 1]]
    assert varied([0, 1, 3, 4, 2], rows, 3) == [0, 3, 4], "one of each prompt first"


def test_names_and_settings_of_somebody_elses_run_steer_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A metric's name is a reward function's, and settings are text: both may hold anything in a foreign folder."""
    run, other = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["policy"]["model_name"] = "m\x1b]0;t\x07"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    table = (run / "metrics.csv").read_text().replace("reward_answer", "reward_an\x1b[2Jswer")
    (run / "metrics.csv").write_text(table)
    for argv in (["show", str(run)], ["show", str(run), "--compare", str(other)]):
        assert main(argv) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert "\\x1b" in said


def test_the_title_of_a_rollout_has_the_final_answer_of_a_gold_solution() -> None:
    assert "expected 18" in worth({"answer": "She sells 9 eggs for 2 dollars each.\n#### 18"}).plain
    assert "expected 42" in worth({"answer": "42"}).plain
