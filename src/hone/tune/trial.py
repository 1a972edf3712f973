"""One trial: the training command in its own process and folder, monitored through its metrics.csv."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hone.config.metric_names import column_of
from hone.tracking.metrics_csv import read_table
from hone.tune.settings import Search, owned

COMMAND = (sys.executable, "-m", "hone.tune.trial_process")
STOP_TIMEOUT_S = 60.0
"""Seconds for saving a checkpoint after SIGTERM; then the process is killed."""


class TrialRun:
    """A running trial. `slot` numbers the concurrent trials."""

    def __init__(self, search: Search, folder: Path, overrides: Sequence[str], slot: int) -> None:
        self.search, self.folder, self.slot = search, folder, slot
        self.log = folder / "log.txt"
        self.started = time.monotonic()
        self.seen: dict[int, float] = {}
        """The metric's values read so far, by step."""
        self.column = search.column
        """The column of metrics.csv that the values are read from."""
        self.pruned = False
        self._stopping: float | None = None
        folder.mkdir(parents=True, exist_ok=True)
        words = ["--config", search.config] if search.config is not None else []
        words += [*search.fixed, *owned(search, folder), *overrides]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, search.algorithm, *words],
                stdin=subprocess.PIPE,  # the trial ends when this pipe closes
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C goes to the search, which stops its trials
            )

    def _environment(self) -> dict[str, str]:
        found = dict(os.environ)
        if self.search.devices:
            found["CUDA_VISIBLE_DEVICES"] = self.search.devices[self.slot]
        if self.search.parallel > 1 and "OMP_NUM_THREADS" not in found:
            found["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.search.parallel))
        return found

    def new_values(self) -> list[tuple[int, float]]:
        """(step, value) of the metric since the last call; finite values only. Step 0 is left out: it is the same in
        all trials."""
        _, rows = read_table(self.folder / "metrics.csv")
        found = []
        column = column_of(self.search.metric, [{name for name, cell in row.items() if cell} for row in rows])
        if column != self.column:  # values of two metrics are not compared with each other
            self.column = column
            self.seen.clear()
        for row in rows:
            step, text = int(row["step"]), row.get(column, "")
            if text and step and step not in self.seen:
                self.seen[step] = float(text)
                found.append((step, self.seen[step]))
        return [(step, value) for step, value in found if math.isfinite(value)]

    @property
    def code(self) -> int | None:
        """The exit code; None while the process runs. One that ignores SIGTERM is killed after STOP_TIMEOUT_S."""
        late = self._stopping is not None and time.monotonic() > self._stopping + STOP_TIMEOUT_S
        if late and self._process.poll() is None:
            self.kill()
        return self._process.poll()

    def stop(self) -> None:
        """Ask the run to save a checkpoint and end (SIGTERM)."""
        if self._stopping is None:
            self._stopping = time.monotonic()
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process group."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Close the pipe to the process, after its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def best(self) -> float | None:
        """The best value of the metric: the value of the best checkpoint."""
        values = [value for value in self.seen.values() if math.isfinite(value)]
        return (max if self.search.maximize else min)(values) if values else None

    def last_line(self) -> str:
        """The last line that the process printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it printed nothing"


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished trial. Its metrics stay."""
    for step in folder.glob("step_*"):
        shutil.rmtree(step, ignore_errors=True)
