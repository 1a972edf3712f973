"""GRPO advantages, loss and gradients on one batch against TRL's GRPOTrainer. fp32, tiny models, random weights.

TRL gets the completions through its `rollout_func` and the rewards through a reward function, computes advantages and
reference log-probabilities itself, then its loss; nothing of it is copied here. Which Hone setting is which of TRL's:

    TRL loss_type          divides by                                      Hone loss_fn
    grpo                   tokens of each sequence, then sequences         token_level_loss=false
    bnpo, dapo             tokens of the (whole) batch                     token_level_loss=true
    dr_grpo                sequences x max_completion_length               constant_denominator=max_completion_length
    cispo                  tokens of the whole batch                       use_cispo=true, token_level_loss=true
    sapo                   tokens of each sequence, then sequences         use_sapo=true, token_level_loss=false
    importance_sampling_level=sequence, grpo (GSPO)    sequence_level_importance_ratios=true, token_level_loss=false

    epsilon, epsilon_high     ratio_clip_min, ratio_clip_max; for TRL's cispo, which cuts the ratio at epsilon_high
                              itself and not from below: ratio_clip_max=epsilon_high - 1, ratio_clip_min=1
    delta                     ratio_clip_c
    beta                      reference_policy_kl_penalty with k3
    use_bias_correction_kl    the same, but by each token's own ratio where TRL's GSPO takes its sequence's
    entropy_coef, top_entropy_quantile    the same; together, TRL's bonus is the mean over the masked tokens, Hone's
                              over all; TRL's quantile is that of a micro-batch, Hone's of the global batch
    scale_rewards=group       normalize_rewards=true, but TRL divides by std + 1e-4 and Hone by std + 1e-6

TRL divides grpo, bnpo and dr_grpo by each micro-batch's own count and then by the number of micro-batches; Hone by the
global count. The two agree where the batch is one micro-batch, as here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import (
    gradients,
    largest_gap,
    make_groups,
    make_learner,
    make_model,
    make_tokenizer,
    run,
    sft_config,
)
from torch import Tensor
from transformers import PreTrainedModel

from hone.algorithms import entropy_mask, grpo, ops, policy_loss
from hone.algorithms.advantages import by_group
from hone.config.schema import LossConfig
from hone.config.schema.grpo import GRPOSection
from hone.types import Group, Rollout, Sample

TOLERANCE = 1e-6
REWARDS: list[list[float | None]] = [[1.0, 0.0, 0.25, 0.0], [0.1, 0.2, 0.3, 0.7]]
LONGEST = 8


class Peer:
    """A GRPOTrainer around `model` that "samples" the completions of `groups`."""

    def __init__(self, architecture: str, folder: Path) -> None:
        from trl import GRPOConfig, GRPOTrainer

        self.architecture, self.model = architecture, make_model(architecture)
        self.rollouts: list[Rollout] = []
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
        )
        self.trainer = GRPOTrainer(
            model=self.model,
            args=settings,
            reward_funcs=self._reward,
            rollout_func=self._rollout,
            train_dataset=Dataset.from_list([{"prompt": "a"}] * 8),
            processing_class=make_tokenizer(),
        )
        self.trainer.current_gradient_accumulation_steps = 1

    def _reward(self, completions: list[str], **_: Any) -> list[float | None]:
        return [rollout.reward for rollout in self.rollouts]

    def _rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        return {
            "prompt_ids": [list(rollout.prompt.tokens) for rollout in self.rollouts],
            "completion_ids": [list(rollout.completion.tokens) for rollout in self.rollouts],
            "logprobs": [list(rollout.completion.logprobs) for rollout in self.rollouts],
        }

    def inputs(self, groups: list[Group], scale_rewards: str = "group") -> dict[str, Any]:
        """What TRL hands to its loss: padded tokens, masks, its own advantages."""
        self.rollouts = [rollout for group in groups for rollout in group.rollouts]
        self.trainer.scale_rewards, self.trainer.beta = scale_rewards, 0.0
        return self.trainer._generate_and_score_completions([{"prompt": "a"} for _ in self.rollouts])

    def loss(self, inputs: dict[str, Any], **settings: Any) -> tuple[float, dict[str, Tensor]]:
        trainer = self.trainer
        trainer.loss_type = settings.get("loss_type", "grpo")
        trainer.beta = settings.get("beta", 0.0)
        trainer.args.use_bias_correction_kl = settings.get("use_bias_correction_kl", True)
        trainer.epsilon_low = settings.get("epsilon", 0.2)
        trainer.epsilon_high = settings.get("epsilon_high", trainer.epsilon_low)
        trainer.importance_sampling_level = settings.get("importance_sampling_level", "token")
        trainer.args.delta = settings.get("delta")
        trainer.args.sapo_temperature_pos, trainer.args.sapo_temperature_neg = settings.get(
            "sapo", (1.0, 1.05)
        )
        trainer.top_entropy_quantile = settings.get("top_entropy_quantile", 1.0)
        trainer.entropy_coef = settings.get("entropy_coef", 0.0)
        trainer._entropy_bonus_enabled, trainer.use_adaptive_entropy = trainer.entropy_coef > 0, False
        self.model.train()
        self.model.zero_grad()
        loss = trainer._compute_loss(self.model, inputs)
        loss.backward()
        return loss.item(), gradients(self.model)


@pytest.fixture(scope="module")
def peers(trainer_folder: Path) -> Callable[[str], Peer]:
    made: dict[str, Peer] = {}

    def peer(architecture: str) -> Peer:
        if architecture not in made:
            made[architecture] = Peer(architecture, trainer_folder)
        return made[architecture]

    return peer


def nudged(architecture: str, seed: int) -> PreTrainedModel:
    """Weights near those of the policy: an old policy whose ratios lie on both sides of the clip, a reference."""
    other = make_model(architecture)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return other


def rows_of(values: list[Tensor]) -> Tensor:
    """One padded row for each sequence, as TRL has them."""
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)


def hone(
    model: PreTrainedModel, samples: list[Sample], config: LossConfig, **policy: Any
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    learner = make_learner(model, sft_config(**{"train_micro_batch_size": 16, **policy}).policy)
    learner.scorer.supports_shared_prefix = (
        False  # TRL's layout, so that sums round alike; test_shared_prompts.py has the other
    )
    if config.top_entropy_quantile < 1:
        run(entropy_mask.mark(learner, samples, config.top_entropy_quantile))
    metrics = run(learner.forward_backward(samples, policy_loss.PolicyLoss(config, on_policy=True)))
    grads = gradients(model)
    model.zero_grad()
    return metrics["loss"], grads


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"loss_type": "grpo"}, {"token_level_loss": False}),
    "bnpo": ({"loss_type": "bnpo"}, {"token_level_loss": True}),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"token_level_loss": True, "ratio_clip_max": 0.28}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"constant_denominator": float(LONGEST)}),
    "dual clip": ({"loss_type": "bnpo", "delta": 1.5}, {"token_level_loss": True, "ratio_clip_c": 1.5}),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.04},
        {
            "sequence_level_importance_ratios": True,
            "token_level_loss": False,
            "ratio_clip_min": 0.02,
            "ratio_clip_max": 0.04,
        },
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.3},
        {"use_cispo": True, "token_level_loss": True, "ratio_clip_min": 1.0, "ratio_clip_max": 0.3},
    ),
    "sapo": ({"loss_type": "sapo"}, {"use_sapo": True, "token_level_loss": False}),
    "sapo, other temperatures": (
        {"loss_type": "sapo", "sapo": (0.5, 2.0)},
        {
            "use_sapo": True,
            "token_level_loss": False,
            "sapo_temperature_pos": 0.5,
            "sapo_temperature_neg": 2.0,
        },
    ),
    "entropy bonus": ({"loss_type": "bnpo", "entropy_coef": 0.2}, {"entropy_coef": 0.2}),
    "the fifth of the highest entropy": (
        {"loss_type": "bnpo", "top_entropy_quantile": 0.2},
        {"top_entropy_quantile": 0.2},
    ),
    "kl": (
        {"loss_type": "grpo", "beta": 0.3},
        {"token_level_loss": False, "reference_policy_kl_penalty": 0.3, "kl_output_clamp_value": None},
    ),
    "kl, as in the paper": (
        {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False},
        {
            "token_level_loss": False,
            "reference_policy_kl_penalty": 0.3,
            "use_bias_correction_kl": False,
        },
    ),
    "dapo with kl": (
        {"loss_type": "dapo", "beta": 0.1},
        {"token_level_loss": True, "reference_policy_kl_penalty": 0.1, "reference_policy_kl_type": "k3"},
    ),
}


@pytest.mark.parametrize("old", ["old policy", "on policy"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_loss_and_gradients(architecture: str, case: str, old: str, peers: Callable[[str], Peer]) -> None:
    theirs, ours = CASES[case]
    peer = peers(architecture)
    groups = make_groups(REWARDS, longest=LONGEST)
    inputs = peer.inputs(groups)
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    for sample, advantage in zip(samples, inputs["advantages"].tolist(), strict=True):
        sample.sequence_columns["advantage"] = advantage
    inputs.pop("old_per_token_logps", None)
    if old == "old policy":
        values = run(make_learner(nudged(peer.architecture, 1)).forward(samples))
        inputs["old_per_token_logps"] = rows_of(values)
        for sample, column in zip(samples, values, strict=True):
            sample.token_columns["old_logprobs"] = column
    if theirs.get("beta"):
        values = run(make_learner(nudged(peer.architecture, 2)).forward(samples))
        inputs["ref_per_token_logps"] = rows_of(values)
        for sample, column in zip(samples, values, strict=True):
            sample.token_columns["reference_logprobs"] = column
    expected, expected_grads = peer.loss(inputs, **theirs)
    loss, grads = hone(peer.model, samples, LossConfig(**{"reference_policy_kl_penalty": 0.0, **ours}))
    assert max(float(grad.abs().max()) for grad in expected_grads.values()) > 1e-3
    assert loss == pytest.approx(expected, rel=TOLERANCE, abs=1e-7)
    assert largest_gap(grads, expected_grads) < 2 * TOLERANCE  # fp32: machines differ in the order of sums


def test_the_cases_clip_on_both_sides(peers: Callable[[str], Peer]) -> None:
    """The old policy above is far enough away for the clips to matter."""
    peer, groups = peers("llama"), make_groups(REWARDS, longest=LONGEST)
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    new = torch.cat(run(make_learner(peer.model).forward(samples)))
    old = torch.cat(run(make_learner(nudged(peer.architecture, 1)).forward(samples)))
    ratio = (new - old).exp()
    assert float((ratio > 1.5).float().mean()) > 0.02
    assert float((ratio > 1.2).float().mean()) > 0.1
    assert float((ratio < 0.8).float().mean()) > 0.1


@pytest.mark.parametrize(
    "rewards", [REWARDS, [[0.5] * 4, [0.0, 0.0, 1.0, 0.0]], [[1.0, None, 0.0, 0.5], [0.0, 1.0, None, None]]]
)
@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages(rewards: list[list[float | None]], scale: str, peers: Callable[[str], Peer]) -> None:
    """The group's mean as baseline; a completion that no function scored is left out of it by both."""
    groups = make_groups(rewards, longest=LONGEST)
    expected = peers("llama").inputs(groups, scale)["advantages"].tolist()
    if scale == "none":
        by_group(
            groups, grpo.baseline_of(GRPOSection(normalize_rewards=False, use_leave_one_out_baseline=False))
        )
        ours = [rollout.advantage or 0.0 for group in groups for rollout in group.rollouts]
    else:
        ours = []
        for values in rewards:
            scored = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
            found = iter(ops.group_advantages(scored, leave_one_out=False, normalize=True, eps=1e-4).tolist())
            ours += [0.0 if value is None else next(found) for value in values]
    assert ours == pytest.approx(expected, rel=TOLERANCE, abs=1e-7)


