"""The progress line: live on a terminal; elsewhere plain lines, at most one every few seconds."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from hone.errors import visible
from hone.registry import specs
from hone.tracking.activity import QUIET_S, Activity
from hone.units import format_count, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

WINDOW = 20
"""Steps over which tokens/s and the time left are averaged."""


class Progress:
    """Shows the progress of a run; a context manager.

    algorithm: a command's name, which decides the metrics shown ("eval" counts prompts, others steps). start_step: the
    last step of an earlier process. `every`: seconds between two plain lines, after the first three steps; the last
    step always prints. `quiet`: seconds without a line after which a running step prints what it is doing.
    """

    def __init__(
        self,
        total_steps: int,
        algorithm: str,
        start_step: int = 0,
        *,
        stream: TextIO | None = None,
        every: float = 2.0,
        quiet: float = QUIET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.algorithm = total_steps, algorithm
        self.step = self.start_step = start_step
        self._unit = "prompt" if algorithm == "eval" else "step"
        self._stream = stream if stream is not None else sys.stdout
        self._every, self._clock = every, clock
        self._latest: dict[str, float] = {}
        self._history: deque[tuple[float, int, int]] = deque(maxlen=WINDOW)
        """Seconds, steps and tokens of each of the last updates: an evaluation has many prompts in one."""
        self._before, self._printed = clock(), float("-inf")
        self._rich: RichProgress | None = None
        self._run: TaskID | None = None
        self._phase: TaskID | None = None
        self._activity = Activity(stream=stream, every=quiet)

    def __enter__(self) -> Progress:
        self._before = self._clock()
        if self._stream.isatty():
            self._rich = _live(self._stream)
            self._run = self._rich.add_task(
                self.algorithm, total=self.total, completed=self.start_step, text="starting", left=""
            )
            self._rich.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._activity.close()
        if self._rich is not None:
            self._rich.stop()  # keeps the last line and gives the cursor back, also after Ctrl-C

    def update(self, step: int, metrics: Mapping[str, float], tokens: int = 0) -> None:
        """Report that `step` is done, in which `tokens` were processed."""
        now = self._clock()
        self._history.append((now - self._before, step - self.step, tokens))
        self._before, self.step = now, step
        if "val_reward" in metrics:  # an accuracy of an earlier validation is not this one's
            self._latest.pop("val_accuracy", None)
        self._latest.update(metrics)
        self._activity.end()
        text, left = self._text(), format_duration(self.seconds_left())
        if self._rich is not None and self._run is not None:
            self._rich.update(self._run, completed=step, text=text, left=f"{left} left")
            return
        early = step - self.start_step <= 3
        if early or step >= self.total or now - self._printed >= self._every:
            self._print(f"{self._unit} {step}/{self.total}  {text}  left {left}")

    def doing(self, what: str) -> None:
        """Report what the running step is doing: shown on the live line, or as a plain line once it takes long."""
        if self._rich is not None and self._run is not None:
            self._rich.update(self._run, text=f"{self._text()}  [{what}]")
        else:
            self._activity.begin(f"{self._unit} {min(self.step + 1, self.total)}/{self.total}: {what}")

    def before_training(self, metrics: Mapping[str, float]) -> None:
        """Report the held-out metrics of the initial weights."""
        self._activity.end()
        self._latest.update(metrics)
        shown = self._shown(metrics)
        self.note(f"before training: {shown}" if shown else "before training: nothing held out to measure")

    def phase(self, name: str, done: int, total: int) -> None:
        """Report work that is not a step, such as validation: a line of its own until `done == total`."""
        if self._rich is not None:
            self._show_phase(self._rich, name, done, total)
        elif done >= total or self._clock() - self._printed >= self._every:
            self._print(f"{name} {done}/{total}")
        if done >= total:  # not a part of the next step's time
            self._before = self._clock()

    def note(self, text: str) -> None:
        """Print a line above the live one: a checkpoint was written, an epoch begins."""
        text = visible(text)
        if self._rich is not None:
            self._rich.console.print(text, markup=False, highlight=False)
        else:
            self._print(text)

    def tokens_per_second(self) -> float:
        """Mean over the last steps; 0 before the first."""
        seconds = sum(seconds for seconds, _, _ in self._history)
        return sum(tokens for _, _, tokens in self._history) / seconds if seconds > 0 else 0.0

    def seconds_left(self) -> float:
        """Time left, from the mean of the last steps; 0 before the first."""
        steps = sum(steps for _, steps, _ in self._history)
        if not steps:
            return 0.0
        return sum(seconds for seconds, _, _ in self._history) / steps * max(self.total - self.step, 0)

    def _text(self) -> str:
        shown, rate = self._shown(self._latest), f"{format_count(self.tokens_per_second())} tok/s"
        return f"{shown}  {rate}" if shown else rate

    def _shown(self, metrics: Mapping[str, float]) -> str:
        spec = specs().get(self.algorithm)
        named = spec.metrics.progress if spec is not None else (("accuracy", "accuracy"),)
        if "val_accuracy" in metrics:  # the reward stands in for it where nothing says right or wrong
            named = tuple(pair for pair in named if pair[0] != "val_reward")
        return "  ".join(f"{label} {metrics[name]:.4g}" for name, label in named if name in metrics)

    def _show_phase(self, live: RichProgress, name: str, done: int, total: int) -> None:
        if self._phase is None and done < total:
            self._phase = live.add_task(name, total=total, completed=done, text="", left="")
        elif self._phase is not None and done < total:
            live.update(self._phase, description=name, total=total, completed=done)
        elif self._phase is not None:
            live.remove_task(self._phase)
            self._phase = None

    def _print(self, line: str) -> None:
        self._printed = self._clock()
        print(line, file=self._stream, flush=True)


def _live(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns: list[Any] = [
        TextColumn("{task.description}", style="bold"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}", markup=False),
        TextColumn("{task.fields[left]}", style="cyan", markup=False),
    ]
    return RichProgress(*columns, console=Console(file=stream), refresh_per_second=8)
