"""Advantages of groups, the order of a step, and what several updates on one rollout compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import (
    EOS,
    gradients,
    grpo_config,
    largest_gap,
    make_groups,
    make_learner,
    make_model,
    run,
)
from torch import Tensor

from hone.algorithms import grpo, policy_loss
from hone.algorithms.advantages import by_group
from hone.config.schema import LossConfig
from hone.config.schema.grpo import GRPOSection
from hone.errors import TrainingError
from hone.types import Completion, Group, LossFn, Sample, VersionSpan

PLAIN = {"normalize_rewards": False, "use_leave_one_out_baseline": False}


def advantages_of(groups: Sequence[Group]) -> list[list[float | None]]:
    return [[rollout.advantage for rollout in group.rollouts] for group in groups]


def test_groups_with_the_same_prompt_text_stay_apart() -> None:
    # two draws of one prompt: each has its own mean (1/2 and 2), not one of all four (5/4)
    groups = make_groups([[0.0, 1.0], [1.0, 3.0]])
    by_group(groups, grpo.baseline_of(GRPOSection(**PLAIN)))
    assert advantages_of(groups) == [[-0.5, 0.5], [-1.0, 1.0]]


def test_a_failed_rollout_is_no_part_of_the_baseline() -> None:
    # mean of (1, 0) = 1/2; with a failure counted as reward 0 it would be 1/3
    groups = make_groups([[1.0, None, 0.0]])
    by_group(groups, grpo.baseline_of(GRPOSection(**PLAIN)))
    assert advantages_of(groups) == [[0.5, None, -0.5]]


def test_leave_one_out_among_the_scored() -> None:
    # baseline of 1: mean of (0, 0) = 0; of each 0: 1/2
    groups = make_groups([[1.0, 0.0, None, 0.0]])
    by_group(groups, grpo.baseline_of(GRPOSection(normalize_rewards=False, use_leave_one_out_baseline=True)))
    assert advantages_of(groups) == [[1.0, -0.5, None, -0.5]]


def test_a_group_that_failed_but_for_one_teaches_nothing() -> None:
    groups = make_groups([[None, 1.0], [None, None]])
    by_group(groups, grpo.baseline_of(GRPOSection()))
    assert advantages_of(groups) == [[None, 0.0], [None, None]]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.6, None, [-0.6, -0.5, 1.5]), (None, 1.0, [-1.0, -0.5, 1.0]), (-0.6, 1.0, [-0.6, -0.5, 1.0])],
)
def test_advantage_limits(low: float | None, high: float | None, expected: list[float]) -> None:
    # rewards 0, 1/2, 5/2: mean 1
    groups = make_groups([[0.0, 0.5, 2.5]])
    by_group(groups, grpo.baseline_of(GRPOSection(**PLAIN, advantage_clip_low=low, advantage_clip_high=high)))
    assert advantages_of(groups) == [expected]


def test_samples_hold_the_tokens_that_were_generated() -> None:
    """Token in, token out: nothing is decoded on the way (rule 2)."""
    groups = make_groups([[1.0, 0.0]])
    rollout = groups[0].rollouts[0]
    sample = policy_loss.samples_per_rollout(groups)[0]
    assert sample is not None
    assert sample.tokens_T.tolist() == [*rollout.prompt.tokens, *rollout.completion.tokens]
    assert sample.loss_mask_T.tolist() == [False] * 3 + [True] * len(rollout.completion.tokens)
    assert sample.token_columns["generation_logprobs"].tolist() == pytest.approx(
        list(rollout.completion.logprobs)
    )


def test_failed_excluded_and_empty_rollouts_are_no_samples() -> None:
    groups = make_groups([[1.0, None, 0.0, 0.5]])
    groups[0].rollouts[2].excluded = "truncated"
    groups[0].rollouts[3].completion = Completion.of_version((), (), "stop", 0)
    samples = policy_loss.samples_per_rollout(groups)
    assert [sample is not None for sample in samples] == [True, False, False, False]


class Recorder:
    """A learner that writes down what it is asked; trains for real when `inner` is given."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.batches: list[list[dict[str, Tensor]]] = []
        self.ids: list[list[str]] = []

    async def forward(self, samples: list[Sample]) -> list[Tensor]:
        self.calls.append("forward")
        if self.inner is not None:
            return await self.inner.forward(samples)
        return [torch.full((sample.num_targets,), -1.0) for sample in samples]

    async def forward_backward(self, samples: list[Sample], loss: LossFn) -> dict[str, float]:
        self.calls.append("forward_backward")
        self.ids.append([sample.id for sample in samples])
        self.batches.append([{n: c.clone() for n, c in sample.token_columns.items()} for sample in samples])
        return (
            await self.inner.forward_backward(samples, loss) if self.inner else {"loss": float(len(self.ids))}
        )

    async def optim_step(self) -> dict[str, float]:
        self.calls.append("optim_step")
        return await self.inner.optim_step() if self.inner else {}