def test_in_parts_it_is_still_the_whole_batch(peers: Callable[[str], Peer]) -> None:
    """Packed and in micro-batches, against TRL's one batch, with ratios and KL."""
    peer, groups = peers("qwen3"), make_groups(REWARDS, longest=LONGEST)
    inputs = peer.inputs(groups)
    samples = [sample for sample in policy_loss.samples_per_rollout(groups) if sample is not None]
    old = run(make_learner(nudged(peer.architecture, 1)).forward(samples))
    reference = run(make_learner(nudged(peer.architecture, 2)).forward(samples))
    inputs["old_per_token_logps"], inputs["ref_per_token_logps"] = rows_of(old), rows_of(reference)
    for index, sample in enumerate(samples):
        sample.sequence_columns["advantage"] = float(inputs["advantages"][index])
        sample.token_columns |= {"old_logprobs": old[index], "reference_logprobs": reference[index]}
    expected, expected_grads = peer.loss(inputs, loss_type="grpo", beta=0.3)
    config = LossConfig(token_level_loss=False, reference_policy_kl_penalty=0.3)
    for policy in (
        {"train_micro_batch_size": 3},
        {"sequence_packing": {"enabled": True, "train_mb_tokens": 30}},
    ):
        loss, grads = hone(peer.model, samples, config, **policy)
        assert loss == pytest.approx(expected, rel=TOLERANCE, abs=1e-7)
        assert largest_gap(grads, expected_grads) < TOLERANCE * 2  # two sums in fp32, in different orders
