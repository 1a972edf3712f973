"""PPO: the value loss by hand, where rewards and charges go, what is computed when, warm-up, several epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import make_scalar
from tiny import PAD, make_batch, make_groups, make_model, run
from torch import Tensor

from hone.algorithms import policy_loss, ppo
from hone.algorithms.advantages import whiten
from hone.algorithms.ppo import ValueLoss
from hone.config.schema.ppo import PPOConfig, ValueLossConfig
from hone.engine.local.learner import LocalLearner
from hone.errors import TrainingError
from hone.types import Group, Outputs, Sample, Totals
from tests.unit.algorithms.test_grpo_step import Recorder

PLAIN = {"normalize_advantages": False, "gae_lambda": 1.0}


def ppo_config(**changes: Any) -> PPOConfig:
    """fp32, every rollout one minibatch, no reference."""
    adamw = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-2}}
    policy = {
        "precision": "float32",
        "max_total_sequence_length": 64,
        "train_micro_batch_size": 4,
        "train_global_batch_size": 4,
        "optimizer": adamw,
        **changes.pop("policy", {}),
    }
    loss_fn = {"reference_policy_kl_penalty": 0.0, **changes.pop("loss_fn", {})}
    return PPOConfig(policy=policy, loss_fn=loss_fn, value={"optimizer": adamw}, **changes)


class Values(Recorder):
    """A value model that says the same of every state."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    async def forward(self, samples: list[Sample]) -> list[Tensor]:
        self.calls.append("forward")
        return [torch.full((sample.num_targets,), self.value) for sample in samples]


def value_loss(values: list[float], old: list[float], returns: list[float], **settings: Any) -> Any:
    values_N = torch.tensor(values, requires_grad=True)
    batch = make_batch([len(values)], {"old_values": torch.tensor(old), "returns": torch.tensor(returns)})
    outputs = Outputs(logprobs_N=torch.full((len(values),), torch.nan), values_N=values_N)
    found = ValueLoss(ValueLossConfig(**settings))(outputs, batch, Totals(tokens=10.0, sequences=1.0))
    found.loss.backward()
    assert values_N.grad is not None
    return found.loss.item(), values_N.grad.tolist(), {k: float(v) for k, v in found.metrics.items()}


def test_value_loss_by_hand() -> None:
    """Old 0, clip 0.2, ten tokens in the global batch, scale 0.5: each square weighs 0.025.

    V 0.1, R 1: 0.81, inside the clip.        V 0.5, R 1: moved past the clip towards R: the error is (0.2 - 1)^2 = 0.64
    V 0.5, R 0: moved away from R: 0.25, not the smaller clipped error.
    """
    loss, gradient, metrics = value_loss(
        [0.1, 0.5, 0.5], [0.0] * 3, [1.0, 1.0, 0.0], scale=0.5, cliprange=0.2
    )
    assert loss == pytest.approx(0.025 * (0.81 + 0.64 + 0.25))
    assert gradient == pytest.approx([0.025 * 2 * -0.9, 0.0, 0.025 * 2 * 0.5])
    assert metrics == pytest.approx({"value": 0.11, "value_clipped": 0.1})


def test_value_loss_without_a_limit_is_half_the_squared_error() -> None:
    loss, _, metrics = value_loss([0.5, 2.0], [0.0, 0.0], [1.0, 1.0], scale=1.0, cliprange=None)
    assert loss == pytest.approx((0.25 + 1.0) / 20)
    assert metrics["value_clipped"] == 0


def columns(groups: list[Group], config: PPOConfig, value: float = 0.0, reference: Any = None) -> list[dict]:
    """The columns that the value model is trained with."""
    critic = Values(value)
    run(ppo.step(Values(-1.0), reference, critic, groups, config, step_number=1))
    return [{name: column.tolist() for name, column in row.items()} for row in critic.batches[0]]


def test_the_reward_comes_at_the_end() -> None:
    groups = make_groups([[1.0], [0.5]])
    found = columns(groups, ppo_config(ppo={"adv_estimator": PLAIN}), value=0.25)
    for row, group, reward in zip(found, groups, (1.0, 0.5), strict=True):
        length = len(group.rollouts[0].completion.tokens)
        assert row["returns"] == pytest.approx([reward] * length)
        assert row["advantage"] == pytest.approx([reward - 0.25] * length)
        assert group.rollouts[0].advantage == pytest.approx(reward - 0.25)


