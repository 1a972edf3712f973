"""metrics.csv and its companions: nothing twice, nothing lost, whenever the run was killed."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hone.errors import ConfigError
from hone.tracking import MetricLog, RunFolder
from hone.tracking.gpu_usage import GpuMonitor
from hone.tracking.metrics_csv import MetricTable, read_table


def settings(**changes: Any) -> Any:
    base = {
        "tensorboard_enabled": False,
        "wandb_enabled": False,
        "mlflow_enabled": False,
        "monitor_gpus": True,
        "wandb": SimpleNamespace(project="hone", name=None),
        "mlflow": SimpleNamespace(experiment_name="hone", run_name=None, tracking_uri=None),
    }
    return SimpleNamespace(**{**base, **changes})


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def fill(path: Path, steps: int) -> None:
    table = MetricTable(path, None)
    for step in range(1, steps + 1):
        table.add(step, {"train_loss": 1 / step, "learning_rate": 1e-3})
    table.close()


def test_the_columns_that_plotting_scripts_read_always_exist(tmp_path: Path) -> None:
    log = MetricLog(RunFolder(tmp_path), settings())
    log.log(1, {"train_loss": 2.5})
    log.close()
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[0] == "step"
    assert {"train_loss", "val_loss", "reward_accuracy", "learning_rate", "gpu_utilization"} <= set(header)
    assert rows(tmp_path / "metrics.csv")[0]["gpu_utilization"] == ""


PLOTTING_SCRIPT = """
import csv, math, sys
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
with open(sys.argv[1]) as file:
    rows = list(csv.DictReader(file))
column = lambda name: [float(row[name] or "nan") for row in rows]
fig, axes = plt.subplots(2, 2)
for name, ax in zip(("val_loss", "reward_accuracy", "learning_rate", "gpu_utilization"), axes.flat):
    line, = ax.plot(column("step"), column(name), color="red")
    seen = [math.isfinite(y) for y in line.get_ydata()]
    print(name, sum(a and b for a, b in zip(seen, seen[1:])))
