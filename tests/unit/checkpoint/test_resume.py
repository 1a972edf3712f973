"""What is saved and loaded goes on bit for bit as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_learner, make_model, make_samples, run, sft_config

from hone.algorithms import sft
from hone.checkpoint.random_state import random_state, restore_random_state
from hone.engine.local.learner import LocalLearner
from hone.errors import CheckpointError

SCHEDULES = "torch.optim.lr_scheduler"
PHASES = [
    {"name": f"{SCHEDULES}.LinearLR", "kwargs": {"start_factor": 0.1, "total_iters": 4}},
    {"name": f"{SCHEDULES}.CosineAnnealingLR", "kwargs": {"T_max": 8}},
    {"milestones": [4]},
]
ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.1}}
SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": ADAMW},
    "sequential": {"optimizer": ADAMW, "scheduler": PHASES},
    "one cycle": {
        "optimizer": ADAMW,
        "scheduler": {"name": f"{SCHEDULES}.OneCycleLR", "kwargs": {"max_lr": 1e-3, "total_steps": 20}},
    },
    "fp16": {"optimizer": ADAMW, "precision": "float16"},
    "momentum": {
        "optimizer": {"name": "torch.optim.SGD", "kwargs": {"lr": 0.01, "momentum": 0.9, "nesterov": True}}
    },
    "no state": {"optimizer": {"name": "torch.optim.SGD", "kwargs": {"lr": 0.01}}},
    "adafactor": {"optimizer": {"name": "torch.optim.Adafactor", "kwargs": {"lr": 0.01}}},
}


def learner_of(setting: str, seed: int = 0, kind: str = "qwen3") -> LocalLearner:
    return make_learner(make_model(kind, seed=seed), sft_config(**SETTINGS[setting]).policy)


def train(learner: LocalLearner, updates: range) -> list[dict[str, float]]:
    return [run(sft.step(learner, make_samples(4, seed=update))) for update in updates]


def weights_of(learner: LocalLearner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.weights()}


def assert_same(ours: LocalLearner, theirs: LocalLearner) -> None:
    expected = weights_of(theirs)
    assert weights_of(ours).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.weights())


@pytest.mark.parametrize(
    ("setting", "done"),
    [
        *((setting, 3) for setting in SETTINGS),
        ("sequential", 0),
        ("sequential", 6),
        ("no state", 0),
        ("fp16", 0),
    ],
)
def test_going_on_is_bit_exact(setting: str, done: int, tmp_path: Path) -> None:
    """`done` updates, saved; 5 more, against a fresh process's learner that loads (other weights before it does)."""
    first = learner_of(setting)
    train(first, range(done))
    run(first.save(tmp_path))
    second = learner_of(setting, seed=1)
    run(second.load(tmp_path))
    assert_same(second, first)
    assert second.updates == done
    expected = train(first, range(done, done + 5))
    assert train(second, range(done, done + 5)) == expected
    assert_same(second, first)


@pytest.mark.parametrize("setting", ["sequential", "fp16"])
@pytest.mark.parametrize("done", [0, 3])
def test_saving_changes_nothing(setting: str, done: int, tmp_path: Path) -> None:
    saved, plain = learner_of(setting), learner_of(setting)
    train(saved, range(done))
    run(saved.save(tmp_path))
    train(saved, range(done, done + 3))
    train(plain, range(done + 3))
    assert_same(saved, plain)


def test_fp16_scale_is_restored(tmp_path: Path) -> None:
    first = learner_of("fp16")
    run(first.forward_backward(make_samples(2), sft.sft_loss))
    next(p for p in first.model.parameters() if p.grad is not None).grad[0] = float("inf")  # type: ignore[index]
    run(first.optim_step())
    train(first, range(2))
    run(first.save(tmp_path))
    second = learner_of("fp16")
    run(second.load(tmp_path))
    assert second.scaler.state_dict() == first.scaler.state_dict()
    assert second.scaler.get_scale() == 32768.0


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    first = learner_of("adamw")
    names = [name for name, _ in first.weights()]
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    run(first.save(tmp_path))
    second = learner_of("adamw", seed=1)
    run(second.load(tmp_path))
    model = second.model
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


def test_another_model_is_refused(tmp_path: Path) -> None:
    run(learner_of("adamw").save(tmp_path))
    wider = make_learner(make_model("qwen3", intermediate_size=64), sft_config(**SETTINGS["adamw"]).policy)
    with pytest.raises(CheckpointError, match="weights does not fit this model or is damaged"):
        run(wider.load(tmp_path))
    deeper = make_learner(make_model("qwen3", num_hidden_layers=3), sft_config(**SETTINGS["adamw"]).policy)
    with pytest.raises(CheckpointError, match=r"layers\.2"):
        run(deeper.load(tmp_path))


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    first = learner_of("momentum")
    train(first, range(2))
    run(first.save(tmp_path))
    with pytest.raises(CheckpointError, match="optimizer"):
        run(learner_of("adamw").load(tmp_path))


def test_a_checkpoint_without_optimizer_state_says_so(tmp_path: Path) -> None:
    frozen = make_learner(make_model("qwen3"), sft_config().policy, frozen=True)
    run(frozen.save(tmp_path))
    assert not (tmp_path / "optimizer").exists()
    with pytest.raises(CheckpointError, match="holds no optimizer state"):
        run(learner_of("adamw").load(tmp_path))


def test_every_global_random_generator_is_restored() -> None:
    import random

    torch.manual_seed(3)
    torch.randn(1)
    np.random.seed(3)
    np.random.standard_normal()  # leaves a cached second value
    random.seed(3)
    random.gauss(0, 1)
    state = random_state()
    expected = (
        torch.randn(3).tolist(),
        np.random.standard_normal(3).tolist(),
        [random.gauss(0, 1) for _ in range(3)],
    )
    restore_random_state(state)
    again = (
        torch.randn(3).tolist(),
        np.random.standard_normal(3).tolist(),
        [random.gauss(0, 1) for _ in range(3)],
    )
    assert again == expected
