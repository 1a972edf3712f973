"""Online DPO: which completions are a pair, the loss and its gradient by hand, and steps that no layout changes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, make_groups, make_learner, make_model, run

from hone.algorithms import online_dpo
from hone.config.schema.online_dpo import OnlineDPOConfig, OnlineDPOSection
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.types import Completion, Group, Rollout

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.01, "eps": 1e-4}}
REWARDS = [[1.0, 0.0, 0.5, None], [0.0, 1.0, 1.0], [0.2, 0.2], [3.0, 1.0, 2.0]]
WAYS: dict[str, dict[str, Any]] = {
    "a pair at a time": {"train_micro_batch_size": 1},
    "three pairs at a time": {"train_micro_batch_size": 3},
    "as many pairs at a time as fit": {"dynamic_batching": {"enabled": True, "train_mb_tokens": 32}},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 32, "logprob_mb_tokens": 32}},
}


def config_of(section: dict[str, Any] | None = None, **policy: Any) -> OnlineDPOConfig:
    return OnlineDPOConfig(
        policy={
            "precision": "float32",
            "max_total_sequence_length": 32,
            "train_global_batch_size": 4,
            "train_micro_batch_size": 4,
            "optimizer": ADAMW,
            **policy,
        },
        online_dpo=section or {},
    )


def rewards_of(group: Group, **settings: Any) -> tuple[float | None, float | None] | None:
    pair = online_dpo.pair_of(group, **settings)
    return None if pair is None else (pair[0].reward, pair[1].reward)


def test_the_best_and_the_worst_completion_of_a_prompt_are_its_pair() -> None:
    assert [rewards_of(group) for group in make_groups(REWARDS)] == [(1, 0), (1, 0), None, (3, 1)]


def test_of_equally_good_completions_the_first_is_taken() -> None:
    (group,) = make_groups([[0.0, 1.0, 1.0, 0.0]])
    pair = online_dpo.pair_of(group)
    assert pair is not None
    assert pair[0] is group.rollouts[1]
    assert pair[1] is group.rollouts[0]


def test_rewards_that_differ_by_the_rounding_of_their_sums_tie() -> None:
    (group,) = make_groups([[0.1 + 0.2, 0.3]])
    assert online_dpo.pair_of(group) is None


def test_failed_excluded_and_empty_rollouts_are_in_no_pair() -> None:
    (group,) = make_groups([[None, 5.0, -5.0, 1.0, 0.0]])
    group.rollouts[1].excluded = "truncated"
    group.rollouts[2].completion = Completion.of_version((), (), "stop", 0)
    assert rewards_of(group) == (1, 0)
    assert online_dpo.pair_of(make_groups([[None, 1.0]])[0]) is None


def test_a_completion_without_an_end_is_penalised_when_pairs_are_chosen() -> None:
    (group,) = make_groups([[1.0, 0.9]])
    cut = group.rollouts[0]
    cut.completion = Completion.of_version(cut.completion.tokens, cut.completion.logprobs, "length", 0)
    assert rewards_of(group) == (1.0, 0.9)
    assert rewards_of(group, missing_eos_penalty=0.5) == (0.9, 1.0)


class Fixed:
    """A model that gives every target the same log-probability, and remembers the loss's gradient by it."""

    def __init__(self, logprob: float) -> None:
        self.logprob, self.gradients, self.steps = logprob, list[float](), 0

    async def forward(self, samples: Any) -> list[torch.Tensor]:
        return [torch.full((sample.num_targets,), self.logprob) for sample in samples]

    async def forward_backward(self, samples: Any, loss: Any) -> dict[str, float]:
        from hone.types import Batch, Outputs, Totals

        lengths_S = torch.tensor([sample.num_targets for sample in samples])
        columns = {
            name: torch.tensor([sample.sequence_columns[name] for sample in samples])
            for name in samples[0].sequence_columns
        }
        batch = Batch(
            [sample.id for sample in samples],
            torch.zeros(int(lengths_S.sum()), dtype=torch.long),
            torch.repeat_interleave(torch.arange(len(samples)), lengths_S),
            lengths_S,
            sequence_columns=columns,
        )
        logprobs_N = torch.full((int(lengths_S.sum()),), self.logprob, requires_grad=True)
        sums = {name: float(column.sum()) for name, column in columns.items()}
        result = loss(Outputs(logprobs_N), batch, Totals(float(lengths_S.sum()), len(samples), sums))
        result.loss.backward()
        assert logprobs_N.grad is not None
        self.gradients = logprobs_N.grad.tolist()
        return {"loss": float(result.loss.detach())} | {n: float(v) for n, v in result.metrics.items()}

    async def optim_step(self) -> dict[str, float]:
        self.steps += 1
        return {}


def of_lengths(rewards: list[float], lengths: list[int]) -> Group:
    (group,) = make_groups([rewards])
    for rollout, length in zip(group.rollouts, lengths, strict=True):
        rollout.completion = Completion.of_version((5,) * length, (-1.0,) * length, "stop", 0)
    return group


