"""The supervised loop: examples -> loss -> optimizer step, for every supervised algorithm of `hone.registry`."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from hone.algorithms.supervised import SupervisedAlgorithm
from hone.config import Loaded
from hone.engine import Engine, build
from hone.export import with_models_of_runs
from hone.tracking import working
from hone.training.preflight import prepare
from hone.training.process import run_exclusively
from hone.training.recovery import run_with_restarts
from hone.training.run import TrainingRun, total_steps
from hone.types import TrainedModel


def main(loaded: Loaded, *, recovering: bool = False) -> dict[str, Any]:
    """Train as configured. Returns the run's summary. Raises HoneError for expected failures."""
    loaded = with_models_of_runs(loaded)
    run = run_with_restarts(loaded.config, partial(train, loaded), recovering=recovering)
    return run_exclusively(loaded.config, run)


async def train(loaded: Loaded, recovering: bool = False) -> dict[str, Any]:
    """The loop itself."""
    config = loaded.config
    tokenizer, algorithm = prepare(loaded)
    with working(f"loading {config.policy.model_name}"):
        engine = build(config, tokenizer, recovering=recovering)
    with engine:
        return await _train(loaded, algorithm, engine)


async def _train(loaded: Loaded, algorithm: SupervisedAlgorithm, engine: Engine) -> dict[str, Any]:
    config, section, learner = loaded.config, algorithm.section, engine.learner
    size = config.policy.train_global_batch_size
    steps = total_steps(section, algorithm.data, size)
    run = TrainingRun(loaded, engine, algorithm, total_steps=steps)
    await algorithm.prepare(learner, steps * size)
    await run.resume()
    if run.is_complete:
        return run.summary()
    with run:
        run.note_all([*algorithm.notes(), *algorithm.data.finding_log.unreported()])
        if section.val_at_start and run.step == 0:
            run.progress.doing("validating before the first step")
            run.log_before_training(await validate(learner, algorithm))
        for step in run.steps():
            started = time.perf_counter()
            run.progress.doing("training")
            samples = algorithm.data.next(size)
            if not samples:  # excluded rows can end the last epoch early
                break
            if algorithm.data.counts["truncated"]:
                limit = config.policy.max_total_sequence_length
                run.note_once(
                    "truncated",
                    f"samples longer than policy.max_total_sequence_length={limit} are truncated; metrics.csv counts "
                    "them (truncated_samples)",
                )
            run.note_all(algorithm.data.finding_log.unreported())
            metrics = algorithm.describe(await algorithm.step(learner, samples), samples)
            tokens = sum(len(sample) for sample in samples)
            metrics["tokens_per_s"] = tokens / (time.perf_counter() - started)
            last = step == run.total_steps
            if (section.val_period > 0 and step % section.val_period == 0) or (last and section.val_at_end):
                run.progress.doing("validating")
                metrics |= await validate(learner, algorithm)
            await run.end_step(step, metrics, tokens=tokens)
        await run.finish()
    return run.summary()


async def validate(learner: TrainedModel, algorithm: SupervisedAlgorithm) -> dict[str, float]:
    """The algorithm's metrics on the held-out samples; empty if there are none."""
    samples = algorithm.held_out()
    if not samples:
        return {}
    started = time.perf_counter()
    metrics = await algorithm.measure(learner, samples)
    return {
        **{f"val_{name}": value for name, value in metrics.items()},
        "val_samples": float(len(samples)),
        "val_seconds": time.perf_counter() - started,
    }
