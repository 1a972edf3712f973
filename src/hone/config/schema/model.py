"""`policy`: the model that is trained, its batches, its optimizer, and where it is placed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from hone.config.paths import LocalName, TemplateOrPath
from hone.config.schema.base import ConfigModel, Count, Derived, Precision, TopK, derived, section
from hone.config.schema.lora import LoraConfig


class TokenizerConfig(ConfigModel):
    """The tokenizer and its chat template."""

    name: Derived[LocalName] = derived("${policy.model_name}")
    """Tokenizer name or folder; the model's own if not given."""
    chat_template: TemplateOrPath | None = "default"
    """`default`: the tokenizer's own. null: contents of the messages one after another.
    Else the name of one of several that the tokenizer has, a Jinja template, or the path of a file that holds one."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Further variables for the chat template, such as `enable_thinking`."""


class OptimizerConfig(ConfigModel):
    """An optimizer class and its arguments."""

    name: str = "torch.optim.AdamW"
    """Dotted name of a `torch.optim.Optimizer` class."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class SchedulerEntry(ConfigModel):
    """One phase of the learning rate, or (last entry) the steps at which one phase gives way to the next."""

    name: str | None = None
    """Dotted name of a `torch.optim.lr_scheduler` class."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class."""
    milestones: list[int] | None = None
    """Steps at which the next phase begins; makes the phases a `SequentialLR`."""


def _one_is_a_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


Scheduler = Annotated[list[SchedulerEntry] | None, BeforeValidator(_one_is_a_list)]


class TokenBudgetConfig(ConfigModel):
    """Micro-batches that are filled up to a budget of tokens."""

    enabled: bool = False
    """Fill micro-batches by tokens rather than by count of sequences."""
    train_mb_tokens: Derived[Count] = derived(
        "${mul:${policy.max_total_sequence_length},${policy.train_micro_batch_size}}"
    )
    """Tokens of a micro-batch in training."""
    logprob_mb_tokens: Derived[Count] = derived(
        "${mul:${policy.max_total_sequence_length},${policy.logprob_batch_size}}"
    )
    """Tokens of a micro-batch when only log-probabilities are computed."""


class DynamicBatchingConfig(TokenBudgetConfig):
    """Micro-batches of similar lengths, filled up to a budget of padded tokens."""

    sequence_length_round: int = Field(64, ge=1)
    """Padded lengths are rounded up to a multiple of this."""


class SequencePackingConfig(TokenBudgetConfig):
    """Several sequences end to end in one row, none of which sees another."""

    enabled: bool = False
    """Pack sequences, up to the budget of tokens. Without packing, completions of one prompt share it."""


