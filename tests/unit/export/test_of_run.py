"""A run where a reward model is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from saving import ADAMW, checkpoints_of, save
from tiny import CONFIGS, make_learner, sft_config
from transformers import AutoModelForSequenceClassification

from hone.config import load
from hone.errors import CheckpointError
from hone.export import with_models_of_runs
from hone.rollout.rewards.reward_model import RewardModel


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What `hone rm` leaves: a run with a checkpoint of a model that says one number."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        CONFIGS["llama"](num_labels=1), dtype=torch.float32
    )
    model.config.architectures = [type(model).__name__]  # as load_model has it
    learner = make_learner(model, sft_config(optimizer=ADAMW).policy)
    save(checkpoints_of(tmp_path / "rm"), 3, learner)
    (tmp_path / "rm" / "config.yaml").write_text("policy: {}\n")
    return tmp_path / "rm"


@pytest.mark.parametrize("kind", ["grpo", "eval"])
@pytest.mark.parametrize("step", ["", "step_3"])
def test_a_reward_model_may_be_a_run(kind: str, step: str, run: Path) -> None:
    functions = (
        f"rewards.functions=[{{name: reward_model, kwargs: {{model: '{run / step}'}}}}, {{name: math}}]"
    )
    loaded = with_models_of_runs(load(kind, None, [functions]))
    found = Path(loaded.config.rewards.functions[0].kwargs["model"])
    assert found.parent == run / "hf"
    assert found.name.startswith("step_3-")
    assert any(f"{run / step} is a run" in notice for notice in loaded.notices)
    (score,) = RewardModel(str(found)).score(["a"], ["b"])
    assert isinstance(score, float)


def test_a_plan_converts_nothing_and_a_run_without_a_checkpoint_is_named(run: Path) -> None:
    functions = f"rewards.functions=[{{name: reward_model, kwargs: {{model: '{run}'}}}}]"
    with_models_of_runs(load("grpo", None, [functions]), only_described=True)
    assert not (run / "hf").exists()
    (run / "step_3").rename(run / "gone")
    with pytest.raises(CheckpointError, match=str(run)):
        with_models_of_runs(load("grpo", None, [functions]))
