"""A folder with a model and data, and the runs that nobody interrupted: what all others are compared with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import (
    DISTILL,
    DPO,
    GRPO,
    ONLINE_DPO,
    PPO,
    RM,
    SFT,
    Ended,
    Result,
    hone,
    result,
    succeeded,
    workplace,
)

# Batches of 5 from 64 rows: epochs end in the middle of a batch. Saving and validating fall together and apart.
SFT_RUN = (
    *SFT,
    "policy.train_global_batch_size=5",
    "policy.train_micro_batch_size=1",
    "policy.sequence_packing.enabled=true",
    "sft.max_num_steps=18",
    "sft.val_period=3",
    "checkpointing.save_period=4",
    "checkpointing.keep_top_k=2",
    "policy.scheduler=[{name: torch.optim.lr_scheduler.LinearLR, kwargs: {start_factor: 0.1, total_iters: 5}}, "
    "{name: torch.optim.lr_scheduler.CosineAnnealingLR, kwargs: {T_max: 20}}, {milestones: [5]}]",
)
GRPO_RUN = (
    *GRPO,
    "grpo.max_num_steps=8",
    "grpo.val_period=3",
    "grpo.num_updates_per_rollout=2",
    "checkpointing.save_period=2",
    "checkpointing.keep_top_k=2",
)
# Losses with something of their own to keep: BCO's running mean, KTO's answers to other prompts, AOT's ranks.
DPO_RUN = (
    *DPO,
    "policy.train_global_batch_size=5",
    "policy.train_micro_batch_size=1",
    "policy.sequence_packing.enabled=true",
    "dpo.preference_loss={sigmoid: 1.0, bco_pair: 0.5, kto: 0.3, aot_unpaired: 0.2}",
    "dpo.sft_loss_weight=0.1",
    "dpo.max_num_steps=18",
    "dpo.val_period=3",
    "checkpointing.save_period=4",
    "checkpointing.keep_top_k=2",
)
RM_RUN = (
    *RM,
    "policy.train_global_batch_size=5",
    "policy.train_micro_batch_size=1",
    "policy.sequence_packing.enabled=true",
    "rm.center_rewards_coefficient=0.01",
    "rm.max_num_steps=18",
    "rm.val_period=3",
    "checkpointing.save_period=4",
    "checkpointing.keep_top_k=2",
    "checkpointing.metric_name=val:val_accuracy",
    "checkpointing.higher_is_better=true",
)
# Killed before and after the policy begins to be trained; both models have a schedule of their own.
PPO_RUN = (
    *PPO,
    "ppo.max_num_steps=8",
    "ppo.val_period=3",
    "ppo.policy_training_start_step=3",
    "loss_fn.use_kl_in_reward=true",
    "loss_fn.reference_policy_kl_type=k1",
    "value.scheduler=[{name: torch.optim.lr_scheduler.LinearLR, kwargs: {start_factor: 0.1, total_iters: 9}}]",
    "checkpointing.save_period=2",
    "checkpointing.keep_top_k=2",
)
# Own answers and given ones take turns.
DISTILL_RUN = (
    *DISTILL,
    "distillation.max_num_steps=8",
    "distillation.val_period=3",
    "distillation.on_policy_fraction=0.5",
    "checkpointing.save_period=2",
    "checkpointing.keep_top_k=2",
)
# Beta is a function of the steps that are done.
ONLINE_DPO_RUN = (
    *ONLINE_DPO,
    "online_dpo.max_num_steps=8",
    "online_dpo.val_period=3",
    "online_dpo.beta={0: 0.5, 6: 0.1}",
    "online_dpo.beta_schedule=linear",
    "policy.sequence_packing.enabled=true",
    "checkpointing.save_period=2",
    "checkpointing.keep_top_k=2",
)
# How many prompts a step draws depends on their rewards.
DYNAMIC_RUN = (
    *GRPO_RUN,
    "grpo.use_dynamic_sampling=true",
    "grpo.batch_multiplier=1.5",
    "rewards.functions=[{path: rewards.py:some_vowels, name: vowels}]",
)
# An environment whose steps take some other time in every run.
_HELPERS = Path(__file__).resolve().parents[2] / "helpers" / "env_helpers.py"
ENVIRONMENT_RUN = (
    *GRPO_RUN,
    f"env.path={_HELPERS}:Slow",
    f"data.train.dataset_name={_HELPERS}:conversations",
    f"data.validation.dataset_name={_HELPERS}:conversations",
    "env.max_wait_s=null",
    "rewards.functions=[{name: length, weight: 0.1, kwargs: {target: 6}}]",
    "grpo.max_rollout_turns=3",
    "policy.max_total_sequence_length=128",
    "grpo.max_num_steps=6",
)
# While a step trains, a process of its own samples the rollouts of the next one.
LOOKAHEAD_RUN = (*GRPO_RUN, "grpo.async_rollouts=lookahead", "policy.generation_batch_size=4")
# The position in the data is ahead by as many prompts as the next step needed, and rollouts have several turns.
LOOKAHEAD_DYNAMIC_RUN = (*DYNAMIC_RUN, "grpo.async_rollouts=lookahead")
LOOKAHEAD_ENVIRONMENT_RUN = (*ENVIRONMENT_RUN, "grpo.async_rollouts=lookahead")
RUNS = {
    "lookahead": LOOKAHEAD_RUN,
    "lookahead-dynamic": LOOKAHEAD_DYNAMIC_RUN,
    "lookahead-environment": LOOKAHEAD_ENVIRONMENT_RUN,
    "environment": ENVIRONMENT_RUN,
    "dynamic": DYNAMIC_RUN,
    "sft": SFT_RUN,
    "dpo": DPO_RUN,
    "rm": RM_RUN,
    "grpo": GRPO_RUN,
    "ppo": PPO_RUN,
    "distill": DISTILL_RUN,
    "online-dpo": ONLINE_DPO_RUN,
}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="session")
def uninterrupted(place: Path) -> Callable[[str], tuple[Result, Ended]]:
    """The result of a run of each kind, made once."""
    made: dict[str, tuple[Result, Ended]] = {}

    def get(kind: str) -> tuple[Result, Ended]:
        if kind not in made:
            name = f"reference_{kind}"
            ended = succeeded(hone(*RUNS[kind], f"checkpointing.checkpoint_dir={name}", cwd=place))
            made[kind] = result(place / name), ended
        return made[kind]

    return get


@pytest.fixture
def run_dir(place: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for this test's run, gone before it."""
    path = place / request.node.name.replace("/", "_")
    shutil.rmtree(path, ignore_errors=True)
    return path
