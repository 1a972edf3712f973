"""GDPO's advantages against TRL's (multi_objective_aggregation=normalize_then_sum), on the same rewards.

TRL adds 1e-4 to both standard deviations, Hone 1e-6. Rewards are large here, so that the first does not matter; of the
second remains one factor for the whole batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import make_groups, make_model, make_tokenizer

from hone.algorithms.advantages import GroupBaseline, gdpo
from hone.types import Group
from tests.conformance.test_grpo import LONGEST

RIGHT = [[1e4, 0.0, 0.0, 1e4], [1e4, 1e4, 1e4, 1e4]]
FORM = [[2e4, 1e4, 0.0, 0.5e4], [0.0, 3e4, 1e4, 1e4]]
WEIGHTS = (1.0, 0.25)


def theirs(groups: list[Group], folder: Path) -> list[float]:
    from trl import GRPOConfig, GRPOTrainer

    rollouts = [rollout for group in groups for rollout in group.rollouts]

    def right(completions: list[str], **_: Any) -> list[float | None]:
        return [rollout.rewards["right"] for rollout in rollouts]

    def form(completions: list[str], **_: Any) -> list[float | None]:
        return [rollout.rewards["form"] for rollout in rollouts]

    def rollout_func(prompts: list[str], trainer: Any) -> dict[str, Any]:
        return {
            "prompt_ids": [list(rollout.prompt.tokens) for rollout in rollouts],
            "completion_ids": [list(rollout.completion.tokens) for rollout in rollouts],
            "logprobs": [list(rollout.completion.logprobs) for rollout in rollouts],
        }

    settings = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=LONGEST,
        gradient_checkpointing=False,
        beta=0.0,
        multi_objective_aggregation="normalize_then_sum",
        reward_weights=list(WEIGHTS),
    )
    trainer = GRPOTrainer(
        model=make_model("llama"),
        args=settings,
        reward_funcs=[right, form],
        rollout_func=rollout_func,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=make_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer._generate_and_score_completions([{"prompt": "a"} for _ in rollouts])["advantages"].tolist()


def test_advantages(trainer_folder: Path) -> None:
    groups = make_groups([[0.0] * 4] * 2, longest=LONGEST)
    for group, rights, forms in zip(groups, RIGHT, FORM, strict=True):
        for rollout, right, form in zip(group.rollouts, rights, forms, strict=True):
            rollout.rewards = {"right": right, "form": form}
            rollout.weights = dict(zip(("right", "form"), WEIGHTS, strict=True))
    expected = torch.tensor(theirs(groups, trainer_folder), dtype=torch.float64)
    gdpo(
        groups,
        GroupBaseline("gdpo", normalize=True),
    )
    ours = torch.tensor([r.advantage for group in groups for r in group.rollouts], dtype=torch.float64)
    assert float(ours.std() / expected.std()) == pytest.approx(1, rel=1e-3)
    assert (ours / ours.std()).tolist() == pytest.approx((expected / expected.std()).tolist(), abs=1e-5)