def test_lambda_of_values_and_of_the_policy_apart() -> None:
    """Values 0.25 of all states, reward 1, gamma 1: the only delta that is not 0 is the last one, 0.75."""
    groups = make_groups([[1.0]], longest=8, seed=3)
    length = len(groups[0].rollouts[0].completion.tokens)
    assert length > 2
    estimator = {"gae_lambda_value": 1.0, "gae_lambda_policy": 0.5, "normalize_advantages": False}
    (row,) = columns(groups, ppo_config(ppo={"adv_estimator": estimator}), value=0.25)
    assert row["returns"] == pytest.approx([1.0] * length)
    assert row["advantage"] == pytest.approx([0.75 * 0.5 ** (length - 1 - t) for t in range(length)])


def test_the_length_adapts_the_policys_lambda_alone() -> None:
    groups = make_groups([[1.0]], longest=8, seed=3)
    length = len(groups[0].rollouts[0].completion.tokens)
    estimator = {**PLAIN, "length_adaptive_alpha": 2.0}
    (row,) = columns(groups, ppo_config(ppo={"adv_estimator": estimator}), value=0.25)
    lam = 1 - 1 / (2 * length)
    assert row["returns"] == pytest.approx([1.0] * length)
    assert row["advantage"] == pytest.approx([0.75 * lam ** (length - 1 - t) for t in range(length)])


def test_advantages_are_whitened_over_the_rollout_not_over_a_minibatch() -> None:
    groups = make_groups([[1.0], [0.5], [0.0], [0.2]])
    settings = {"policy": {"train_global_batch_size": 2}, "ppo": {"adv_estimator": {"gae_lambda": 1.0}}}
    critic = Values()
    run(ppo.step(Values(-1.0), None, critic, groups, ppo_config(**settings), step_number=1))
    seen = [row["advantage"] for batch in critic.batches[:2] for row in batch]
    rewards = [r.reward for group in groups for r in group.rollouts]
    lengths = [len(r.completion.tokens) for group in groups for r in group.rollouts]
    raw = torch.cat([torch.full((n,), r, dtype=torch.float64) for n, r in zip(lengths, rewards, strict=True)])
    torch.testing.assert_close(torch.cat(seen), whiten(raw).float())
    assert float(torch.cat(seen[:2]).mean()) != pytest.approx(0.0, abs=1e-3)


def test_kl_in_the_reward_is_charged_token_by_token() -> None:
    """old -1, reference -1.5, k1: 0.5 a token, times 0.1; returns of lambda 1 sum what follows."""
    groups = make_groups([[1.0, None]], longest=8, seed=3)
    length = len(groups[0].rollouts[0].completion.tokens)
    loss = {"use_kl_in_reward": True, "reference_policy_kl_penalty": 0.1, "reference_policy_kl_type": "k1"}
    config = ppo_config(ppo={"adv_estimator": PLAIN}, loss_fn=loss)
    (row,) = columns(groups, config, reference=Values(-1.5))
    assert row["returns"] == pytest.approx([1 - 0.05 * (length - t) for t in range(length)], abs=1e-6)
    assert "reference_logprobs" not in row  # none is left for the loss
    assert groups[0].rollouts[0].reward == 1.0  # what is written down is the reward as given


def test_whitened_rewards_are_only_scaled() -> None:
    groups = make_groups([[1.0], [1.0]])
    tokens = sum(len(g.rollouts[0].completion.tokens) for g in groups)
    found = columns(groups, ppo_config(ppo={"adv_estimator": PLAIN, "whiten_rewards": True}))
    rewards = torch.tensor([1.0] * 2 + [0.0] * (tokens - 2), dtype=torch.float64)
    for row in found:
        assert row["returns"][0] == pytest.approx(float(1 / rewards.std()), rel=1e-5)


def test_order_of_a_step() -> None:
    policy, critic, reference = Recorder(), Values(), Values(-2.0)
    config = ppo_config(
        ppo={"ppo_epochs": 3},
        policy={"train_global_batch_size": 2},
        loss_fn={"reference_policy_kl_penalty": 0.1},
    )
    metrics = run(
        ppo.step(policy, reference, critic, make_groups([[1.0], [0.0], [0.5], [None]]), config, step_number=1)
    )
    assert policy.calls == critic.calls == ["forward"] + ["forward_backward", "optim_step"] * 6
    assert reference.calls == ["forward"]
    assert policy.ids == [["draw0#0", "draw1#1"], ["draw2#2"]] * 3
    assert (metrics["updates"], metrics["trained_samples"]) == (6, 3)
    assert {"value_loss", "explained_variance", "return"} <= metrics.keys()
    assert "reference_logprobs" in policy.batches[0][0]


