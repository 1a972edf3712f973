"""A step of online DPO against TRL's OnlineDPOTrainer, on the same completions: its loss and every gradient.

In `ipo` TRL compares sums of log-probabilities, Hone means over a completion's tokens, as `hone dpo` does. For
completions of one token they are the same, so `ipo` is compared on these. TRL trains on pairs that tie, Hone leaves
them out: with a tie among them, Hone's step is TRL's on the other groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import EOS, gradients, largest_gap, make_groups, make_learner, make_model, make_tokenizer, run

from hone.algorithms import online_dpo
from hone.config.schema.online_dpo import OnlineDPOConfig
from hone.types import Completion, Group

REWARDS = [[1.0, 0.0], [0.2, 0.7], [-1.0, 3.0]]


Step = tuple[float, dict[str, torch.Tensor]]
"""The loss of a step, and the gradient of each parameter."""


def theirs(groups: list[Group], folder: Path, *, epoch: int = 0, **given: Any) -> Step:
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
        max_new_tokens=longest,
        **{"beta": [0.3], **given},
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
    trainer.state.epoch = epoch
    loss = trainer.training_step(model, {"prompt": ["x"] * len(groups)})
    return float(loss), gradients(model)


def ours(groups: list[Group], *, step_number: int = 1, **given: Any) -> Step:
    config = OnlineDPOConfig(
        policy={
            "precision": "float32",
            "max_total_sequence_length": 32,
            "train_global_batch_size": len(groups),
            "train_micro_batch_size": 2,
            "max_grad_norm": None,
            "optimizer": {"name": "torch.optim.SGD", "kwargs": {"lr": 0.0}},
        },
        online_dpo={"beta": 0.3, **given},
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
    metrics = run(online_dpo.step(learner, reference, groups, config, step_number=step_number))
    return metrics["loss"], kept


def alike(one: Step, other: Step) -> bool:
    return one[0] == pytest.approx(other[0], rel=1e-5) and largest_gap(one[1], other[1]) < 1e-5


def ended(groups: list[Group], cut: set[tuple[int, int]]) -> list[Group]:
    """The same with an end-of-sequence token, but for the completions at `cut`: the length limit cut them off."""
    for g, group in enumerate(groups):
        for i, rollout in enumerate(group.rollouts):
            tokens, logprobs = rollout.completion.tokens, rollout.completion.logprobs
            end = ((), (), "length") if (g, i) in cut else ((EOS,), (-1.0,), "stop")
            rollout.completion = Completion.of_version((*tokens, *end[0]), (*logprobs, *end[1]), end[2], 0)
    return groups


@pytest.mark.parametrize(("loss_type", "longest"), [("sigmoid", 8), ("ipo", 1)])
def test_loss_and_gradients(loss_type: str, longest: int, tmp_path: Path) -> None:
    groups = make_groups(REWARDS, longest=longest)
    assert alike(ours(groups, loss_type=loss_type), theirs(groups, tmp_path, loss_type=loss_type))


def test_a_penalty_for_missing_ends_turns_the_same_pairs_around(tmp_path: Path) -> None:
    groups = ended(make_groups(REWARDS), cut={(0, 0), (1, 0), (2, 1)})
    step = theirs(groups, tmp_path, missing_eos_penalty=2.0)
    assert alike(ours(groups, missing_eos_penalty=2.0), step)
    assert not alike(ours(groups), step)  # the best of the first group, 1 - 2, is its worst now


@pytest.mark.parametrize(("done", "same_beta"), [(0, 0.3), (1, 0.1), (2, 0.1)])
def test_a_beta_that_changes_with_every_step_is_one_that_changes_with_every_epoch(
    done: int, same_beta: float, tmp_path: Path
) -> None:
    groups = make_groups(REWARDS)
    step = theirs(groups, tmp_path, beta=[0.3, 0.1], epoch=done)
    assert alike(ours(groups, beta={0: 0.3, 1: 0.1}, step_number=done + 1), step)
    assert not alike(ours(groups, beta=0.4 - same_beta), step)


def test_groups_that_tie_are_left_out_of_the_mean(tmp_path: Path) -> None:
    groups = make_groups([*REWARDS[:2], [0.5, 0.5], REWARDS[2]])
    step = ours(groups)
    assert alike(step, theirs([groups[0], groups[1], groups[3]], tmp_path))
    assert not alike(step, theirs(groups, tmp_path))