"""


def test_a_script_that_plots_the_columns_draws_the_validation_as_a_line(tmp_path: Path) -> None:
    """As people write such scripts: one plot a column, no look at what is blank. A line has segments where two values
    stand next to each other."""
    with MetricLog(RunFolder(tmp_path), settings()) as log:
        for step in range(1, 11):
            held_out = {"val_loss": 1 / step} if step % 4 == 0 else {}
            log.log(step, {"train_loss": 2 / step, "learning_rate": 0.1, "reward_accuracy": 0.5, **held_out})
    told = subprocess.run(
        [sys.executable, "-c", PLOTTING_SCRIPT, str(tmp_path / "metrics.csv")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    segments = dict(zip(told[::2], map(int, told[1::2]), strict=True))
    assert segments == {"val_loss": 6, "reward_accuracy": 9, "learning_rate": 9, "gpu_utilization": 0}


def test_a_row_says_which_step_measured_its_held_out_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricTable(path, None)
    for step in range(1, 6):
        table.add(step, {"train_loss": 1.0} | ({"val_loss": float(step)} if step in (2, 4) else {}))
    table.close()
    assert [(row["val_loss"], row["val_step"]) for row in rows(path)] == [
        ("", ""), ("2", "2"), ("2", "2"), ("4", "4"), ("4", "4"),
    ]  # fmt: skip
    columns, read = read_table(path)
    assert "val_step" not in columns
    assert [row["val_loss"] for row in read] == ["", "2", "", "4", ""]


def test_held_out_metrics_go_on_from_where_a_run_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"

    def add(table: MetricTable, first: int, last: int) -> None:
        for step in range(first, last + 1):
            table.add(step, {"train_loss": 1.0} | ({"val_loss": float(step)} if step % 3 == 0 else {}))
        table.close()

    add(MetricTable(path, None), 1, 8)
    whole = path.read_text()
    add(MetricTable(path, 4), 5, 8)
    assert path.read_text() == whole
    path.write_text("step,train_loss,val_loss\n1,1,\n2,1,5\n3,1,\n")  # of a version without val_step
    add(MetricTable(path, 3), 4, 4)
    assert [(row["val_loss"], row.get("val_step")) for row in rows(path)][1:] == [
        ("5", ""), ("", ""), ("5", "2"),
    ]  # fmt: skip


def test_each_step_is_on_disk_when_log_returns(tmp_path: Path) -> None:
    log = MetricLog(RunFolder(tmp_path), settings())
    for step in (1, 2):
        log.log(step, {"train_loss": 0.5})
        assert rows(tmp_path / "metrics.csv")[-1]["step"] == str(step)


def test_a_late_column_leaves_earlier_rows_blank(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricTable(path, None)
    table.add(1, {"train_loss": 2.0})
    table.add(2, {"train_loss": 1.0, "new": 3})
    table.add(3, {"train_loss": 0.5})
    table.close()
    assert [row["new"] for row in rows(path)] == ["", "3", ""]
    assert [row["train_loss"] for row in rows(path)] == ["2", "1", "0.5"]


def test_a_step_logged_in_two_parts_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricTable(path, None)
    table.add(1, {"train_loss": 2.0})
    table.add(1, {"val_loss": 3.0})
    table.add(2, {"train_loss": 1.0})
    table.close()
    assert [(row["step"], row["train_loss"], row["val_loss"]) for row in rows(path)] == [
        ("1", "2", "3"),
        ("2", "1", "3"),
    ]


def test_float32_values_survive_and_counts_are_whole(tmp_path: Path) -> None:
    import numpy as np

    value = float(np.float32(0.1) / np.float32(3))
    table = MetricTable(tmp_path / "m.csv", None)
    table.add(1, {"a": value, "tokens": 123456789012, "bad": float("nan")})
    table.close()
    (row,) = rows(tmp_path / "m.csv")
    assert np.float32(row["a"]) == np.float32(value)
    assert (row["tokens"], row["bad"]) == ("123456789012", "nan")


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    fill(path, 7)
    table = MetricTable(path, resume_step=4)
    assert [row["step"] for row in rows(path)] == ["1", "2", "3", "4"]
    table.add(5, {"train_loss": 9.0})
    table.close()
    assert [row["step"] for row in rows(path)] == ["1", "2", "3", "4", "5"]
    assert rows(path)[-1]["train_loss"] == "9"


def test_starting_from_nothing_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    fill(path, 7)
    MetricTable(path, None).close()
    assert rows(path) == []


def test_killed_at_any_byte_and_resumed_gives_the_uninterrupted_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    fill(whole, 6)
    text = whole.read_bytes()
    header = text.index(b"\n") + 1
    for cut in range(header, len(text)):
        path = tmp_path / "cut.csv"
        path.write_bytes(text[:cut])
        complete = text[:cut].count(b"\n") - 1
        table = MetricTable(path, resume_step=complete)
        for step in range(complete + 1, 7):
            table.add(step, {"train_loss": 1 / step, "learning_rate": 1e-3})
        table.close()
        assert path.read_bytes() == text, f"cut at byte {cut}"


def test_a_cut_number_is_not_read_as_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train_loss\n1,0.25\n2,0.125\n3,0.06")
    assert read_table(path)[1] == [{"step": "1", "train_loss": "0.25"}, {"step": "2", "train_loss": "0.125"}]


@pytest.mark.parametrize("damage", [b"", b"ste", b"\0\0\0\n\0\0", b"\xff\xfe nonsense\n1,2\n"])
def test_an_unreadable_file_is_an_empty_table(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(damage)
    assert read_table(path) == ([], [])
    table = MetricTable(path, resume_step=3)
    table.add(4, {"train_loss": 1.0})
    table.close()
    assert [row["step"] for row in rows(path)] == ["4"]


def test_a_failed_rewrite_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "metrics.csv"
    fill(path, 2)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        MetricTable(path, resume_step=1)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    table = MetricTable(tmp_path / "metrics.csv", None)
    table._file.close()
    table._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(OSError, match="No space left") as caught:
        table.add(1, {"train_loss": 1.0})
    assert caught.value.filename == str(tmp_path / "metrics.csv")
    with pytest.raises(OSError, match="No space left") as caught:
        table.close()
    assert caught.value.filename == str(tmp_path / "metrics.csv")


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    log = MetricLog(RunFolder(tmp_path), settings(tensorboard_enabled=True))
    for step in (1, 2, 3):
        log.log(step, {"train_loss": 0.5 * step})
    log.close()
    assert scalars(tmp_path / "tensorboard", "train_loss") == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_tensorboard_shows_no_step_twice_after_resuming(tmp_path: Path) -> None:
    first = MetricLog(RunFolder(tmp_path), settings(tensorboard_enabled=True))
    for step in range(1, 6):
        first.log(step, {"train_loss": 1.0})
    first.close()
    second = MetricLog(RunFolder(tmp_path), settings(tensorboard_enabled=True), resume_step=3)
    for step in (4, 5, 6):
        second.log(step, {"train_loss": 2.0})
    second.close()
    values = scalars(tmp_path / "tensorboard", "train_loss")
    assert values == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_enabled_but_not_installed_names_the_fix(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"{name} is not installed: .* -m pip install -e '\.\[{name}\]'"):
        MetricLog(RunFolder(tmp_path), settings(**{f"{name}_enabled": True}))


class FakeWandb(ModuleType):
    """Records what is asked of W&B."""

    class Error(Exception):
        """W&B's own base class."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []

    def init(self, **settings: Any) -> Any:
        self.inits.append(settings)
        return SimpleNamespace(
            log=lambda metrics, step: self.logged.append((step, metrics)), finish=lambda: None
        )


