"""The search: Optuna proposes trials; this process runs and monitors them. The state is one SQLite file, `study.db`.

A killed search resumes with the same command. A trial's folder is a run's folder, so a trial that was running continues
from its last checkpoint. Only this process writes to `study.db`, so trials can run concurrently.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from hone.config.secrets import SECRETS
from hone.errors import CheckpointError, ConfigError, Interrupted, TrainingError, install_command
from hone.training.process import check_writable, lock_folder
from hone.tune import plot, results
from hone.tune.settings import Search
from hone.tune.space import format_value, grid, override
from hone.tune.trial import TrialRun, drop_checkpoints

POLL_S = 0.2
"""Seconds between two polls of the running trials."""
FAILURES_TO_STOP = 3
"""The search stops after this many failures without a success: they probably have one cause."""


def import_optuna() -> Any:
    """Optuna. Raises ConfigError when it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"hone tune needs Optuna: {install_command('hone[tune]')}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Tuner:
    """Runs a search to its end."""

    def __init__(self, search: Search) -> None:
        self.search, self.optuna = search, import_optuna()
        self.running: dict[int, tuple[Any, TrialRun]] = {}
        self.interrupted = 0
        """Number of SIGINT and SIGTERM received."""

    def run(self) -> dict[str, Any]:
        """Run the search and return its summary. Raises Interrupted after the trials have saved checkpoints, and
        TrainingError if every trial fails."""
        check_writable(self.search.folder, "--folder")
        with lock_folder(self.search.folder, "--folder"), self._handling_signals():
            self.study = self._open()
            try:
                self._loop()
            except BaseException:
                self._stop_all(kill=True)
                raise
            finally:
                results.write(self.search, self.study)
                if results.best_trial(self.study) is not None:
                    plot.draw(self.search, self.study, self.search.folder / "study.png")
            return results.summary(self.search, self.study)

    # Trials

    def _loop(self) -> None:
        waiting = [trial for trial in self.study.trials if trial.state.name == "RUNNING"]
        for frozen in waiting:
            results.announce(f"trial {frozen.number} was running when the search ended: it continues")
        while not self.interrupted:
            while len(self.running) < self.search.parallel and (waiting or self._has_more()):
                if waiting:
                    self._start(self.optuna.trial.Trial(self.study, waiting.pop(0)._trial_id))
                else:
                    self._start(self.study.ask())
            if not self.running:
                return
            for number in list(self.running):
                self._poll(number)
            self._stop_if_all_fail()
            time.sleep(POLL_S)
        self._stop_all()
        done = len(results.finished(self.study))
        raise Interrupted(
            f"stopped after {done} of {self.search.num_trials} trials: run it again to continue"
        )

    def _has_more(self) -> bool:
        started = sum(trial.state.name != "WAITING" for trial in self.study.trials)
        return started < self.search.num_trials

    def _start(self, trial: Any) -> None:
        values = {p.key: p.suggest(trial) for p in self.search.parameters}
        used = {run.slot for _, run in self.running.values()}
        slot = next(number for number in range(self.search.parallel) if number not in used)
        overrides = [override(key, value) for key, value in values.items()]
        folder = results.folder_of(self.search, trial.number)
        self.running[trial.number] = (trial, TrialRun(self.search, folder, overrides, slot))
        results.announce(f"trial {trial.number}: {', '.join(overrides)}")

    def _poll(self, number: int) -> None:
        trial, run = self.running[number]
        code = run.code  # before the metrics: a run that has ended writes no further rows
        known = self.study.trials[number].intermediate_values  # not empty for a resumed trial
        values = run.new_values()
        if values:
            self._check_column(number, run.column)
        for step, value in values:
            if step not in known:
                trial.report(value, step)
            if code is None and not run.pruned and trial.should_prune():
                run.pruned = True
                run.stop()
        if code is not None:
            del self.running[number]
            run.close()
            self._finish(trial, run, code)

    def _finish(self, trial: Any, run: TrialRun, code: int) -> None:
        value, states = run.best(), self.optuna.trial.TrialState
        trial.set_user_attr("seconds", round(time.monotonic() - run.started, 1))
        if run.pruned:
            self.study.tell(trial, state=states.PRUNED)
            message = f"stopped early, {run.column} {format_value(value)}"
        elif code == 0 and value is not None:
            self.study.tell(trial, value)
            message = f"{run.column} {value:.6g}"
        else:
            cause = run.last_line() if code != 0 else f"metrics.csv has no {run.column} after step 0"
            trial.set_user_attr("cause", cause)
            self.study.tell(trial, state=states.FAIL)
            message = f"failed: {cause} (see {run.log})"
        results.announce(f"trial {trial.number}: {message}")
        if not self.search.keep_all:
            best = results.best_trial(self.study)
            for frozen in results.finished(self.study):
                if best is None or frozen.number != best.number:
                    drop_checkpoints(results.folder_of(self.search, frozen.number))
        results.write(self.search, self.study)

    def _check_column(self, number: int, column: str) -> None:
        """Raise TrainingError if a trial measures another metric than the search has compared so far."""
        known = self.study.user_attrs.get("column")
        if known is None:
            self.study.set_user_attr("column", column)
        elif known != column:
            raise TrainingError(
                f"trial {number} is measured by {column}, the search so far by {known}, and the two cannot be compared "
                "(the reward replaces the accuracy if a reward function does not judge right and wrong alone). Give "
                f"--metric {column if 'reward' in column else known} and another --folder"
            )

    def _stop_if_all_fail(self) -> None:
        failed = [trial for trial in self.study.trials if trial.state.name == "FAIL"]
        if len(failed) >= FAILURES_TO_STOP and len(failed) == len(results.finished(self.study)):
            cause = failed[-1].user_attrs.get("cause", "")
            raise TrainingError(
                f"all {len(failed)} trials failed, the last one with: {cause}. The output of its command is in "
                f"{results.folder_of(self.search, failed[-1].number) / 'log.txt'}"
            )

    def _stop_all(self, *, kill: bool = False) -> None:
        """Stop the running trials without reporting them to Optuna: they continue when the search is resumed."""
        for _, run in self.running.values():
            run.kill() if kill else run.stop()
        while any(run.code is None for _, run in self.running.values()):
            if self.interrupted > 1:
                for _, run in self.running.values():
                    run.kill()
            time.sleep(POLL_S)
        for _, run in self.running.values():
            run.close()
        self.running = {}

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        def on_signal(number: int, frame: FrameType | None) -> None:
            self.interrupted += 1
            if self.interrupted == 1:
                results.announce("stopping: the trials save checkpoints (Ctrl-C again stops at once)")

        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    # The study

    def _open(self) -> Any:
        file = self.search.folder / "study.db"
        storage = self.optuna.storages.RDBStorage(f"sqlite:///{file.resolve()}")
        try:
            study = self.optuna.create_study(
                storage=storage,
                study_name="hone",
                direction="maximize" if self.search.maximize else "minimize",
                load_if_exists=True,
                pruner=self._pruner(),
            )
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. Name another --folder") from error
        self._check_same(study)
        # TPE (Bergstra et al. 2011). Its seed depends on the number of trials: otherwise a resumed search would propose
        # the same values again.
        seed, parallel = self.search.seed + len(study.trials), self.search.parallel > 1
        study.sampler = self.optuna.samplers.TPESampler(seed=seed, constant_liar=parallel)
        return study

    def _check_same(self, study: Any) -> None:
        """Record the search in a new study. Raises CheckpointError if the study is of another search."""
        identity, known = SECRETS.hide_all(self.search.identity()), study.user_attrs.get("search")
        if known is None:
            study.set_user_attr("search", json.dumps(identity))
            for values in grid(self.search.parameters, self.search.trials) or ():
                study.enqueue_trial(values)
            return
        before = json.loads(known)
        if changed := [name for name in identity if identity[name] != before.get(name)]:
            raise CheckpointError(
                f"{self.search.folder} holds another search (its {', '.join(changed)} differ): name another "
                "--folder, or remove it"
            )

    def _pruner(self) -> Any:
        pruners = self.optuna.pruners
        if self.search.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=4)
        return pruners.HyperbandPruner() if self.search.pruner == "hyperband" else pruners.NopPruner()
