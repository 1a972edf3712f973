"""Optimizers and schedules by name: what is asked for is what runs; what cannot run says so at once."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import make_learner, make_model, make_samples, run, sft_config

from hone.algorithms import sft
from hone.errors import ConfigError

SCHEDULES = "torch.optim.lr_scheduler"
WARMUP = {
    "name": f"{SCHEDULES}.LinearLR",
    "kwargs": {"start_factor": 0.25, "end_factor": 1.0, "total_iters": 3},
}
CONSTANT = {"name": f"{SCHEDULES}.ConstantLR", "kwargs": {"factor": 1.0, "total_iters": 100}}
DECAY = {
    "name": f"{SCHEDULES}.LinearLR",
    "kwargs": {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 4},
}


def learner_with(**policy: Any) -> Any:
    policy.setdefault("optimizer", {"name": "torch.optim.SGD", "kwargs": {"lr": 0.8}})
    return make_learner(make_model(), sft_config(**policy).policy)


def rates(learner: Any, updates: int) -> list[float]:
    return [run(sft.step(learner, make_samples(1)))["learning_rate"] for _ in range(updates)]


def test_no_schedule_is_constant() -> None:
    assert rates(learner_with(scheduler=None), 3) == [0.8] * 3


def test_one_schedule_need_not_be_a_list() -> None:
    # 0.8 x (0.25, 0.5, 0.75, 1, 1): three steps from a quarter to the whole
    assert rates(learner_with(scheduler=WARMUP), 5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])


def test_phases_follow_one_another_at_the_milestones() -> None:
    # warm-up for updates 1 to 3, constant for 4 and 5, then down by a quarter at each
    learner = learner_with(scheduler=[WARMUP, CONSTANT, DECAY, {"milestones": [3, 5]}])
    expected = [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0]
    assert rates(learner, 10) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            {"optimizer": {"name": "torch.optim.AdamX"}},
            r"policy\.optimizer\.name=torch\.optim\.AdamX: no such class",
        ),
        (
            {"optimizer": {"name": "AdamW"}},
            r"policy\.optimizer\.name=AdamW: no such class.*torch\.optim\.AdamW",
        ),
        (
            {"optimizer": {"name": "torch.nn.Linear"}},
            r"torch\.nn\.Linear: this is not a subclass of Optimizer",
        ),
        ({"optimizer": {"name": "torch.optim.LBFGS"}}, r"LBFGS needs closure at each step"),
        (
            {"optimizer": {"name": "torch.optim.AdamW", "kwargs": {"lrr": 1e-3}}},
            r"policy\.optimizer\.kwargs.*lrr.*it takes lr, betas",
        ),
        (
            {"optimizer": {"name": "torch.optim.AdamW", "kwargs": {"lr": -1.0}}},
            r"policy\.optimizer\.kwargs.*-1\.0",
        ),
        ({"scheduler": [{"name": f"{SCHEDULES}.Nothing"}]}, r"policy\.scheduler\.name.*no such class"),
        ({"scheduler": [{"kwargs": {}}]}, r"policy\.scheduler: an entry needs a name"),
        (
            {"scheduler": [{"name": f"{SCHEDULES}.LinearLR", "kwargs": {"steps": 3}}]},
            r"policy\.scheduler\.kwargs.*steps",
        ),
        (
            {"scheduler": [{"name": f"{SCHEDULES}.LinearLR", "kwargs": {"start_factor": 9}}]},
            r"policy\.scheduler\.kwargs",
        ),
        (
            {"scheduler": [{"name": f"{SCHEDULES}.ReduceLROnPlateau"}]},
            r"ReduceLROnPlateau needs metrics at each step",
        ),
        ({"scheduler": [WARMUP, CONSTANT, {"milestones": [3, 5]}]}, r"2 schedules and 2 milestones: give 1"),
        ({"scheduler": [WARMUP, CONSTANT]}, r"2 schedules and 0 milestones: give 1"),
    ],
)
def test_what_cannot_run_says_so(policy: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learner_with(**policy)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adafactor", "RMSprop", "Adagrad", "NAdam"])
def test_optimizers_of_torch_train(name: str) -> None:
    learner = learner_with(optimizer={"name": f"torch.optim.{name}", "kwargs": {"lr": 0.01}})
    samples = make_samples(4)
    losses = [run(sft.step(learner, samples))["loss"] for _ in range(4)]
    assert losses[-1] < losses[0]
