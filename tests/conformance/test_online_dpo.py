"""A step of online DPO against TRL's OnlineDPOTrainer, on the same completions: its loss and every gradient.

In `ipo` TRL compares sums of log-probabilities, Hone means over a completion's tokens, as `hone dpo` does. For
completions of one token they are the same, so `ipo` is compared on these. TRL trains on pairs that tie, Hone leaves
them out: there are none here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import gradients, largest_gap, make_groups, make_learner, make_model, make_tokenizer, run

from hone.algorithms import online_dpo
from hone.config.schema.online_dpo import OnlineDPOConfig
from hone.types import Group

REWARDS = [[1.0, 0.0], [0.2, 0.7], [-1.0, 3.0]]


def theirs(groups: list[Group], loss_type: str, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    from trl.experimental.online_dpo import OnlineDPOConfig as Config
    from trl.experimental.online_dpo import OnlineDPOTrainer

    rollouts = [group.rollouts[side] for side in (0, 1) for group in groups]
    longest = max(len(rollout.completion.tokens) for rollout in rollouts)

    def rewards(completions: list[str], **_: Any) -> list[float | None]:
        return [rollout.reward for rollout in rollouts]

    def padded(values: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.tensor([row + [0] * (length - len(row)) for row in values])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in values])
        return rows, mask

    settings = Config(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        per_device_train_batch_size=len(groups),
        gradient_checkpointing=False,
        beta=[0.3],
        loss_type=loss_type,
        max_new_tokens=longest,
    )
    model = make_model("llama")
    trainer = OnlineDPOTrainer(
        model=model,
        ref_model=make_model("llama", seed=1),
        args=settings,
        reward_funcs=[rewards],
        train_dataset=Dataset.from_list([{"prompt": "x"}] * len(groups)),
        processing_class=make_tokenizer(),
    )
    prompts, prompt_mask = padded([list(rollout.prompt.tokens) for rollout in rollouts], 3)
    completions, mask = padded([list(rollout.completion.tokens) for rollout in rollouts], longest)
    trainer._generate = lambda *_: (prompts, prompt_mask, completions, mask, None)
    trainer._last_loaded_step = -1
    loss = trainer.training_step(model, {"prompt": ["x"] * len(groups)})
    return float(loss), gradients(model)


@pytest.mark.parametrize(("loss_type", "longest"), [("sigmoid", 8), ("ipo", 1)])
def test_loss_and_gradients(loss_type: str, longest: int, tmp_path: Path) -> None:
    groups = make_groups(REWARDS, longest=longest)
    config = OnlineDPOConfig(
        policy={
            "precision": "float32",
            "max_total_sequence_length": 32,
            "train_global_batch_size": 3,
            "train_micro_batch_size": 2,
            "max_grad_norm": None,
            "optimizer": {"name": "torch.optim.SGD", "kwargs": {"lr": 0.0}},
        },
        online_dpo={"beta": 0.3, "loss_type": loss_type},
    )
    model = make_model("llama")
    learner = make_learner(model, config.policy)
    kept: dict[str, torch.Tensor] = {}
    step = learner.optim_step

    async def optim_step() -> dict[str, float]:
        kept.update(gradients(model))
        return await step()

    learner.optim_step = optim_step  # type: ignore[method-assign]
    reference = make_learner(make_model("llama", seed=1), config.policy)
    metrics = run(online_dpo.step(learner, reference, groups, config, number=1))
    loss, expected = theirs(groups, loss_type, tmp_path)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert largest_gap(kept, expected) < 1e-5
