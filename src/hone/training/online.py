"""The online loop: prompts -> rollouts -> rewards -> advantages -> loss -> optimizer step -> new weights.

Rollouts of step k are sampled from the weights after step k - 1 (staleness 0), or with `async_rollouts` while step
k - 1 trains (`rollout_source`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hone.algorithms.online import OnlineAlgorithm
from hone.config import Loaded, OnlineConfig
from hone.config.metric_names import column_of, flat_metric
from hone.config.schema import RLConfig
from hone.data import PromptData
from hone.engine import Engine, build
from hone.export import with_models_of_runs
from hone.rollout.dynamic_sampling import describe_constant_rewards
from hone.rollout.rewards.reward_pool import checked_names
from hone.rollout.rollout_metrics import describe
from hone.rollout.sampler import RolloutSampler, TimedGenerator
from hone.rollout.timeline import Timeline
from hone.tracking import RunFolder, working, write_rollouts
from hone.training.preflight import prepared
from hone.training.process import run_exclusively
from hone.training.recovery import run_with_restarts
from hone.training.rollout_source import LookaheadSource, RolloutSource
from hone.training.run import TrainingRun, total_steps
from hone.training.step_timer import StepTimer
from hone.training.stream_source import StreamSource
from hone.types import Group, Prompt, Rollout


def main(loaded: Loaded, *, recovering: bool = False) -> dict[str, Any]:
    """Train as configured. Returns the run's summary. Raises HoneError for expected failures."""
    loaded = with_models_of_runs(loaded)
    run = run_with_restarts(loaded.config, partial(train, loaded), recovering=recovering)
    return run_exclusively(loaded.config, run)


async def train(loaded: Loaded, recovering: bool = False) -> dict[str, Any]:
    """The loop itself."""
    config: OnlineConfig = loaded.config
    folder = RunFolder(config.checkpointing.checkpoint_dir, config.logger.log_dir)
    async with prepared(loaded, folder.rewards_log) as ready:
        for note in ready.pool.notes:
            print(note, flush=True)
        with working(f"loading {config.policy.model_name}"):
            engine = build(config, ready.tokenizer, recovering=recovering)
        with engine:
            assert engine.generator is not None
            engine.notices += ready.episodes.notices if ready.episodes is not None else []
            timeline = Timeline(folder.timeline)
            generator = TimedGenerator(engine.generator, timeline)
            sampler = RolloutSampler(
                generator, ready.tokenizer, ready.pool, config, ready.episodes, timeline=timeline
            )
            return await _train(loaded, ready.algorithm, ready.data, engine, sampler)


async def _train(
    loaded: Loaded, algorithm: OnlineAlgorithm, data: PromptData, engine: Engine, sampler: RolloutSampler
) -> dict[str, Any]:
    config: OnlineConfig = loaded.config
    settings = config.algorithm
    steps = total_steps(settings, data, settings.num_prompts_per_step)
    source = _source_kind(config)(sampler, data, steps, algorithm.weight_of_reward())
    run = TrainingRun(loaded, engine, source, total_steps=steps)
    await run.resume()
    _end_with_the_data(run, source, run.step)
    if run.is_complete:
        return run.summary()
    await engine.sync_weights(run.step)
    async with contextlib.aclosing(source):
        with run:
            run.note_all([*data.dropped_notices(), *data.finding_log.unreported()])
            run.note_all(source.notices_after(run.changed_settings))
            if config.algorithm.val_at_start and run.step == 0:
                run.progress.doing("validating before the first step")
                run.log_before_training(await validate(sampler, data.validation, run, step=0))
            for step in run.steps():
                await one_step(step, algorithm, engine, data, source, run)
                run.note_all(data.finding_log.unreported())
            await run.finish()
    return run.summary()


def _source_kind(config: OnlineConfig) -> type[RolloutSource]:
    kinds = {"lookahead": LookaheadSource, "stream": StreamSource}
    return kinds.get((isinstance(config, RLConfig) and config.algorithm.async_rollouts) or "", RolloutSource)


async def one_step(
    step: int,
    algorithm: OnlineAlgorithm,
    engine: Engine,
    data: PromptData,
    source: RolloutSource,
    run: TrainingRun,
) -> None:
    """Sample, score, train, sync the weights to the generator, validate, log and save."""
    sampler = source.sampler
    config = sampler.config
    timer = StepTimer(run.progress, sampler.timeline, source.next_parts)
    if algorithm.is_on_policy_step(step):
        metrics, tokens = await _train_on_rollouts(step, algorithm, engine, source, run, timer)
    else:
        sampler.pool.set_progress(step - 1, run.total_steps)
        metrics, tokens = await _train_on_data_answers(algorithm, engine, data, config)
        metrics |= {"epoch": float(data.epoch), **sampler.pool.metrics()}
        timer.end("training")
    _end_with_the_data(run, source, step)
    await engine.sync_weights(step)
    timer.end("weight_sync")
    metrics["policy_loss_total"] = metrics.pop("loss", 0.0)
    if validation_is_due(step, run.total_steps, config):
        metrics |= await validate(sampler, data.validation, run, step=step)
        timer.end("validation")
    metrics |= timer.seconds()
    metrics["tokens_per_s"] = tokens / metrics["seconds"]
    stop_when_reached(metrics, config, run)
    sampler.timeline.end_step(step)
    await run.end_step(step, metrics, tokens=tokens)


