"""The algorithms, one entry each. Commands, the Python API, configuration, progress and checks read these entries.

Entries name classes as strings (`hone.module:Name`, for `hone.lazy.lazy`), so that reading them imports neither torch
nor pydantic. Another package adds an algorithm with `register`, or with an entry point of the group `hone.algorithms`
whose value is an `AlgorithmSpec` (docs/add-an-algorithm.md).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import entry_points
from typing import Literal

from hone.errors import ConfigError

Rows = Literal["examples", "comparisons", "prompts"]
"""The kind of rows in a dataset."""


class ModelRole(Enum):
    """The part that a model plays in an algorithm."""

    POLICY = "policy"
    REFERENCE = "reference"
    """The policy as it was when the run began, frozen."""
    VALUE = "value"
    TEACHER = "teacher"


@dataclass(frozen=True)
class MetricSpec:
    """Metrics of an algorithm, in addition to `reward_NAME` of each reward function."""

    val: tuple[str, ...]
    """Held-out metrics by which checkpoints can be ranked (`val:NAME`)."""
    train: tuple[str, ...]
    """Training metrics by which checkpoints can be ranked (`train:NAME`)."""
    progress: tuple[tuple[str, str], ...]
    """The metrics of the progress line, each with its label."""
    own: tuple[tuple[str, str], ...] = ()
    """Metrics that only this algorithm has, each with its meaning; the others are in `hone.tracking.catalogue`."""


@dataclass(frozen=True)
class AlgorithmSpec:
    """One algorithm: `hone NAME`, `hone.NAME(...)`."""

    name: str
    """The command. In Python `-` becomes `_`."""
    title: str
    """The name within a sentence."""
    summary: str
    """The line in `hone --help`."""
    config: str
    """The root of its configuration, a `hone.config.schema.base.RunConfig`."""
    section: str
    """The section of its configuration with the length of a run, the validation and the seed."""
    loop: Literal["supervised", "online"]
    """The training loop: `hone.training.supervised` or `hone.training.online`."""
    build: str
    """A `SupervisedAlgorithm` of `hone.algorithms.supervised`, or an `OnlineAlgorithm` of `hone.algorithms.online`."""
    data: Rows
    """What a row of its data is: an example, a comparison or a prompt."""
    metrics: MetricSpec
    """The metrics that rank checkpoints and that the progress line shows."""
    models: frozenset[ModelRole] = frozenset({ModelRole.POLICY})
    """Models that a run may hold; its settings decide which it does hold."""
    needs_rewards: bool = False
    """Whether the algorithm learns from rewards."""
    sections: tuple[str, ...] = ()
    """Further sections by which a configuration of this algorithm is recognised."""

    @property
    def function(self) -> str:
        """The name of the Python function."""
        return self.name.replace("-", "_")


_PREFERENCES = tuple(
    "preference_loss sft_loss reward_accuracy reward_margin rewards_chosen rewards_rejected".split()
)
_SCORES = ("reward_accuracy", "reward_margin", "score_chosen", "score_rejected", "score", "absolute_error")
_SUPERVISED_TRAIN = ("loss", "train_loss", "grad_norm")
_RANKED_PAIRS = (
    ("train_loss", "loss"),
    ("reward_accuracy", "accuracy"),
    ("val_reward_accuracy", "val accuracy"),
)
_ONLINE_VAL = ("accuracy", "reward", "completion_length", "truncated", "failed")
_ONLINE_TRAIN = tuple("loss reward accuracy grad_norm kl approx_entropy completion_length truncated".split())
_HELD_OUT = (("val_accuracy", "val accuracy"), ("val_reward", "val reward"))

BUILTIN = (
    AlgorithmSpec(
        name="sft",
        title="SFT",
        summary="supervised fine-tuning",
        config="hone.config.schema.sft:SFTConfig",
        section="sft",
        loop="supervised",
        build="hone.algorithms.sft:SFT",
        data="examples",
        metrics=MetricSpec(
            val=("val_loss", "val_seconds"),
            train=("loss", "train_loss", "grad_norm"),
            progress=(("train_loss", "loss"), ("val_loss", "val loss")),
        ),
    ),
    AlgorithmSpec(
        name="dpo",
        title="DPO",
        summary="preference optimization: DPO and its variants",
        config="hone.config.schema.dpo:DPOConfig",
        section="dpo",
        loop="supervised",
        build="hone.algorithms.dpo:DPO",
        data="comparisons",
        metrics=MetricSpec(
            val=tuple(f"val_{name}" for name in ("loss", *_PREFERENCES)),
            train=(*_SUPERVISED_TRAIN, *_PREFERENCES),
            progress=_RANKED_PAIRS,
        ),
    ),
    AlgorithmSpec(
        name="rm",
        title="reward models",
        summary="reward models: scores learned from preference pairs, labels or numbers",
        config="hone.config.schema.rm:RMConfig",
        section="rm",
        loop="supervised",
        build="hone.algorithms.rm:RM",
        data="comparisons",
        metrics=MetricSpec(
            val=tuple(f"val_{name}" for name in ("loss", "calibration_error", *_SCORES)),
            train=(*_SUPERVISED_TRAIN, *_SCORES),
            progress=_RANKED_PAIRS,
        ),
    ),
    AlgorithmSpec(
        name="grpo",
        title="GRPO",
        summary="reinforcement learning: GRPO and its variants",
        config="hone.config.schema.grpo:GRPOConfig",
        section="grpo",
        loop="online",
        build="hone.algorithms.grpo:GRPO",
        data="prompts",
        metrics=MetricSpec(_ONLINE_VAL, _ONLINE_TRAIN, progress=(("reward", "reward"), *_HELD_OUT)),
        models=frozenset({ModelRole.POLICY, ModelRole.REFERENCE}),
        needs_rewards=True,
        sections=("loss_fn",),
    ),
    AlgorithmSpec(
        name="ppo",
        title="PPO",
        summary="reinforcement learning with a value model: PPO",
        config="hone.config.schema.ppo:PPOConfig",
        section="ppo",
        loop="online",
        build="hone.algorithms.ppo:PPO",
        data="prompts",
        metrics=MetricSpec(
            val=_ONLINE_VAL,
            train=(*_ONLINE_TRAIN, "value_loss", "explained_variance"),
            progress=(("reward", "reward"), ("value_loss", "value loss"), *_HELD_OUT),
        ),
        models=frozenset({ModelRole.POLICY, ModelRole.REFERENCE, ModelRole.VALUE}),
        needs_rewards=True,
        sections=("value", "value_loss_fn"),
    ),
    AlgorithmSpec(
        name="distill",
        title="distillation",
        summary="distillation: learn a teacher's distribution, on the student's own answers or given ones",
        config="hone.config.schema.distill:DistillConfig",
        section="distillation",
        loop="online",
        build="hone.algorithms.distill:Distill",
        data="prompts",
        metrics=MetricSpec(
            val=_ONLINE_VAL,
            train=("loss", "grad_norm", "forward_kl", "reverse_kl", "completion_length", "truncated"),
            progress=(("policy_loss_total", "loss"), ("completion_length", "length"), *_HELD_OUT),
        ),
        models=frozenset({ModelRole.POLICY, ModelRole.TEACHER}),
        sections=("teacher",),
    ),
    AlgorithmSpec(
        name="online-dpo",
        title="online DPO",
        summary="online DPO: preference pairs of the policy's own answers",
        config="hone.config.schema.online_dpo:OnlineDPOConfig",
        section="online_dpo",
        loop="online",
        build="hone.algorithms.online_dpo:OnlineDPO",
        data="prompts",
        metrics=MetricSpec(
            val=_ONLINE_VAL,
            train=(*_ONLINE_TRAIN[:4], "reward_accuracy", "reward_margin", "completion_length", "truncated"),
            progress=(("reward", "reward"), ("reward_accuracy", "pairs right"), *_HELD_OUT),
            own=(
                ("pair_reward_gap", "mean reward of chosen minus rejected completions"),
                ("beta", "strength of the KL penalty towards the reference"),
                ("tied_groups", "groups of a step without a pair: their rewards are equal"),
                ("unpaired_samples", "completions of a step that are in no pair"),
            ),
        ),
        models=frozenset({ModelRole.POLICY, ModelRole.REFERENCE}),
        needs_rewards=True,
    ),
)
_added: dict[str, AlgorithmSpec] = {}


def register(spec: AlgorithmSpec) -> None:
    """Add an algorithm in this process. Raises ConfigError if another one has its name."""
    if specs().get(spec.name, spec) != spec:
        raise ConfigError(f"there already is an algorithm named {spec.name}: choose another name")
    _added[spec.name] = spec


def specs() -> Mapping[str, AlgorithmSpec]:
    """All algorithms by name, in the order of `hone --help`."""
    return {**_installed(), **_added}


def spec_of(name: str) -> AlgorithmSpec:
    """The algorithm of a command. Raises ConfigError if there is none."""
    found = specs()
    if name not in found:
        raise ConfigError(f"there is no algorithm {name!r}; the names are {', '.join(found)}")
    return found[name]


def main_of(command: str) -> str:
    """The main function of an algorithm's command, or of `eval`, as `module:name`."""
    return "hone.evaluation:main" if command == "eval" else f"hone.training.{spec_of(command).loop}:main"


def rows_of(command: str) -> Rows:
    """The kind of rows that an algorithm, or `eval`, reads."""
    return "prompts" if command == "eval" else spec_of(command).data


def is_online(name: str) -> bool:
    """Whether a run of this command trains on completions that it samples."""
    return name in specs() and specs()[name].loop == "online"


@functools.cache
def _installed() -> dict[str, AlgorithmSpec]:
    found = {spec.name: spec for spec in BUILTIN}
    for entry in entry_points(group="hone.algorithms"):
        spec: AlgorithmSpec = entry.load()
        if spec.name in found:
            raise ConfigError(
                f"{entry.value} adds an algorithm named {spec.name}, which already exists: remove its package"
            )
        found[spec.name] = spec
    return found
