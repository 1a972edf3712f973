"""Settings of `hone ppo` that follow others, and those that cannot work together."""

from __future__ import annotations

from typing import Any

import pytest

from hone.config import load
from hone.config.infer_algorithm import infer_algorithm
from hone.errors import ConfigError


def test_the_value_model_is_the_policys_unless_it_is_said() -> None:
    overrides = [
        "policy.model_name=models/base",
        "policy.train_micro_batch_size=8",
        "policy.precision=bfloat16",
    ]
    overrides += ["data.train.dataset_name=rows.jsonl", "rewards.functions=[{name: answer}]"]
    value = load("ppo", None, overrides).config.value
    assert (value.model_name, value.tokenizer.name, value.precision) == (
        "models/base",
        "models/base",
        "bfloat16",
    )
    assert (value.train_micro_batch_size, value.logprob_batch_size) == (8, 8)
    other = load(
        "ppo", None, [*overrides, "value.model_name=models/rm", "value.train_micro_batch_size=2"]
    ).config
    assert (other.value.model_name, other.value.tokenizer.name) == ("models/rm", "models/base")
    assert (other.value.train_micro_batch_size, other.policy.train_micro_batch_size) == (2, 8)


def test_another_optimizer_of_the_value_model_has_no_betas() -> None:
    config = load("ppo", None, ["value.optimizer.name=torch.optim.SGD"]).config
    assert "betas" not in config.value.optimizer.kwargs
    assert "betas" in config.policy.optimizer.kwargs


ROLLOUT = ["ppo.num_prompts_per_step=64", "ppo.num_generations_per_prompt=1"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["policy.train_global_batch_size=48", *ROLLOUT],
            "ppo.num_prompts_per_step=64 × ppo.num_generations_per_prompt=1",
        ),
        (
            ["value.train_global_batch_size=48", *ROLLOUT],
            "the completions of a rollout=64 is not a multiple of value",
        ),
        (["ppo.policy_training_start_step=5", "ppo.max_num_steps=5"], "leaves no step"),
        (
            ["ppo.adv_estimator.name=rloo", *ROLLOUT],
            "ppo.adv_estimator.name=rloo compares the completions of a prompt",
        ),
        (
            ["ppo.adv_estimator.name=reinforce_plus_plus", "ppo.policy_training_start_step=2"],
            "ppo.adv_estimator.name=reinforce_plus_plus has none",
        ),
        (["ppo.adv_estimator.name=grpo", "ppo.whiten_rewards=true"], "ppo.whiten_rewards=true does nothing"),
        (
            ["value.max_total_sequence_length=7", "policy.max_total_sequence_length=9"],
            "both models share devices and sequences",
        ),
        (["value.lora.match_all_linear=false", "value.lora.enabled=true"], "value.lora"),
        (["loss_fn.force_on_policy_ratio=true", "ppo.ppo_epochs=4"], "ppo.ppo_epochs to 1"),
        (["ppo.adv_estimator.gae_lambda=1.5"], "expected at most 1"),
        (["checkpointing.metric_name=train:explained_varianc"], "did you mean train:explained_variance"),
        (["ppo.gae_lambda=0.9"], "did you mean ppo.adv_estimator.gae_lambda"),
    ],
)
def test_contradictions(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("ppo", None, overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_estimators_that_both_have(kind: Any) -> None:
    for name in ("grpo", "rloo", "reinforce_plus_plus"):
        overrides = [f"{kind}.adv_estimator.name={name}", f"{kind}.num_prompts_per_step=8"]
        loop = load(kind, None, [*overrides, f"{kind}.num_generations_per_prompt=8"]).config.algorithm
        assert (loop.adv_estimator.name, loop.adv_estimator.minus_baseline) == (name, True)


def test_its_sections_tell_a_file() -> None:
    assert infer_algorithm(None, ["value.model_name=x", "loss_fn.ratio_clip_max=0.3"]) == "ppo"
    assert infer_algorithm(None, ["loss_fn.ratio_clip_max=0.3"]) == "grpo"
