"""The supervised loop: examples -> loss -> optimizer step. SFT today; preferences use the same loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from hone import engine
from hone.algorithms import sft
from hone.config import Loaded, SFTConfig
from hone.data import SupervisedData, build_supervised
from hone.engine import Engine
from hone.engine.build import tokenizer_of
from hone.loop import Run, keep_going
from hone.process import run_alone
from hone.types import Sample, TrainedModel


def main(loaded: Loaded, *, recovering: bool = False) -> dict[str, Any]:
    """Train as configured; returns the run's summary. Raises HoneError for all that is expected to go wrong."""
    return run_alone(loaded.config, keep_going(loaded.config, partial(train, loaded), recovering=recovering))


async def train(loaded: Loaded, recovering: bool = False) -> dict[str, Any]:
    """The loop itself."""
    config: SFTConfig = loaded.config
    tokenizer = tokenizer_of(config)
    data = build_supervised(config, tokenizer)  # before the model: wrong data stops the run in a second
    with engine.build(config, tokenizer, recovering=recovering) as parts:
        return await _train(loaded, tokenizer, data, parts)


async def _train(
    loaded: Loaded, tokenizer: PreTrainedTokenizerBase, data: SupervisedData, parts: Engine
) -> dict[str, Any]:
    config: SFTConfig = loaded.config
    learner = parts.learner
    run = Run(
        loaded,
        "sft",
        total_steps=total_steps(config, data),
        parts={"policy": learner},
        data=data,
        tokenizer=tokenizer,
        engine=parts,
    )
    await run.resume()
    if run.finished:
        return run.summary()
    with run:
        _say_left_out(run, data, config)
        said = False
        if config.sft.val_at_start and run.step == 0:
            run.log(0, await validate(learner, data.validation, config))
        for step in run.steps():
            started = time.perf_counter()
            samples = data.next(config.policy.train_global_batch_size)
            if not samples:  # rows that are left out can end the last epoch sooner than their number says
                break
            said = said or _say_truncated(run, data, config)
            metrics = await sft.step(learner, samples)
            tokens = sum(len(sample) for sample in samples)
            metrics = describe(metrics, samples, data) | {
                "tokens_per_s": tokens / (time.perf_counter() - started)
            }
            last = step == run.total_steps
            if (config.sft.val_period > 0 and step % config.sft.val_period == 0) or (
                last and config.sft.val_at_end
            ):
                metrics |= await validate(learner, data.validation, config)
            await run.end_step(step, metrics, tokens=tokens)
        await run.finish()
    return run.summary()


def total_steps(config: SFTConfig, data: SupervisedData) -> int:
    """Optimizer steps of the whole run: the smaller of `max_num_steps` and what the epochs hold."""
    epochs = config.sft.max_num_epochs
    limits = [config.sft.max_num_steps] if config.sft.max_num_steps is not None else []
    if epochs is not None:
        limits.append(data.total_steps(config.policy.train_global_batch_size))
    return min(limits)


def _say_left_out(run: Run, data: SupervisedData, config: SFTConfig) -> None:
    """Tell of rows that are not trained on at all."""
    if left_out := data.counts["excluded_rows"]:
        run.progress.note(
            f"{left_out} of {data.counts['rows']} rows are left out: their prompt alone fills "
            f"policy.max_total_sequence_length={config.policy.max_total_sequence_length}"
        )


def _say_truncated(run: Run, data: SupervisedData, config: SFTConfig) -> bool:
    """Tell, once, that samples are cut: whether it has been told."""
    if not data.counts["truncated"]:
        return False
    run.progress.note(
        f"samples longer than policy.max_total_sequence_length={config.policy.max_total_sequence_length} are cut; "
        "metrics.csv counts them (truncated_samples)"
    )
    return True


def describe(metrics: dict[str, float], samples: Sequence[Sample], data: SupervisedData) -> dict[str, float]:
    """The step's metrics as they are written down: nothing that was left out goes unsaid."""
    return {
        "train_loss": metrics.pop("loss"),
        **metrics,
        "epoch": float(data.epoch),
        "samples": float(len(samples)),
        "target_tokens": float(sum(sample.num_targets for sample in samples)),
        "truncated_samples": float(data.counts.get("truncated", 0)),
        "excluded_samples": float(data.counts.get("excluded", 0)),
    }


async def validate(learner: TrainedModel, samples: Sequence[Sample], config: SFTConfig) -> dict[str, float]:
    """Mean negative log-likelihood of the held-out targets, over tokens."""
    if config.sft.val_batches > 0:
        samples = samples[: config.sft.val_batches * config.sft.val_global_batch_size]
    if not samples:
        return {}
    started = time.perf_counter()
    logprobs = await learner.forward(samples)
    count = sum(values.numel() for values in logprobs)
    total = sum(float(values.double().sum()) for values in logprobs)
    return {
        "val_loss": -total / max(count, 1),
        "val_samples": float(len(samples)),
        "val_seconds": time.perf_counter() - started,
    }