def config_of(**changes: Any) -> Any:
    policy = {
        "train_global_batch_size": 4,
        "optimizer": {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3}},
        **changes.pop("policy", {}),
    }
    return grpo_config(policy=policy, **changes)


def test_one_update_needs_no_second_look_at_the_policy() -> None:
    learner = Recorder()
    metrics = run(grpo.step(learner, None, make_groups([[1.0, 0.0], [0.0, 1.0]]), config_of()))
    assert learner.calls == ["forward_backward", "optim_step"]
    assert metrics["updates"] == 1
    assert metrics["trained_samples"] == 4
    assert "old_logprobs" not in learner.batches[0][0]


def test_old_and_reference_logprobs_come_before_the_first_update() -> None:
    learner, reference = Recorder(), Recorder()
    config = config_of(grpo={"num_updates_per_rollout": 2}, policy={"train_global_batch_size": 2})
    metrics = run(grpo.step(learner, reference, make_groups([[1.0, 0.0], [0.0, 1.0]]), config))
    assert learner.calls == ["forward"] + ["forward_backward", "optim_step"] * 4
    assert reference.calls == ["forward"]
    assert learner.ids == [["draw0#0", "draw0#1"], ["draw1#2", "draw1#3"]] * 2
    assert metrics["updates"] == 4
    assert metrics["loss"] == pytest.approx((1 + 2 + 3 + 4) / 4)  # the mean over the updates


def test_a_batch_without_any_usable_rollout_changes_nothing() -> None:
    learner = Recorder()
    metrics = run(grpo.step(learner, None, make_groups([[None, None]]), config_of()))
    assert learner.calls == []
    assert metrics == {"updates": 0.0, "trained_samples": 0.0}