async def _train_on_rollouts(
    step: int,
    algorithm: OnlineAlgorithm,
    engine: Engine,
    source: RolloutSource,
    run: TrainingRun,
    timer: StepTimer,
) -> tuple[dict[str, float], int]:
    """Sample completions, score them if there are rewards, train. Returns metrics and the number of tokens."""
    batch = await source.take(step, timer.end)
    groups = batch.drawn
    await engine.begin_update()
    learnt = await source.train(step, algorithm.step(engine, batch.groups, step), timer.end)
    if source.sampler.config.logger.log_rollouts:
        write_rollouts(run.folder.rollout_file(step), step, [*groups, *batch.aborted])
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if _has_no_signal(rollouts, learnt) and (why := describe_constant_rewards(groups)):
        run.note_once("constant", f"step {step} has nothing to learn from: all rewards are equal{why}")
    tokens = sum(len(r.prompt.tokens) + len(r.completion.tokens) for r in rollouts)
    metrics = describe(groups) | learnt | batch.metrics
    return metrics | checked_names(batch.reported, taken=metrics), tokens


def _has_no_signal(rollouts: Sequence[Rollout], metrics: dict[str, float]) -> bool:
    """Whether all rewards are equal and the algorithm made nothing of them: advantages are 0, or no sample is trained
    on. (A value model or a penalty may give a signal even so.)"""
    advantages = {rollout.advantage for rollout in rollouts} - {None}
    no_gradient = advantages == {0.0} or metrics.get("trained_samples") == 0
    return no_gradient and len({rollout.reward for rollout in rollouts}) == 1


async def _train_on_data_answers(
    algorithm: OnlineAlgorithm, engine: Engine, data: PromptData, config: OnlineConfig
) -> tuple[dict[str, float], int]:
    """Train on the data's answers to the prompts. Returns metrics and the number of tokens."""
    prompts = data.next(config.algorithm.num_prompts_per_step)
    samples = data.answers(prompts)
    await engine.begin_update()
    metrics = await algorithm.step_on_answers(engine, samples)
    counts = {"samples": len(prompts), "truncated_samples": data.counts["truncated"]}
    counts["excluded_samples"] = data.counts["excluded"]
    metrics |= {name: float(count) for name, count in counts.items()}
    return metrics, sum(len(sample) for sample in samples)


def _end_with_the_data(run: TrainingRun, source: RolloutSource, step: int) -> None:
    """End the run where the prompts are used up: dynamic sampling may need more of them than were counted."""
    if (last := source.last_step(step)) is not None:
        run.total_steps = min(run.total_steps, last)
        source.end_at(run.total_steps)


def validation_is_due(step: int, total: int, config: OnlineConfig) -> bool:
    """At `val_period`, from `val_start_at` on, and with `val_at_end` after the last step."""
    settings = config.algorithm
    periodic = settings.val_period > 0 and step % settings.val_period == 0 and step >= settings.val_start_at
    return periodic or (step == total and settings.val_at_end)


async def validate(
    sampler: RolloutSampler, prompts: Sequence[Prompt], run: TrainingRun, *, step: int
) -> dict[str, float]:
    """Sample completions of held-out prompts and score them. Metrics are those of `describe`, prefixed with `val_`."""
    config = sampler.config
    sampler.pool.set_progress(step, run.total_steps)
    limit = config.algorithm.max_val_samples
    prompts = list(prompts[:limit] if limit is not None else prompts)
    if not prompts:
        return {}
    groups: list[Group] = []
    size = config.algorithm.val_batch_size or len(prompts)
    for start in range(0, len(prompts), size):
        chunk = prompts[start : start + size]
        groups += await sampler.validate(chunk)
        run.progress.phase("validation", start + len(chunk), len(prompts))
    write_rollouts(run.folder.validation_file(step), step, groups)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    _print_samples(rollouts, run, config.logger.num_val_samples_to_print)
    measured = {
        name: value
        for name, value in sampler.pool.metrics().items()
        if not name.startswith("weight_") and (value or not name.startswith("workers_"))
    }
    described = {name: value for name, value in describe(groups).items() if name in VALIDATED}
    metrics = {f"val_{name}": value for name, value in (measured | described).items()}
    ranked = config.checkpointing.metric_name or ""
    if flat_metric(ranked) not in metrics and (column := column_of(ranked, [metrics])) in metrics:
        why = "no reward function says right or wrong, so there is no accuracy"
        run.note_once("accuracy", f"{why}: checkpoints are ranked by {column}")
    return metrics


VALIDATED = """
accuracy reward completion_length truncated failed samples turns
tool_calls tool_failures out_of_turns
""".split()


def stop_when_reached(metrics: dict[str, float], config: OnlineConfig, run: TrainingRun) -> None:
    """End the run once `stop_at_validation_metric` reaches the threshold."""
    settings = config.algorithm
    name, threshold = settings.stop_at_validation_metric, settings.stop_at_validation_threshold
    if name is None or threshold is None:
        return
    full = name if ":" in name else f"val:{name}"
    column = run.metrics.column_of(full, metrics)
    value = metrics.get(column)
    if value is not None and value >= threshold:
        run.end_at_goal(f"{name if column == flat_metric(full) else column} reached {value:.4g}")


def _print_samples(rollouts: Sequence[Rollout], run: TrainingRun, count: int) -> None:
    for rollout in rollouts[:count]:
        content = rollout.prompt.content
        asked = content if isinstance(content, str) else content[-1]["content"]
        run.progress.note(
            f"{asked}\n  -> {rollout.text}\n  reward {rollout.reward} (row {Path(rollout.prompt.id).name})"
        )