def test_one_update_needs_no_second_look_at_the_policy() -> None:
    policy = Recorder()
    run(
        ppo.step(
            policy,
            None,
            Values(),
            make_groups([[1.0], [0.0]]),
            ppo_config(ppo={"ppo_epochs": 1}),
            step_number=1,
        )
    )
    assert policy.calls == ["forward_backward", "optim_step"]


def test_the_value_model_warms_up_alone() -> None:
    config = ppo_config(ppo={"policy_training_start_step": 2, "ppo_epochs": 2})
    for number, trained in ((1, False), (2, False), (3, True)):
        policy, critic = Recorder(), Values()
        metrics = run(ppo.step(policy, None, critic, make_groups([[1.0], [0.0]]), config, step_number=number))
        assert ("optim_step" in policy.calls) is trained
        assert trained or policy.calls == []
        assert critic.calls.count("optim_step") == 2
        assert metrics["updates"] == (2 if trained else 0)


def test_the_value_model_has_minibatches_of_its_own() -> None:
    config = ppo_config(ppo={"ppo_epochs": 1})
    config.value.train_global_batch_size = 1
    policy, critic = Recorder(), Values()
    run(ppo.step(policy, None, critic, make_groups([[1.0], [0.0], [0.5]]), config, step_number=1))
    assert (policy.calls.count("optim_step"), critic.calls.count("optim_step")) == (1, 3)


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_plus_plus"])
def test_other_estimators_have_no_value_model(name: str) -> None:
    config = ppo_config(ppo={"adv_estimator": {"name": name}, "ppo_epochs": 2})
    assert config.critic is None
    policy = Recorder()
    groups = make_groups([[1.0, 0.0], [0.0, 1.0]])
    metrics = run(ppo.step(policy, None, None, groups, config, step_number=1))
    assert policy.calls == ["forward"] + ["forward_backward", "optim_step"] * 2
    assert "value_loss" not in metrics
    first, second = (rollout.advantage for rollout in groups[0].rollouts)
    assert first is not None
    assert second is not None
    assert first > 0 > second


def test_values_that_are_no_numbers_stop_the_run_before_any_update() -> None:
    policy, critic = Recorder(), Values(float("nan"))
    with pytest.raises(
        TrainingError, match=r"values are not finite for draw0#0.*value\.optimizer\.kwargs\.lr"
    ):
        run(ppo.step(policy, None, critic, make_groups([[1.0], [0.0]]), ppo_config(), step_number=1))
    assert policy.batches == critic.batches == []


def test_a_rollout_without_any_usable_completion_changes_nothing() -> None:
    policy, critic = Recorder(), Values()
    metrics = run(ppo.step(policy, None, critic, make_groups([[None], [None]]), ppo_config(), step_number=1))
    assert "optim_step" not in policy.calls + critic.calls
    assert metrics == {"updates": 0.0, "trained_samples": 0.0}


def learners(config: PPOConfig) -> tuple[LocalLearner, LocalLearner]:
    return (
        LocalLearner(make_model(), config.policy, pad_token=PAD),
        LocalLearner(make_scalar(), config.value, pad_token=PAD),
    )


def test_values_learn_the_returns() -> None:
    config = ppo_config(ppo={"ppo_epochs": 4, "policy_training_start_step": 99})
    policy, critic = learners(config)
    losses = []
    for _ in range(8):
        groups = make_groups([[1.0], [0.0], [0.5], [1.0]])
        losses.append(run(ppo.step(policy, None, critic, groups, config, step_number=1)))
    assert losses[-1]["value_loss"] < losses[0]["value_loss"] / 4
    assert losses[-1]["explained_variance"] > 0.7 > losses[0]["explained_variance"]
    assert policy.updates == 0


def test_a_step_raises_the_probability_of_what_was_rewarded() -> None:
    config = ppo_config(ppo={"ppo_epochs": 2})
    policy, critic = learners(config)
    groups = make_groups([[1.0, 0.0], [0.0, 1.0]])
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    before = run(policy.forward(samples))
    run(ppo.step(policy, None, critic, groups, config, step_number=1))
    gains = [float((a - b).sum()) for a, b in zip(run(policy.forward(samples)), before, strict=True)]
    assert gains[0] + gains[3] > gains[1] + gains[2]
