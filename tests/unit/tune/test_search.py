"""Searches with a stand-in for training: best found, bad keys stopped, crashes counted, early stops, kills survived."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hone import cli
from hone.tune import settings, trial
from hone.tune.settings import Search, devices_for, visible_devices

pytest.importorskip("optuna")

HERE = Path(__file__).parent
LR = "policy.optimizer.kwargs.lr"
STEPS = "sft.max_num_steps=6"


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "COMMAND", (sys.executable, str(HERE / "stand_in.py")))


def tune(*argv: str, folder: Path, code: int = 0) -> None:
    assert cli.main(["tune", "sft", "--folder", str(folder), STEPS, *argv]) == code


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_choice_is_tried_and_the_best_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(f"{LR}=choice(1e-5, 1e-3, 1e-2)", "--trials", "9", "--parallel", "3", folder=tmp_path)
    rows = table(tmp_path)
    assert sorted(row[LR] for row in rows) == ["0.001", "0.01", "1e-05"]
    values = {row[LR]: float(row["val_loss"]) for row in rows}
    assert values == pytest.approx({"1e-05": 2 + 1 / 6, "0.001": 1 / 6, "0.01": 1 + 1 / 6}, abs=1e-6)
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best == {"checkpointing": {"checkpoint_dir": str(tmp_path / "best")}, "lr": 0.001}
    assert (tmp_path / "study.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert f"--config {tmp_path / 'best.yaml'}" in out
    assert "0 failed" in out
    kept = [row["trial"] for row in rows if (tmp_path / f"trial_{int(row['trial']):04d}" / "step_9").exists()]
    assert kept == [row["trial"] for row in rows if row[LR] == "0.001"]


@pytest.mark.slow
def test_a_range_is_narrowed_down(tmp_path: Path) -> None:
    tune(f"{LR}=log(1e-6,1e-1)", "--trials", "14", "--parallel", "2", "--pruner", "none", folder=tmp_path)
    rows = table(tmp_path)
    assert len(rows) == 14
    assert min(float(row["val_loss"]) for row in rows) < 0.8
    again = [row[LR] for row in rows]
    assert len(set(again)) == 14


@pytest.mark.slow
def test_crashes_cost_a_trial_each_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(f"{LR}=choice(1e-3, 0.9)", folder=tmp_path)
    states = {row[LR]: (row["state"], row["cause"]) for row in table(tmp_path)}
    assert states == {"0.001": ("done", ""), "0.9": ("failed", "error: loss is nan at update 1")}
    assert "1 failed: the best is trial 0" in capsys.readouterr().out


@pytest.mark.slow
def test_trials_that_only_fail_end_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(f"{LR}=uniform(0.8, 0.9)", folder=tmp_path, code=1)
    error = capsys.readouterr().err
    assert "all 3 trials failed, the last one with: error: loss is nan" in error
    assert "log.txt" in error


@pytest.mark.slow
def test_hopeless_trials_are_stopped_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_PAUSE", "0.1")
    monkeypatch.setattr("hone.tune.study.POLL_S", 0.02)
    lrs = "1e-3, 1.1e-3, 1.2e-3, 1.3e-3, 1e-6"
    tune(f"{LR}=choice({lrs})", "sft.max_num_steps=12", folder=tmp_path)
    rows = {row[LR]: row for row in table(tmp_path)}
    assert {row["state"] for key, row in rows.items() if key != "1e-06"} == {"done"}
    assert rows["1e-06"]["state"] == "stopped early"
    assert rows["1e-06"]["val_loss"]  # what it had reached
    metrics = tmp_path / f"trial_{int(rows['1e-06']['trial']):04d}" / "metrics.csv"
    assert len(metrics.read_text().splitlines()) < 12


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([f"{LR}=1e-3"], "nothing to search"),
        (["policy.optimizer.kwarg.lr=log(1e-6,1e-3)"], "policy.optimizer.kwarg"),
        (["policy.lora.dimm=choice(8,16)"], "dim"),
        ([f"{LR}=log(1e-3,1e-6)"], "the range is empty"),
        (["policy.train_global_batch_size=choice(8,-8)"], "policy.train_global_batch_size"),
        ([f"{LR}=log(1e-6,1e-3)", f"{LR}=1e-3"], "has both a value and a range"),
        ([f"{LR}=log(1e-6,1e-3)", "--metric", "val_los"], "did you mean val:val_loss"),
        ([f"{LR}=log(1e-6,1e-3)", "--metric", "train:grad_norm"], "--direction"),
        ([f"{LR}=log(1e-6,1e-3)", "checkpointing.checkpoint_dir=x"], "--folder"),
        ([f"{LR}=log(1e-6,1e-3)", "--pruner", "mean"], "median, hyperband, none"),
        ([f"{LR}=log(1e-6,1e-3)", "--trials", "0"], "at least 1"),
        (
            [f"{LR}=log(1e-6,1e-3)", "sft.val_period=50", "sft.val_at_end=false"],
            "no trial measures val_loss",
        ),
        ([f"{LR}=log(1e-6,1e-3)", "sft.val_period=0", "sft.val_at_end=false"], "no trial measures val_loss"),
    ],
)
def test_a_wrong_setting_of_the_search_stops_before_any_trial(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(*words, folder=tmp_path / "study", code=2)
    assert says in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def _study(place: Path, /, **content: Any) -> Path:
    path = place / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_study_file_describes_the_same_search_as_options(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("policy: {model_name: hone/tiny}\n")
    study = _study(
        tmp_path,
        kind="sft",
        config=str(config),
        trials=4,
        folder=str(tmp_path / "out"),
        search={LR: "choice(1e-3, 1e-2)", "policy.train_global_batch_size": "choice(16, 32)"},
        overrides={"sft.max_num_steps": 3},
    )
    assert cli.main(["tune", "--study", str(study)]) == 0
    rows = table(tmp_path / "out")
    assert len(rows) == 4
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert (best[LR], best["policy.train_global_batch_size"]) == ("0.001", "16")
    assert float(best["val_loss"]) == pytest.approx(1 / 3 + 0.016, abs=1e-6)


@pytest.mark.slow
def test_a_folder_of_another_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(f"{LR}=choice(1e-3, 1e-2)", folder=tmp_path)
    tune(f"{LR}=choice(1e-3, 1e-4)", folder=tmp_path, code=1)
    assert "another search (its search differ)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_search_with_more_trials_continues(tmp_path: Path) -> None:
    tune(f"{LR}=log(1e-6,1e-1)", "--trials", "2", folder=tmp_path)
    before = table(tmp_path)
    tune(f"{LR}=log(1e-6,1e-1)", "--trials", "4", folder=tmp_path)
    after = table(tmp_path)
    assert after[:2] == before
    assert len({row[LR] for row in after}) == 4


def started(folder: Path, *argv: str, pause: str = "0.2") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "searching.py"), "sft", "--folder", str(folder), STEPS, *argv],
        env={**os.environ, "STAND_IN_PAUSE": pause},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


@pytest.mark.slow
def test_a_killed_search_resumes_its_running_trials(tmp_path: Path) -> None:
    choices = f"{LR}=choice(1e-3, 1e-2)"
    search = started(tmp_path, choices, "--parallel", "2")
    files = [tmp_path / f"trial_000{n}" / "metrics.csv" for n in (0, 1)]
    wait_for(lambda: all(file.exists() and len(file.read_text().splitlines()) > 2 for file in files))
    search.kill()
    search.wait()
    pids = [int((file.parent / "starts").read_text().split()[0]) for file in files]
    wait_for(lambda: not any(map(alive, pids)))  # trials do not outlive the search
    tune(choices, "--parallel", "2", folder=tmp_path)
    rows = table(tmp_path)
    assert [row["state"] for row in rows] == ["done", "done"]  # the same two, to their end: none began anew
    for file in files:
        steps = [line.split(",")[0] for line in file.read_text().splitlines()[1:]]
        assert steps == [str(n) for n in range(1, 7)]
        assert len((file.parent / "starts").read_text().split()) == 2


def test_the_process_of_a_trial_ends_when_its_standard_input_closes() -> None:
    code = (
        "import sys, time, hone.tune.trial_process as c\n"
        "c.runpy.run_module = lambda *a, **k: time.sleep(60); c.main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, "sft"], stdin=subprocess.PIPE, start_new_session=True
    )
    time.sleep(0.5)
    assert child.poll() is None
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(30) < 0  # by a signal


@pytest.mark.slow
def test_ctrl_c_lets_the_trials_stop(tmp_path: Path) -> None:
    choices = f"{LR}=choice(1e-3, 1e-2)"
    search = started(tmp_path, choices)
    file = tmp_path / "trial_0000" / "metrics.csv"
    wait_for(lambda: file.exists() and len(file.read_text().splitlines()) > 1)
    search.send_signal(signal.SIGINT)
    _, error = search.communicate(timeout=60)
    assert search.returncode == 130
    assert b"stopped after 0 of 2 trials: run it again to continue" in error
    tune(choices, folder=tmp_path)
    assert [row["state"] for row in table(tmp_path)] == ["done", "done"]


def test_a_trial_is_judged_by_one_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first validation has an accuracy, the second, with a reward of 0.5 among its rewards, has none."""
    monkeypatch.setattr(trial, "COMMAND", (sys.executable, "-c", "pass"))
    search = Search("grpo", None, (), (), "val:accuracy", True, tmp_path)
    run = trial.TrialRun(search, tmp_path, [], 0)
    table = tmp_path / "metrics.csv"
    table.write_text("step,val_accuracy,val_reward\n1,0.9,0.4\n")
    assert run.new_values() == [(1, 0.9)]
    table.write_text("step,val_accuracy,val_reward\n1,0.9,0.4\n2,,0.5\n")
    assert run.new_values() == [(1, 0.4), (2, 0.5)]
    assert run.best() == 0.5
    run.close()