class ModelConfig(ConfigModel):
    """The model that is trained."""

    part: ClassVar[str] = "policy"
    """The section that these settings are, which is the model's name in a checkpoint."""
    has_scalar_head: ClassVar[bool] = False
    """Whether its head says one number (a reward or value model) rather than what comes next."""
    sequences_per_unit: ClassVar[int] = 1
    """Sequences that sizes of batches count as one: 2 where they count pairs."""

    model_name: LocalName = "hone/tiny"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    trust_remote_code: bool = False
    """Run the Python code that the model's or the tokenizer's folder brings, where transformers has none for it. It
    runs with your rights: read it first."""
    hf_config_overrides: dict[str, Any] = Field(default_factory=dict)
    """Values that replace those of the model's own config.json."""
    train_global_batch_size: int = Field(32, ge=1)
    """Sequences per optimizer step, over all devices."""
    train_micro_batch_size: Count | None = None
    """Sequences per forward and backward on one device; null: chosen to fit it. Changes memory and speed, never the
    result."""
    logprob_batch_size: Derived[Count] = derived("${policy.train_micro_batch_size}")
    """Sequences per forward when only log-probabilities are computed."""
    max_total_sequence_length: int = Field(1024, ge=2)
    """Longest sequence, prompt and completion together, in tokens."""
    precision: Precision = "bfloat16"
    """Number format of the forward and backward. The optimizer's copy of the weights stays float32."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Gradients are clipped to this global norm; null: not clipped."""
    optimizer: OptimizerConfig = section(OptimizerConfig)
    scheduler: Scheduler = None
    """Learning-rate phases in order: `[{name, kwargs}, …, {milestones: […]}]`; null: constant."""
    dynamic_batching: DynamicBatchingConfig = section(DynamicBatchingConfig)
    sequence_packing: SequencePackingConfig = section(SequencePackingConfig)
    disable_dropout: bool = True
    """Turn off the dropout that the model came with (GPT-2's 0.1), so that ratios to old and reference
    log-probabilities begin at 1. An adapter's is `lora.dropout`. Where any is on, a sample's is the same in every
    forward."""
    router_aux_loss_coef: float | None = Field(None, ge=0)
    """Weight of the balancing loss of a mixture of experts (arXiv 2101.03961), counted over the global batch at the
    cost of one forward more and reported as `router_aux_loss`. null: the model's own where its config has
    output_router_logits, else 0."""
    activation_checkpointing: bool | None = None
    """Recompute activations in the backward: less memory, about a third slower. Same result. null: where it is
    needed to fit."""
    logprob_chunk_size: int | None = Field(None, ge=1)
    """Target tokens per chunk of the output layer; null: chosen. Changes memory, not the result."""
    tensor_parallel_size: Count | None = None
    """Devices that share each layer; null: 1, or more of a node where that is needed to fit."""
    context_parallel_size: int = Field(1, ge=1)
    """Devices that share each sequence."""
    pipeline_parallel_size: int = Field(1, ge=1)
    """Devices that each hold some of the layers."""
    dp_replicate_size: int = Field(1, ge=1)
    """Groups of data-parallel devices that each hold a whole copy of the sharded model."""
    sequence_parallel: bool = False
    """With tensor parallelism: also share the parts between the layers along the sequence."""
    cpu_offload: bool | None = None
    """Keep weights, gradients and optimizer state in host memory between uses; slow. null: where nothing else fits."""
    lora: LoraConfig = section(LoraConfig)


class SamplingConfig(ConfigModel):
    """How completions are sampled."""

    backend: Literal["auto", "builtin", "vllm"] = "auto"
    """`builtin`: Hone's own generator; `vllm`; `auto`: the best that is there."""
    max_new_tokens: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Longest completion; a prompt leaves at most max_total_sequence_length minus its own length."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability; 1.0: from all."""
    top_k: TopK = None
    """Sample from the k likeliest tokens; null, 0 or -1: from all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Sample from the tokens that are at least this part as likely as the likeliest; 0: from all."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1, tokens that the prompt or the completion has already are less likely to come; 1: off, as `hone grpo` and
    `hone ppo` want it, whose learner knows of no penalty."""
    min_new_tokens: int = Field(0, ge=0)
    """Nothing ends a completion before it has so many tokens."""
    ignore_eos: bool = False
    """The model's end-of-sequence tokens end nothing; stop_token_ids and stop_strings do."""
    stop_token_ids: list[int] | None = None
    """Tokens that end a completion, besides every end-of-sequence token of the model."""
    stop_strings: list[str] | None = None
    """Texts that end a completion."""


class GenerationConfig(SamplingConfig):
    """How completions are sampled, in training and in validation."""

    val_temperature: Derived[Annotated[float, Field(ge=0)]] = derived("${.temperature}")
    """Temperature in validation."""
    val_top_p: Derived[Annotated[float, Field(gt=0, le=1)]] = derived("${.top_p}")
    """top_p in validation."""
    val_top_k: TopK = derived("${.top_k}")
    """top_k in validation."""
    val_min_p: Derived[Annotated[float, Field(ge=0, le=1)]] = derived("${.min_p}")
    """min_p in validation."""
    val_repetition_penalty: Derived[Annotated[float, Field(gt=0)]] = derived("${.repetition_penalty}")
    """repetition_penalty in validation."""