@pytest.mark.parametrize(
    ("loss_type", "loss", "slope"),
    [
        # log-ratios 2 x 0.5 = 1 of the chosen, 1 x 0.5 of the rejected: a margin of 0.5, of means 0
        ("sigmoid", math.log(1 + math.exp(-0.1)), -0.2 / (1 + math.exp(0.1))),
        ("hinge", 0.9, -0.2),
        ("ipo", (0 - 2.5) ** 2, 2 * -2.5),
    ],
)
def test_the_loss_and_its_gradient_by_hand(loss_type: str, loss: float, slope: float) -> None:
    """beta 0.2; a chosen completion of two tokens and a rejected one of one; log pi -0.5, log ref -1 of each token."""
    learner, config = Fixed(-0.5), config_of({"beta": 0.2, "loss_type": loss_type})
    group = of_lengths([0.0, 1.0], [1, 2])
    metrics = run(online_dpo.step(learner, Fixed(-1.0), [group], config, step_number=1))  # type: ignore[arg-type]
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    per_token = slope / 2 if loss_type == "ipo" else slope
    assert learner.gradients == pytest.approx([per_token, per_token, -slope], rel=1e-5)
    assert metrics["rewards_chosen"] == pytest.approx(0.2)
    assert metrics["rewards_rejected"] == pytest.approx(0.1)
    assert metrics["pair_reward_gap"] == 1.0


def test_groups_that_tie_are_counted_and_change_no_weight() -> None:
    model = make_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = config_of()
    learner = make_learner(model, config.policy)
    groups = make_groups([[0.5, 0.5], [1.0, 1.0, 1.0]])
    metrics = run(online_dpo.step(learner, Fixed(-1.0), groups, config, step_number=1))  # type: ignore[arg-type]
    assert metrics["tied_groups"] == 2
    assert metrics["unpaired_samples"] == 5
    assert metrics["updates"] == metrics["trained_samples"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_mean_is_over_the_pairs_and_a_tie_among_them_takes_nothing_off() -> None:
    found = []
    for rewards in ([[1.0, 0.0]], [[1.0, 0.0], [0.3, 0.3]]):
        learner = Fixed(-0.5)
        groups = make_groups(rewards)
        run(online_dpo.step(learner, Fixed(-1.0), groups, config_of(), step_number=1))  # type: ignore[arg-type]
        found.append(learner.gradients)
    assert found[0] == found[1]


def test_beta_changes_with_the_steps_that_are_done() -> None:
    settings = OnlineDPOSection(beta={0: 0.4, 2: 0.1})
    assert [settings.beta_at(step) for step in range(4)] == [0.4, 0.4, 0.1, 0.1]
    linear = OnlineDPOSection(beta={0: 0.4, 2: 0.1}, beta_schedule="linear")
    assert [linear.beta_at(step) for step in range(4)] == pytest.approx([0.4, 0.25, 0.1, 0.1])
    learner, group = Fixed(-0.5), of_lengths([0.0, 1.0], [1, 1])
    config = config_of({"beta": {0: 0.4, 2: 0.1}})
    metrics = run(online_dpo.step(learner, Fixed(-1.0), [group], config, step_number=3))  # type: ignore[arg-type]
    assert metrics["beta"] == 0.1


@pytest.mark.parametrize("beta", [0, -1.0, {1: 0.1}, {0: 0.1, 5: 0.0}, {}])
def test_a_beta_that_is_no_schedule_of_positive_numbers_is_refused(beta: Any) -> None:
    with pytest.raises(ValidationError):
        OnlineDPOSection(beta=beta)


def trained(mesh: Mesh | None, policy: dict[str, Any], updates: int = 4) -> tuple[Any, Any]:
    """A few steps, in each of which one group ties and one has a rollout that failed."""
    config = config_of(**policy)
    models = [make_model("llama", seed=seed) for seed in (0, 1)]
    if mesh is not None:
        models = [spread_tiny(mesh, partial(make_model, "llama", seed=seed)) for seed in (0, 1)]
    learner, reference = (LocalLearner(model, config.policy, pad_token=PAD) for model in models)
    history = []
    for number in range(1, updates + 1):
        groups = make_groups(REWARDS, seed=number)
        history.append(run(online_dpo.step(learner, reference, groups, config, step_number=number)))
    return history, {name: tensor.clone() for name, tensor in learner.weights()}


def alike(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    assert max(float((tensor - theirs[1][name]).abs().max()) for name, tensor in ours[1].items()) < 1e-5


@pytest.fixture(scope="module")
def plain() -> Any:
    return trained(None, {})


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_how_pairs_are_laid_out_changes_nothing(way: dict[str, Any], plain: Any) -> None:
    alike(trained(None, way), plain)


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(layout(shard=2), id="dp2"),
        pytest.param(layout(tensor=2), id="tp2", marks=pytest.mark.slow),
        pytest.param(layout(context=2), id="cp2", marks=pytest.mark.slow),
    ],
)
def test_how_many_ranks_there_are_changes_nothing(mesh: Any, plain: Any) -> None:
    for result in on_ranks(mesh, partial(trained, policy={"train_micro_batch_size": 1})):
        alike(result, plain)


def test_pairs_of_one_update_are_those_of_its_prompts() -> None:
    """Two pairs an update: four groups, one of which ties, are two updates of two pairs and one pair."""
    config = config_of(train_global_batch_size=2)
    learner = Fixed(-0.5)
    metrics = run(
        online_dpo.step(learner, Fixed(-1.0), make_groups(REWARDS), config, step_number=1)  # type: ignore[arg-type]
    )
    assert learner.steps == metrics["updates"] == 2
    assert metrics["trained_samples"] == 6


def test_a_rollout_keeps_the_reward_that_it_was_given() -> None:
    rollouts: list[Rollout] = [rollout for group in make_groups(REWARDS) for rollout in group.rollouts]
    before = [rollout.reward for rollout in rollouts]
    groups = [Group("g", rollouts)]
    config = config_of({"missing_eos_penalty": 1.0})
    run(online_dpo.step(Fixed(-0.5), Fixed(-1.0), groups, config, step_number=1))  # type: ignore[arg-type]
    assert [rollout.reward for rollout in rollouts] == before
