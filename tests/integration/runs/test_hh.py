"""Real comparisons (HH-RLHF, harmless-base), from a fresh tokenizer and random weights; every fifth is held out."""

from __future__ import annotations

import gzip
import json
import random
import signal
from pathlib import Path

import pytest
import torch
from processes import (
    REPOSITORY,
    hone,
    make_model,
    make_tokenizer,
    metric_rows,
    result,
    same,
    start,
    succeeded,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone.config import load
from hone.data import build_preferences

HH = REPOSITORY.parent / "shared" / "data" / "hh-rlhf" / "harmless-base-test.jsonl.gz"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HH.exists(), reason="HH-RLHF is not here")]
MODEL = ("policy.model_name=small", "policy.precision=float32", "cluster.gpus_per_node=0")
DATA = (f"data.train.dataset_name={HH}", "data.train.split_validation_size=0.2")
BATCH = ("policy.train_global_batch_size=32", "policy.train_micro_batch_size=8")


def at_the_end(kind: str) -> tuple[str, ...]:
    return tuple(
        f"{kind}.{setting}"
        for setting in ("val_batches=-1", "val_period=0", "val_at_start=false", "val_at_end=true")
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hh")
    with gzip.open(HH, "rt") as file:
        texts = [json.loads(line)["chosen"] for line in file]
    make_model(folder / "small", make_tokenizer(texts[:1800], size=4000, template=None), hidden=96)
    return folder


def last(run: Path) -> dict[str, float]:
    return {name: float(value) for name, value in metric_rows(run)[-1].items() if value}


def test_a_reward_model_of_real_comparisons(place: Path) -> None:
    """One epoch: well above chance, which has a standard error of 2.4 %."""
    optimizer = ("policy.optimizer.kwargs.lr=5e-4", "policy.optimizer.kwargs.weight_decay=0.1")
    more = ("policy.max_total_sequence_length=384", "checkpointing.checkpoint_dir=rm")
    argv = ("rm", *MODEL, *DATA, *BATCH, *optimizer, *at_the_end("rm"), *more)
    succeeded(hone(*argv, cwd=place, timeout=600))
    measured = last(place / "rm")
    assert measured["val_samples"] > 800
    assert measured["val_reward_accuracy"] > 0.57


@pytest.mark.long
def test_dpo_of_real_comparisons(place: Path) -> None:
    """Killed at a random moment it ends as the run that was not; `transformers` gives the converted model's answers the
    log-probabilities that the run reported; and it has learned which are chosen."""
    settings = ("dpo.beta=0.1", "policy.optimizer.kwargs.lr=5e-4", "policy.max_total_sequence_length=192")
    argv = ("dpo", *MODEL, *DATA, *BATCH, *settings, *at_the_end("dpo"), "checkpointing.save_period=8")
    whole = succeeded(hone(*argv, "checkpointing.checkpoint_dir=whole", cwd=place, timeout=600))
    killed = start(*argv, "checkpointing.checkpoint_dir=killed", cwd=place)
    killed.poll(random.SystemRandom().uniform(0.3, 0.8) * whole.seconds)
    killed.send(signal.SIGKILL)
    assert killed.wait().code == -signal.SIGKILL
    succeeded(hone(*argv, "checkpointing.checkpoint_dir=killed", cwd=place, timeout=600))
    same(result(place / "killed"), result(place / "whole"))

    measured = last(place / "whole")
    assert measured["val_reward_accuracy"] > 0.55
    succeeded(hone("convert", "whole", "converted", cwd=place))
    assert chosen_logprob(place) == pytest.approx(measured["val_logps_chosen"], rel=1e-5)


@torch.no_grad()
def chosen_logprob(place: Path) -> float:
    """The mean log-probability of the held-out chosen answers, by `transformers` alone, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(place / "converted").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "converted")
    config = load(
        "dpo",
        None,
        [*DATA, f"policy.model_name={place / 'converted'}", "policy.max_total_sequence_length=192"],
    ).config
    sums = []
    for sample in build_preferences(config, tokenizer).validation:
        if sample.sequence_columns["label"] < 0:
            continue
        logits_TV = model(sample.tokens_T[None]).logits[0].float()
        logprobs_T = logits_TV[:-1].log_softmax(-1).gather(1, sample.tokens_T[1:, None])[:, 0]
        sums.append(logprobs_T[sample.loss_mask_T[1:]].sum().double())
    return float(torch.stack(sums).mean())
