"""RLOO's advantages and first gradient against TRL's RLOOTrainer, on the same completions. fp32, random weights.

TRL takes KL off the reward (k1, summed over a completion), sums log-probabilities over a completion, and divides by
completions: `use_kl_in_reward`, `reference_policy_kl_type=k1`, `constant_denominator=1`. Its ratio is that of the whole
completion, Hone's are its tokens' own; both are 1 in the first update, and their gradients there are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny import (
    gradients,
    grpo_config,
    largest_gap,
    make_groups,
    make_learner,
    make_model,
    make_tokenizer,
    run,
)
from torch import Tensor

from hone.algorithms import grpo
from hone.types import Group, Rollout
from tests.conformance.test_grpo import nudged

REWARDS: list[list[float | None]] = [[1.0, 0.0, 0.25, 0.0], [0.1, None, 0.3, 0.7]]


def theirs(groups: list[Group], beta: float, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    from trl import RLOOConfig, RLOOTrainer
    from trl.trainer.utils import add_fused_lm_head

    rollouts: list[Rollout] = [rollout for group in groups for rollout in group.rollouts]

    class Peer(RLOOTrainer):
        """Is given its completions."""

        def _generate(self, prompts: list[str]) -> Any:
            tokens = [list(rollout.completion.tokens) for rollout in rollouts]
            return [list(rollout.prompt.tokens) for rollout in rollouts], tokens, [""] * len(tokens)

    def reward(completions: list[str], **_: Any) -> list[float | None]:
        return [rollout.reward for rollout in rollouts]

    settings = RLOOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        gradient_checkpointing=False,
        beta=0.0,
    )
    model = make_model("llama")
    trainer = Peer(
        model=model,
        args=settings,
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=make_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta, trainer.ref_model = beta, nudged("llama", 2)
    add_fused_lm_head(trainer.ref_model)  # as the trainer does with one that it loads
    inputs = trainer._generate_and_score_completions([{"prompt": "a"} for _ in rollouts])
    model.train()
    trainer._compute_loss(model, inputs).backward()
    return inputs["advantages"].tolist(), gradients(model)


class Still:
    """A learner whose weights stay, so that its gradients can be looked at."""

    def __init__(self) -> None:
        self.inner = make_learner(make_model("llama"))
        self.forward, self.forward_backward = self.inner.forward, self.inner.forward_backward

    async def optim_step(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_advantages_and_gradient(beta: float, trainer_folder: Path) -> None:
    expected, expected_gradients = theirs(make_groups(REWARDS), beta, trainer_folder)
    groups = make_groups(REWARDS)
    loss = {
        "reference_policy_kl_penalty": beta,
        "reference_policy_kl_type": "k1",
        "use_kl_in_reward": beta > 0,
        "constant_denominator": 1.0,
        "kl_input_clamp_value": None,
        "kl_output_clamp_value": None,
    }
    config = grpo_config(
        policy={"train_global_batch_size": 8}, grpo={"adv_estimator": {"name": "rloo"}}, loss_fn=loss
    )
    learner = Still()
    learner.inner.scorer.supports_shared_prefix = False  # TRL's layout, so that sums round alike
    reference = make_learner(nudged("llama", 2), frozen=True) if beta else None
    run(grpo.step(learner, reference, groups, config))  # type: ignore[arg-type]
    ours = [rollout.advantage or 0.0 for group in groups for rollout in group.rollouts]
    assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert max(map(abs, expected)) > 0.1
    # TRL counts a completion that has no reward among its completions
    scale = 7 / 8
    found = {name: gradient * scale for name, gradient in gradients(learner.inner.model).items()}
    assert largest_gap(found, expected_gradients) < 1e-5