def test_wandb_is_one_run_however_often_it_is_resumed(tmp_path: Path, monkeypatch: Any) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for resume_step in (None, 1, None):
        log = MetricLog(RunFolder(tmp_path), settings(wandb_enabled=True), resume_step)
        log.log((resume_step or 0) + 1, {"train_loss": 1.0})
        log.close()
    ids = [init["id"] for init in wandb.inits]
    assert ids[0] == ids[1] != ids[2]
    assert wandb.inits[0]["name"] == tmp_path.name
    assert wandb.logged[:2] == [(1, {"train_loss": 1.0}), (2, {"train_loss": 1.0})]


def test_wandb_without_a_login_names_the_way_out(tmp_path: Path, monkeypatch: Any) -> None:
    wandb = FakeWandb()

    def refuse(**_: Any) -> None:
        raise wandb.Error("No API key configured.")

    wandb.init = refuse  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(ConfigError, match=r"No API key.*WANDB_MODE=offline"):
        MetricLog(RunFolder(tmp_path), settings(wandb_enabled=True))


class FakeCuda(SimpleNamespace):
    def __init__(self, used: list[float]) -> None:
        super().__init__(is_available=lambda: True, device_count=lambda: 2)
        self.utilization = lambda device: used[device]
        self.max_memory_allocated = lambda device: (device + 1) * 2**30


def test_gpu_load_and_memory_are_logged_where_there_is_cuda(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=FakeCuda([20.0, 60.0])))
    log = MetricLog(RunFolder(tmp_path), settings())
    log.log(1, {"train_loss": 1.0})
    log.close()
    (row,) = rows(tmp_path / "metrics.csv")
    assert (row["gpu_utilization"], row["gpu_memory_gib"]) == ("40", "2")


def test_gpu_metrics_do_without_nvml(monkeypatch: Any) -> None:
    cuda = FakeCuda([0.0, 0.0])

    def no_nvml(device: int) -> float:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    cuda.utilization = no_nvml
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monitor = GpuMonitor()
    assert monitor.metrics() == {"gpu_memory_gib": 2.0}
    monitor.close()
