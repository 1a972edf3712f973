"""The search: Optuna proposes trials, this process runs and watches them. The state is one SQLite file, `study.db`.

A search that is killed at any instant resumes with the same command: a trial's folder is a run's folder, so trials that
were running go on from their checkpoints. Only this process writes to the file, so several trials can run at once.
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
"""The search stops after so many failures without a success: they have a cause in common."""


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
        self.interrupted: int = 0

    def run(self) -> dict[str, Any]:
        """The summary of the search. Raises Interrupted, after the trials have saved what they have; TrainingError
        when trials only fail."""
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
            results.announce(f"trial {frozen.number} was running when the search ended: it goes on")
        while not self.interrupted:
            while len(self.running) < self.search.parallel and (waiting or self._has_more()):
                trial = self._resume(waiting.pop(0)) if waiting else self.study.ask()
                self._start(trial)
            if not self.running:
                return
            for number in list(self.running):
                self._poll(number)
            self._give_up()
            time.sleep(POLL_S)
        self._stop_all()
        done = len(results.finished(self.study))
        raise Interrupted(
            f"stopped with {done} of {self.search.most} trials done: run the same command to go on"
        )

    def _resume(self, frozen: Any) -> Any:
        return self.optuna.trial.Trial(self.study, frozen._trial_id)

    def _has_more(self) -> bool:
        begun = sum(trial.state.name != "WAITING" for trial in self.study.trials)
        return begun < self.search.most

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
        code = (
            run.code
        )  # read before the metrics, so that the last rows of a run that has ended are not missed
        known = self.study.trials[number].intermediate_values  # not empty for a trial that was resumed
        for step, value in run.new_values():
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
            results.announce(
                f"trial {trial.number}: stopped early, {self.search.column} {format_value(value)}"
            )
        elif code == 0 and value is not None:
            self.study.tell(trial, value)
            results.announce(f"trial {trial.number}: {self.search.column} {value:.6g}")
        else:
            cause = run.last_line() if code != 0 else f"metrics.csv has no {self.search.column} after a step"
            trial.set_user_attr("cause", cause)
            self.study.tell(trial, state=states.FAIL)
            results.announce(f"trial {trial.number}: failed: {cause} (see {run.log})")
        if not self.search.keep_all:
            best = results.best_trial(self.study)
            for frozen in results.finished(self.study):
                if best is None or frozen.number != best.number:
                    drop_checkpoints(results.folder_of(self.search, frozen.number))
        results.write(self.search, self.study)

    def _give_up(self) -> None:
        failed = [trial for trial in self.study.trials if trial.state.name == "FAIL"]
        if len(failed) >= FAILURES_TO_STOP and len(failed) == len(results.finished(self.study)):
            cause = failed[-1].user_attrs.get("cause", "")
            raise TrainingError(
                f"all of {len(failed)} trials failed, the last one with: {cause}. Try it alone: its command's output "
                f"is {results.folder_of(self.search, failed[-1].number) / 'log.txt'}"
            )

    def _stop_all(self, *, kill: bool = False) -> None:
        """Optuna is not told of trials that are stopped here: they go on next time."""
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
                results.announce("stopping: the trials save what they have (Ctrl-C again stops at once)")

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
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
        study.sampler = self._sampler(len(study.trials))
        return study

    def _check_same(self, study: Any) -> None:
        identity, known = SECRETS.hide_all(self.search.identity()), study.user_attrs.get("search")
        if known is None:
            study.set_user_attr("search", json.dumps(identity))
            for values in grid(self.search.parameters, self.search.trials) or ():
                study.enqueue_trial(values)
            return
        before = json.loads(known)
        changed = [name for name in identity if identity[name] != before.get(name)]
        if changed:
            raise CheckpointError(
                f"{self.search.folder} holds another search (its {', '.join(changed)} differ): name another "
                "--folder, or remove it"
            )

    def _pruner(self) -> Any:
        pruners = self.optuna.pruners
        if self.search.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=4)
        return pruners.HyperbandPruner() if self.search.pruner == "hyperband" else pruners.NopPruner()

    def _sampler(self, begun: int) -> Any:
        """TPE (Bergstra et al. 2011). The seed depends on the number of trials: a resumed search must not propose the
        same values again."""
        return self.optuna.samplers.TPESampler(
            seed=self.search.seed + begun, constant_liar=self.search.parallel > 1
        )
