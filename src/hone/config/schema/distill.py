"""The configuration of `hone distill`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from hone.config.checks.rollouts import validation_needs_rewards
from hone.config.dependent_defaults.settings import Adjustment, Settings
from hone.config.paths import LocalName
from hone.config.schema.base import ConfigModel, Count, Derived, Precision, derived, section
from hone.config.schema.model import ModelConfig, OptimizerConfig, adamw
from hone.config.schema.online import OnlineConfig, OnlinePolicyConfig, OnlineSection
from hone.config.schema.run import ClusterConfig
from hone.units import counted

Share = Annotated[float, Field(ge=0, le=1)]
READ_BY = {"mixed_kl_weight": "mixed", "jsd_beta": "jsd"}
"""Settings of the loss that one divergence alone reads."""


class DistillLossConfig(ConfigModel):
    """The divergence between the student's and the teacher's distributions, at every token of an answer."""

    kl_type: Literal["forward", "reverse", "mixed", "jsd"] = "mixed"
    """`forward`: KL(teacher || student). `reverse`: KL(student || teacher). `mixed`: both, weighted. `jsd`: the
    generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649)."""
    mixed_kl_weight: Share = 0.5
    """mixed: weight of the forward KL; the reverse KL has the rest of 1."""
    jsd_beta: Share = 0.5
    """jsd: weight of the teacher in the mixture distribution; 0 is the forward KL, 1 the reverse KL."""
    zero_outside_topk: bool = False
    """false: both distributions are renormalised over the teacher's top k tokens. true: only the teacher's is, so its
    probability of every other token is 0 and the student is penalised for probability there."""
    temperature: Derived[Annotated[float, Field(gt=0)]] = derived("${policy.generation.temperature}")
    """Softmax temperature of both distributions."""


class DistillSection(OnlineSection):
    """Learning from a teacher's distribution over the next token: prompts, answers, length of the run, validations."""

    num_prompts_per_step: int = Field(128, ge=1)
    """Prompts of each step."""
    num_generations_per_prompt: int = Field(1, ge=1)
    """Completions of each prompt."""
    topk_logits_k: int = Field(64, ge=1)
    """Number of the teacher's most likely tokens that are compared; the vocabulary size compares all tokens."""
    on_policy_fraction: Share = 1.0
    """GKD's lambda: fraction of the steps, evenly spread, that train on the student's own completions. The others
    train on the data's answers. 0: sample for validation only."""

    def is_on_policy_step(self, step: int) -> bool:
        """Whether a step (counted from 1) trains on the student's own completions."""
        share = self.on_policy_fraction
        return int(step * share + 1e-9) > int((step - 1) * share + 1e-9)


class TeacherTokenizerConfig(ConfigModel):
    """The teacher's tokenizer. It reads the student's tokens, so both have the same vocabulary."""

    name: Derived[LocalName] = derived("${teacher.model_name}")
    """Tokenizer name or folder, compared with the policy's before any weight is loaded."""


class TeacherBatchingConfig(ConfigModel):
    """Micro-batches of similar lengths, filled up to a budget of padded tokens."""

    enabled: Derived[bool] = derived("${policy.dynamic_batching.enabled}")
    """Fill micro-batches by number of tokens rather than of sequences."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${teacher.max_total_sequence_length},${teacher.logprob_batch_size}}"
    )
    """Tokens of a micro-batch of the teacher."""
    sequence_length_round: int = Field(64, ge=1)
    """Padded lengths are rounded up to a multiple of this."""


class TeacherPackingConfig(ConfigModel):
    """Several sequences packed into one row; no sequence attends to another."""

    enabled: Derived[bool] = derived("${policy.sequence_packing.enabled}")
    """Pack sequences up to the budget of tokens. Without packing, the completions of a prompt share its
    computation."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${teacher.max_total_sequence_length},${teacher.logprob_batch_size}}"
    )
    """Tokens of a micro-batch of the teacher."""