@pytest.mark.slow
def test_trials_that_are_measured_by_different_metrics_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["tune", "grpo", "--folder", str(tmp_path / "mixed"), "grpo.max_num_steps=3"]
    assert cli.main([*run, f"{LR}=choice(1e-5, 1e-3)"]) == 1
    error = capsys.readouterr().err
    assert "is measured by val_" in error
    assert "Give --metric val_reward and another --folder" in error
    run = ["tune", "grpo", "--folder", str(tmp_path / "rewards"), "grpo.max_num_steps=3"]
    assert cli.main([*run, f"{LR}=choice(1e-5, 2e-5)"]) == 0
    assert "val_reward" in table(tmp_path / "rewards")[0]
    assert "the best is trial 0, val_reward 3." in capsys.readouterr().out


def test_each_concurrent_trial_gets_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from hone.config.schema import ClusterConfig
    from hone.errors import ConfigError

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    there = visible_devices()
    assert there == ["2", "3", "5", "7"]
    assert devices_for(ClusterConfig(gpus_per_node=2), 2, there) == ("2,3", "5,7")
    assert devices_for(ClusterConfig(gpus_per_node=1), 1, there) == ()
    assert devices_for(ClusterConfig(gpus_per_node=8, ray_address="auto"), 2, there) == ()
    assert devices_for(ClusterConfig(gpus_per_node=0), 3, there) == ()
    with pytest.raises(ConfigError, match="needs 6 GPUs, and there are 4: set --parallel 2"):
        devices_for(ClusterConfig(gpus_per_node=2), 3, there)


def test_every_command_that_trains_can_be_searched() -> None:
    assert {"sft", "dpo", "rm", "grpo"} <= settings.specs().keys()
    assert "eval" not in settings.specs()
