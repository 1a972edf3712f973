"""Checkpoints of a tiny learner, for the tests of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import make_learner, make_model, make_samples, make_tokenizer, run, sft_config

from hone.algorithms import sft
from hone.checkpoint.checkpoints import Checkpoints
from hone.config.metric_names import flat_metric
from hone.config.schema import CheckpointingConfig
from hone.engine.local.learner import LocalLearner

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3}}


def learner_of(seed: int = 0) -> LocalLearner:
    return make_learner(make_model(seed=seed), sft_config(optimizer=ADAMW).policy)


def trained_learner() -> LocalLearner:
    learner = learner_of()
    run(sft.step(learner, make_samples(3)))
    return learner


def checkpoints_of(folder: Path, **settings: Any) -> Checkpoints:
    return Checkpoints(CheckpointingConfig(checkpoint_dir=str(folder), **settings))


def save(checkpoints: Checkpoints, step: int, learner: LocalLearner | None = None, **metrics: float) -> Path:
    return run(
        checkpoints.save(
            step,
            {"policy": learner} if learner is not None else {},
            tokenizer=make_tokenizer(),
            state={"cursor": step, "rng": torch.get_rng_state()},
            metrics=metrics,
            ranked_by=checkpoints.config.metric_name and flat_metric(checkpoints.config.metric_name),
            config_yaml="policy: {}\n",
        )
    )