class TeacherConfig(ConfigModel):
    """The frozen model that the student learns from. It shares the policy's devices and sharding, or is sharded over
    devices of its own (`cluster.teacher_devices`)."""

    model_name: LocalName = "hone/tiny-sft"
    """Hugging Face name or folder of the model; or an embedded one."""
    tokenizer: TeacherTokenizerConfig = section(TeacherTokenizerConfig)
    trust_remote_code: bool = False
    """Run the Python code in the model's or the tokenizer's folder, where transformers has none for it. The code runs
    with your permissions: read it first."""
    hf_config_overrides: dict[str, Any] = Field(default_factory=dict)
    """Values that override those in the model's config.json."""
    logprob_batch_size: Derived[Count] = derived("${policy.logprob_batch_size}")
    """Sequences per forward pass of the teacher on one device. Changes memory and speed, never the result."""
    max_total_sequence_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Longest sequence in tokens: at least the policy's."""
    precision: Derived[Precision] = derived("${policy.precision}")
    """Number format of the forward pass."""
    logprob_chunk_size: int | None = Field(None, ge=1)
    """Target tokens per chunk of the output layer; null: chosen by the planner. Changes memory, not the result."""
    dynamic_batching: TeacherBatchingConfig = section(TeacherBatchingConfig)
    sequence_packing: TeacherPackingConfig = section(TeacherPackingConfig)

    def as_model_config(self, policy: ModelConfig) -> ModelConfig:
        """These settings as those of a model; what they lack, such as parallel sizes, is the policy's."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        for name in ("tokenizer", "dynamic_batching", "sequence_packing"):
            own[name] = getattr(policy, name).model_copy(update=dict(own[name]))
        own["lora"] = policy.lora.model_copy(update={"enabled": False, "adapter_path": None})
        for batching in (
            "dynamic_batching",
            "sequence_packing",
        ):  # a frozen model only computes log-probabilities
            own[batching].train_mb_tokens = own[batching].logprob_mb_tokens
        return policy.model_copy(update={**own, "activation_checkpointing": False, "disable_dropout": True})


class DistillClusterConfig(ClusterConfig):
    """The devices of a run."""

    teacher_devices: int | None = Field(None, ge=1)
    """GPUs (with cpu_workers_per_node: CPU processes) for the teacher alone, all on one machine, beside the policy's;
    null: it shares the policy's."""

    @property
    def reserved_devices(self) -> int:
        """Devices for the teacher alone."""
        return self.teacher_devices or 0


class DistillOptimizerConfig(OptimizerConfig):
    """An optimizer class and its arguments."""

    kwargs: dict[str, Any] = adamw(lr=2.0e-5)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class DistillPolicyConfig(OnlinePolicyConfig):
    """The student, and how it samples."""

    model_name: LocalName = "hone/tiny"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    train_global_batch_size: int = Field(128, ge=1)
    """Answers per optimizer step, over all devices; divides prompts × generations of a step."""
    optimizer: DistillOptimizerConfig = section(DistillOptimizerConfig)


class DistillConfig(OnlineConfig):
    """All settings of `hone distill`."""

    policy: DistillPolicyConfig = section(DistillPolicyConfig)
    teacher: TeacherConfig = section(TeacherConfig)
    distillation: DistillSection = section(DistillSection)
    loss_fn: DistillLossConfig = section(DistillLossConfig)
    cluster: DistillClusterConfig = section(DistillClusterConfig)

    @property
    def teacher_model(self) -> ModelConfig:
        """Settings of the teacher."""
        return self.teacher.as_model_config(self.policy)

    @property
    def teacher_topk(self) -> int:
        """Number of the teacher's most likely tokens that are compared at each target."""
        return self.distillation.topk_logits_k

    @property
    def logits_temperature(self) -> float:
        """Divides the logits of both before they are compared."""
        return self.loss_fn.temperature

    def problems(self) -> Iterator[str]:
        """Settings of another divergence, a teacher that is too short or the student itself, unscored validation."""
        loss, teacher, policy = self.loss_fn, self.teacher, self.policy
        for key, divergence in READ_BY.items():
            value, default = getattr(loss, key), type(loss).model_fields[key].default
            if loss.kl_type != divergence and key in loss.model_fields_set and value != default:
                yield f"loss_fn.{key}={value} does nothing for loss_fn.kl_type={loss.kl_type}: it is for {divergence}"
        if teacher.max_total_sequence_length < policy.max_total_sequence_length:
            yield (
                f"teacher.max_total_sequence_length={teacher.max_total_sequence_length} is less than "
                f"policy.max_total_sequence_length={policy.max_total_sequence_length}, but the teacher reads the "
                "student's sequences: leave it out"
            )
        yield from validation_needs_rewards(self)
        same_model = teacher.model_name == policy.model_name
        if (
            same_model
            and teacher.hf_config_overrides == policy.hf_config_overrides
            and not policy.lora.adapter_path
        ):
            yield (
                f"teacher.model_name={teacher.model_name} is the student itself, which has nothing to learn from it: "
                "name a better model"
            )

    def adjustments(self, settings: Settings) -> Iterator[Adjustment]:
        """A setting that one divergence alone reads selects it; the student's sequences are no longer than the
        teacher's."""
        for key, divergence in READ_BY.items():
            name = f"loss_fn.{key}"
            if settings.given(name) and settings[name] != settings.schema_default(name):
                yield Adjustment("loss_fn.kl_type", divergence, name)
        theirs, ours = "teacher.max_total_sequence_length", "policy.max_total_sequence_length"
        if settings[theirs] < settings[ours]:
            yield Adjustment(ours, settings[theirs], theirs)

    @property
    def plan_lines(self) -> list[str]:
        """What is learnt from the teacher."""
        loss, share, own = self.loss_fn, self.distillation.on_policy_fraction, self.cluster.reserved_devices
        answers = "the student's own answers" + ("" if share == 1 else f" in {share:.0%} of the steps")
        divergence = f"{loss.kl_type} divergence over its {self.distillation.topk_logits_k} likeliest tokens"
        return [
            f"teacher: {divergence}, temperature {loss.temperature:g}",
            *([f"teacher: on {counted(own, 'device')} of its own"] if own else []),
            f"learns from {answers if share else 'the data'}",
        ]
