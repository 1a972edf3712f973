"""The configuration of `hone distill`, with the names of upstream's distillation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hone.config.paths import LocalName, LocalPath
from hone.config.schema.base import ConfigModel, Count, Derived, Precision, derived, section
from hone.config.schema.model import ModelConfig
from hone.config.schema.online import OnlineConfig, OnlineOptimizerConfig, OnlinePolicyConfig, OnlineSection
from hone.config.schema.run import ClusterConfig, OnlineCheckpointingConfig

Share = Annotated[float, Field(ge=0, le=1)]


class DistillLossConfig(ConfigModel):
    """How the student's distribution is compared with the teacher's, at every token of an answer."""

    kl_type: Literal["forward", "reverse", "mixed", "jsd"] = "mixed"
    """`forward`: KL(teacher || student). `reverse`: KL(student || teacher). `mixed`: both, weighted. `jsd`: the
    generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649)."""
    mixed_kl_weight: Share = 0.5
    """mixed: weight of the forward KL; the reverse one has the rest."""
    jsd_beta: Share = 0.5
    """jsd: weight of the teacher in the mixture that both are compared with; 0 is the forward KL, 1 the reverse one."""
    zero_outside_topk: bool = False
    """false: both distributions are made to sum to 1 over the teacher's top k. true: the teacher's only, which has
    nothing outside of them, and the student pays for what it has there."""
    temperature: Derived[Annotated[float, Field(gt=0)]] = derived("${policy.generation.temperature}")
    """Divides the logits of both before they are compared."""


class DistillSection(OnlineSection):
    """Learning from a teacher's distribution over what comes next: prompts, answers, validation."""

    num_prompts_per_step: int = Field(128, ge=1)
    """Prompts of each step."""
    num_generations_per_prompt: int = Field(1, ge=1)
    """Completions of each prompt."""
    topk_logits_k: int = Field(64, ge=1)
    """So many of the teacher's likeliest tokens are looked at; the size of the vocabulary: all of them."""
    on_policy_fraction: Share = 1.0
    """Share of the steps in which the student's own completions are learnt from (GKD's lambda), evenly spread; in the
    others the data's answers are. 0: nothing is sampled but for validation."""

    def is_on_policy_step(self, step: int) -> bool:
        """Whether the answers of a step, from 1, are the student's own."""
        share = self.on_policy_fraction
        return int(step * share + 1e-9) > int((step - 1) * share + 1e-9)


class TeacherTokenizerConfig(ConfigModel):
    """The teacher's tokenizer: it reads the student's tokens, so its vocabulary is the student's."""

    name: Derived[LocalName] = derived("${teacher.model_name}")
    """Tokenizer name or folder, compared with the policy's before any weight is loaded."""


class TeacherBatchingConfig(ConfigModel):
    """Micro-batches of similar lengths, filled up to a budget of padded tokens."""

    enabled: Derived[bool] = derived("${policy.dynamic_batching.enabled}")
    """Fill micro-batches by tokens rather than by count of sequences."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${teacher.max_total_sequence_length},${teacher.logprob_batch_size}}"
    )
    """Tokens that the teacher reads at once."""
    sequence_length_round: int = Field(64, ge=1)
    """Padded lengths are rounded up to a multiple of this."""


class TeacherPackingConfig(ConfigModel):
    """Several sequences end to end in one row, none of which sees another."""

    enabled: Derived[bool] = derived("${policy.sequence_packing.enabled}")
    """Pack sequences, up to the budget of tokens. Without packing, completions of one prompt share it."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${teacher.max_total_sequence_length},${teacher.logprob_batch_size}}"
    )
    """Tokens that the teacher reads at once."""


class TeacherConfig(ConfigModel):
    """The model that is learnt from, and never changed. It lies on the policy's devices, spread as the policy is, or on
    devices of its own (`cluster.teacher_devices`), spread over all of them."""

    model_name: LocalName = "hone/tiny-sft"
    """Hugging Face name or folder of the model; or an embedded one."""
    tokenizer: TeacherTokenizerConfig = section(TeacherTokenizerConfig)
    trust_remote_code: bool = False
    """Run the Python code that the model's or the tokenizer's folder brings, where transformers has none for it. It
    runs with your rights: read it first."""
    hf_config_overrides: dict[str, Any] = Field(default_factory=dict)
    """Values that replace those of the model's own config.json."""
    logprob_batch_size: Derived[Count] = derived("${policy.logprob_batch_size}")
    """Sequences that the teacher reads at once on one device. Changes memory and speed, never the result."""
    max_total_sequence_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Longest sequence in tokens: at least the policy's."""
    precision: Derived[Precision] = derived("${policy.precision}")
    """Number format of the forward."""
    logprob_chunk_size: int | None = Field(None, ge=1)
    """Target tokens per chunk of the output layer; null: chosen. Changes memory, not the result."""
    dynamic_batching: TeacherBatchingConfig = section(TeacherBatchingConfig)
    sequence_packing: TeacherPackingConfig = section(TeacherPackingConfig)

    def as_model_config(self, policy: ModelConfig) -> ModelConfig:
        """The settings of a frozen model: these, and the policy's where it lies."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        for name in ("tokenizer", "dynamic_batching", "sequence_packing"):
            own[name] = getattr(policy, name).model_copy(update=dict(own[name]))
        own["lora"] = policy.lora.model_copy(update={"enabled": False, "adapter_path": None})
        for way in (
            "dynamic_batching",
            "sequence_packing",
        ):  # there is no other reading than that of log-probabilities
            own[way].train_mb_tokens = own[way].logprob_mb_tokens
        return policy.model_copy(update={**own, "activation_checkpointing": False, "disable_dropout": True})


class DistillClusterConfig(ClusterConfig):
    """The machines a run is for."""

    teacher_devices: int | None = Field(None, ge=1)
    """GPUs (or processes on the CPU, where cpu_workers_per_node is given) for the teacher alone, beside the policy's,
    all on one machine; null: it lies on the policy's."""

    @property
    def reserved_devices(self) -> int:
        """The teacher's."""
        return self.teacher_devices or 0


def _adamw() -> dict[str, Any]:
    return {"lr": 2.0e-5, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1.0e-8}


class DistillOptimizerConfig(OnlineOptimizerConfig):
    """An optimizer class and its arguments."""

    kwargs: dict[str, Any] = Field(default_factory=_adamw)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class DistillPolicyConfig(OnlinePolicyConfig):
    """The student, and how it samples."""

    model_name: LocalName = "hone/tiny"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    train_global_batch_size: int = Field(128, ge=1)
    """Answers per optimizer step, over all devices; divides prompts × generations of a step."""
    optimizer: DistillOptimizerConfig = section(DistillOptimizerConfig)


class DistillCheckpointingConfig(OnlineCheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    checkpoint_dir: LocalPath = "results/distill"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""


class DistillConfig(OnlineConfig):
    """All settings of `hone distill`."""

    policy: DistillPolicyConfig = section(DistillPolicyConfig)
    teacher: TeacherConfig = section(TeacherConfig)
    distillation: DistillSection = section(DistillSection)
    loss_fn: DistillLossConfig = section(DistillLossConfig)
    checkpointing: DistillCheckpointingConfig = section(DistillCheckpointingConfig)
    cluster: DistillClusterConfig = section(DistillClusterConfig)

    @property
    def loop(self) -> DistillSection:
        """How long the run is, when it validates, what it draws with: the command's own section."""
        return self.distillation