def test_the_last_partial_batch_is_trained_on() -> None:
    learner = Recorder()
    groups = make_groups([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    run(grpo.step(learner, None, groups, config_of()))
    assert [len(ids) for ids in learner.ids] == [4, 2]


def test_several_updates_compare_with_the_policy_before_the_first() -> None:
    """rho of the second update is pi_1 / pi_0: its old log-probabilities are those that the generator's weights had."""
    inner = make_learner(make_model())
    learner = Recorder(inner)
    groups = make_groups([[1.0, 0.0], [0.0, 1.0]])
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    before = run(inner.forward(samples))
    config = config_of(grpo={"num_updates_per_rollout": 3}, loss_fn={"reference_policy_kl_penalty": 0.0})
    run(grpo.step(learner, None, groups, config))
    after = run(inner.forward(samples))
    assert len(learner.batches) == 3
    for batch in learner.batches:
        for columns, expected in zip(batch, before, strict=True):
            assert torch.equal(columns["old_logprobs"], expected)
            assert not columns["old_logprobs"].requires_grad
    assert any(float((a - b).abs().max()) > 1e-4 for a, b in zip(after, before, strict=True))


def test_one_update_has_the_gradient_of_explicit_old_logprobs() -> None:
    config = LossConfig(reference_policy_kl_penalty=0.0)
    results = []
    for explicit in (False, True):
        learner = make_learner(make_model())
        groups = make_groups([[1.0, 0.0], [0.0, 1.0]])
        by_group(groups, grpo.baseline_of(GRPOSection()))
        samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        for sample, rollout in zip(samples, rollouts, strict=True):
            assert rollout.advantage is not None
            sample.sequence_columns["advantage"] = rollout.advantage
        if explicit:
            run(policy_loss.add_column(learner, samples, "old_logprobs"))
        run(learner.forward_backward(samples, policy_loss.PolicyLoss(config, on_policy=not explicit)))
        results.append(gradients(learner.model))
    assert largest_gap(*results) < 1e-5


def test_a_step_raises_the_probability_of_what_was_rewarded() -> None:
    learner = make_learner(make_model(), config_of().policy)
    groups = make_groups([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    before = run(learner.forward(samples))
    config = config_of(policy={"train_global_batch_size": 6}, loss_fn={"reference_policy_kl_penalty": 0.0})
    run(grpo.step(learner, None, groups, config))
    gains = [float((a - b).sum()) for a, b in zip(run(learner.forward(samples)), before, strict=True)]
    assert gains[0] > 0
    assert gains[4] > 0
    assert sum(gains[i] for i in (1, 2, 3, 5)) < 0


def test_kl_in_the_reward_is_charged_to_whole_completions() -> None:
    # old -1, reference -1.5: k1 = 0.5 for each token, so reward - 0.1 * 0.5 * length; then the group's mean comes off
    class Constant(Recorder):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        async def forward(self, samples: list[Sample]) -> list[Tensor]:
            self.calls.append("forward")
            return [torch.full((sample.num_targets,), self.value) for sample in samples]

    learner, reference = Constant(-1.0), Constant(-1.5)
    groups = make_groups([[1.0, 0.0, None]])
    lengths = [len(rollout.completion.tokens) for rollout in groups[0].rollouts]
    config = config_of(
        grpo=PLAIN,
        loss_fn={
            "use_kl_in_reward": True,
            "reference_policy_kl_penalty": 0.1,
            "reference_policy_kl_type": "k1",
        },
    )
    metrics = run(grpo.step(learner, reference, groups, config))
    expected = [1.0 - 0.05 * lengths[0], 0.0 - 0.05 * lengths[1]]
    assert [rollout.reward for rollout in groups[0].rollouts] == [1.0, 0.0, None]  # as given
    assert metrics["kl"] == pytest.approx(0.5)
    half = (expected[0] - expected[1]) / 2
    assert advantages_of(groups)[0][:2] == pytest.approx([half, -half], rel=1e-6)
    assert learner.calls == ["forward", "forward_backward", "optim_step"]
    assert set(learner.batches[0][0]) == {"generation_logprobs", "old_logprobs"}  # none is left for the loss


def test_tokens_after_the_end_are_never_targets() -> None:
    groups = make_groups([[1.0]])
    completion = groups[0].rollouts[0].completion
    groups[0].rollouts[0].completion = Completion.of_version(
        (5, EOS), (-1.0, -0.5), "stop", completion.version
    )
    sample = policy_loss.samples_per_rollout(groups)[0]
    assert sample is not None
    assert sample.num_targets == 2


def stale_step(versions: tuple[int, int], **loss: Any) -> tuple[dict[str, float], list[Tensor]]:
    """Metrics of a step on two groups that these versions sampled, with the weights of version 3; and for each
    completion the difference of the learner's and the generator's log-probabilities before it."""
    groups = make_groups([[1.0, 0.0], [0.0, 1.0]])
    for group, version in zip(groups, versions, strict=True):
        for rollout in group.rollouts:
            tokens = len(rollout.completion.tokens)
            rollout.completion = replace(rollout.completion, versions=(VersionSpan(version, 0, tokens),))
    config = grpo_config(
        policy={"train_global_batch_size": 4}, loss_fn={"reference_policy_kl_penalty": 0.0, **loss}
    )
    learner = make_learner(make_model(), config.policy)
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    gaps = [
        found_T - sample.token_columns["generation_logprobs"]
        for sample, found_T in zip(samples, run(learner.forward(samples)), strict=True)
    ]
    return run(grpo.step(learner, None, groups, config, version=3)), gaps


def mean_ratio(gaps: Sequence[Tensor]) -> float:
    return float(torch.cat(list(gaps)).exp().mean())


def test_ratios_of_fresh_completions_are_one() -> None:
    metrics, gaps = stale_step((3, 3))
    assert metrics["ratio"] == 1.0
    assert metrics["generation_mismatch"] == pytest.approx(float(torch.cat(gaps).abs().mean()), rel=1e-5)


@pytest.mark.parametrize("versions", [(2, 2), (2, 3)])
def test_ratios_of_stale_completions_are_against_the_weights_that_sampled_them(
    versions: tuple[int, int],
) -> None:
    metrics, gaps = stale_step(versions)
    assert mean_ratio(gaps) != pytest.approx(1.0, abs=1e-3)
    assert metrics["ratio"] == pytest.approx(mean_ratio(gaps), rel=1e-5)
    assert "generation_mismatch" not in metrics  # there is one pair of log-probabilities, of unlike weights


def test_an_importance_weight_corrects_stale_completions_in_place_of_the_ratio() -> None:
    metrics, gaps = stale_step((2, 2), use_importance_sampling_correction=True)
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["sampling_importance_ratio"] == pytest.approx(mean_ratio(gaps), rel=1e-5)


def test_completions_of_unknown_weights_are_not_taken_for_fresh_ones() -> None:
    groups = make_groups([[1.0, 0.0]])
    for rollout in groups[0].rollouts:
        rollout.completion = replace(rollout.completion, versions=())
    config = grpo_config(policy={"train_global_batch_size": 2}, loss_fn={"reference_policy_kl_penalty": 0.0})
    learner = make_learner(make_model(), config.policy)
    with pytest.raises(TrainingError, match="no old_logprobs"):
        run(grpo.step(learner, None, groups, config, version=3))
