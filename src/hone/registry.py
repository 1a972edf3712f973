"""The algorithms, one entry each. Commands, the Python API, configuration, progress and checks read these entries.

Entries name classes by text (`hone.module:Name`, for `hone.lazy.lazy`), so that reading them imports neither torch nor
pydantic. Another package adds an algorithm with an entry point of the group `hone.algorithms` whose value is an
`AlgorithmSpec` (docs/add-an-algorithm.md), or with `register`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import entry_points
from typing import Literal

from hone.errors import ConfigError

Rows = Literal["examples", "comparisons", "prompts"]
"""What a row of a dataset is."""


class ModelRole(Enum):
    """What a model is to an algorithm."""

    POLICY = "policy"
    REFERENCE = "reference"
    """The policy as it was when the run began, frozen."""
    VALUE = "value"
    TEACHER = "teacher"


@dataclass(frozen=True)
class MetricSpec:
    """Metrics of an algorithm. `reward_NAME` of each reward function comes on top."""

    val: tuple[str, ...]
    """Held-out metrics by which checkpoints can be ranked (`val:NAME`)."""
    train: tuple[str, ...]
    """Training metrics by which checkpoints can be ranked (`train:NAME`)."""
    progress: tuple[tuple[str, str], ...]
    """The progress line: metric, and what the line calls it."""
    own: tuple[tuple[str, str], ...] = ()
    """Metrics of this algorithm alone, each with its meaning; the others are in `hone.tracking.catalogue`."""


@dataclass(frozen=True)
class AlgorithmSpec:
    """One algorithm: `hone NAME`, `hone.NAME(...)`."""

    name: str
    """The command. In Python a `-` is a `_`."""
    title: str
    """What people call it, in the middle of a sentence."""
    summary: str
    """One line of `hone --help`."""
    config: str
    """The root of its configuration, a `hone.config.schema.base.RunConfig`."""
    section: str
    """The section of its configuration that says how long a run is, when it validates and what it draws with."""
    loop: Literal["supervised", "online"]
    build: str
    """A `SupervisedAlgorithm` of `hone.algorithms.supervised`, or an `OnlineAlgorithm` of `hone.algorithms.online`."""
    data: Rows
    metrics: MetricSpec
    models: frozenset[ModelRole] = frozenset({ModelRole.POLICY})
    """Models that a run may hold. Whether it holds one is for its settings to say."""
    needs_rewards: bool = False
    """Whether it learns from rewards."""
    sections: tuple[str, ...] = field(default=())
    """Further sections by which a configuration of it is recognised."""

    @property
    def function(self) -> str:
        """Its name in Python."""
        return self.name.replace("-", "_")


_PREFERENCES = (
    *("preference_loss", "sft_loss", "reward_accuracy", "reward_margin"),
    *("rewards_chosen", "rewards_rejected"),
)
_SCORES = ("reward_accuracy", "reward_margin", "score_chosen", "score_rejected", "score", "absolute_error")
_SUPERVISED_TRAIN = ("loss", "train_loss", "grad_norm")
_RANKED_PAIRS = (
    *(("train_loss", "loss"), ("reward_accuracy", "accuracy")),
    ("val_reward_accuracy", "val accuracy"),
)
_ONLINE_VAL = ("accuracy", "reward", "completion_length", "truncated", "failed")
_ONLINE_TRAIN = (
    *("loss", "reward", "accuracy", "grad_norm", "kl", "approx_entropy", "completion_length", "truncated"),
)
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
        summary="learning from comparisons: DPO and its relatives",
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
        summary="reward models: scores learned from comparisons, or from numbers",
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
        summary="reinforcement learning: GRPO and its relatives",
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
        summary="learning from a teacher's distribution, on the student's own answers or given ones",
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
        summary="learning from comparisons of the policy's own answers: online DPO",
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
                ("pair_reward_gap", "mean reward of chosen less rejected completions"),
                ("beta", "how strongly the policy was held to its reference"),
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
    """Add an algorithm, for this process. Raises ConfigError for a name that another one has."""
    if specs().get(spec.name, spec) != spec:
        raise ConfigError(f"there is an algorithm named {spec.name} already: choose another name")
    _added[spec.name] = spec


def specs() -> Mapping[str, AlgorithmSpec]:
    """All algorithms by name, in the order of `hone --help`."""
    return {**_installed(), **_added}


def spec_of(name: str) -> AlgorithmSpec:
    """The algorithm of a command. Raises ConfigError for another name."""
    found = specs()
    if name not in found:
        raise ConfigError(f"there is no algorithm {name!r}; there are {', '.join(found)}")
    return found[name]


def main_of(command: str) -> str:
    """The function that does the work of an algorithm's command, or of `eval`."""
    return "hone.evaluation:main" if command == "eval" else f"hone.training.{spec_of(command).loop}:main"


def rows_of(command: str) -> Rows:
    """What a row of the data of an algorithm, or of `eval`, is."""
    return "prompts" if command == "eval" else spec_of(command).data


def is_online(name: str) -> bool:
    """Whether a run of this command samples completions to learn from them."""
    return name in specs() and specs()[name].loop == "online"


@functools.cache
def _installed() -> dict[str, AlgorithmSpec]:
    found = {spec.name: spec for spec in BUILTIN}
    for entry in entry_points(group="hone.algorithms"):
        spec: AlgorithmSpec = entry.load()
        if spec.name in found:
            raise ConfigError(
                f"{entry.value} adds an algorithm named {spec.name}, but there is one: remove its package"
            )
        found[spec.name] = spec
    return found
