"""`policy`: the model that is trained, its tokenizer, batches, optimizer, parallelism, and how it samples."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from hone.config.paths import LocalName, TemplateOrPath
from hone.config.schema.base import ConfigModel, Count, Derived, Precision, TopK, derived, section
from hone.config.schema.lora import LoraConfig
from hone.config.schema.vllm import VLLMConfig


class TokenizerConfig(ConfigModel):
    """The tokenizer and its chat template."""

    name: Derived[LocalName] = derived("${policy.model_name}")
    """Tokenizer name or folder; default: the model's own."""
    chat_template: TemplateOrPath | None = "default"
    """`default`: the tokenizer's own template. null: the messages' contents, concatenated. Otherwise the name of one
    of the tokenizer's templates, a Jinja template, or the path of a file that holds one."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables passed to the chat template, such as `enable_thinking`."""


def adamw(lr: float, weight_decay: float = 0.01, beta2: float = 0.999, eps: float = 1.0e-8) -> Any:
    """A field whose default is these arguments of AdamW."""
    return Field(
        default_factory=lambda: {"lr": lr, "weight_decay": weight_decay, "betas": [0.9, beta2], "eps": eps}
    )


class OptimizerConfig(ConfigModel):
    """An optimizer class and its arguments."""

    name: str = "torch.optim.AdamW"
    """Dotted name of a `torch.optim.Optimizer` class."""
    kwargs: dict[str, Any] = adamw(lr=5.0e-6)
    """Arguments of the class: lr, weight_decay, betas, eps …"""


class SchedulerEntry(ConfigModel):
    """One phase of the learning-rate schedule, or (last entry) the steps at which the next phase begins."""

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
    """Micro-batches filled up to a budget of tokens."""

    enabled: bool = False
    """Fill micro-batches by number of tokens rather than of sequences."""
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
    """Several sequences packed into one row; no sequence attends to another."""

    enabled: bool = False
    """Pack sequences up to the budget of tokens. Without packing, the completions of a prompt share its
    computation."""


class ModelConfig(ConfigModel):
    """The model that is trained."""

    part: ClassVar[str] = "policy"
    """The name of this section, which is also the model's name in a checkpoint."""
    has_scalar_head: ClassVar[bool] = False
    """Whether the head outputs one number (a reward or value model) rather than logits over the vocabulary."""
    sequences_per_unit: ClassVar[int] = 1
    """Sequences in one unit of a batch size: 2 where batch sizes count pairs."""

    model_name: LocalName = "hone/tiny"
    """Hugging Face name or folder of the model; or an embedded one: `hone/tiny`, `hone/tiny-sft`."""
    tokenizer: TokenizerConfig = section(TokenizerConfig)
    trust_remote_code: bool = False
    """Run the Python code in the model's or the tokenizer's folder, where transformers has none for it. The code runs
    with your permissions: read it first."""
    hf_config_overrides: dict[str, Any] = Field(default_factory=dict)
    """Values that override those in the model's config.json."""
    train_global_batch_size: int = Field(32, ge=1)
    """Sequences per optimizer step, over all devices."""
    train_micro_batch_size: Count | None = None
    """Sequences per forward and backward pass on one device; null: as many as fit. Changes memory and speed, never the
    result."""
    logprob_batch_size: Derived[Count] = derived("${policy.train_micro_batch_size}")
    """Sequences per forward pass when only log-probabilities are computed."""
    max_total_sequence_length: int = Field(1024, ge=2)
    """Longest sequence, prompt and completion together, in tokens."""
    precision: Precision = "bfloat16"
    """Number format of forward and backward passes. The optimizer's copy of the weights is always float32."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Gradients are clipped to this global norm; null: not clipped."""
    optimizer: OptimizerConfig = section(OptimizerConfig)
    scheduler: Scheduler = None
    """Learning-rate phases in order: `[{name, kwargs}, …, {milestones: […]}]`; null: constant."""
    dynamic_batching: DynamicBatchingConfig = section(DynamicBatchingConfig)
    sequence_packing: SequencePackingConfig = section(SequencePackingConfig)
    disable_dropout: bool = True
    """Turn off the model's own dropout (0.1 in GPT-2), so that ratios to old and reference log-probabilities begin at
    1. Adapters have `lora.dropout`. Where dropout is on, a sample's dropout mask is the same in every forward
    pass."""
    router_aux_loss_coef: float | None = Field(None, ge=0)
    """Weight of the load-balancing loss of a mixture of experts (arXiv 2101.03961). It is computed over the global
    batch, which costs one more forward pass, and reported as `router_aux_loss`. null: the model's own weight if its
    config.json sets output_router_logits, else 0."""
    activation_checkpointing: bool | None = None
    """Recompute activations in the backward pass: less memory, about a third slower, same result. null: if needed to
    fit the memory."""
    logprob_chunk_size: int | None = Field(None, ge=1)
    """Target tokens per chunk of the output layer; null: chosen by the planner. Changes memory, not the result."""
    tensor_parallel_size: Count | None = None
    """Devices that share each layer; null: 1, or more devices of a node if needed to fit the memory."""
    context_parallel_size: int = Field(1, ge=1)
    """Devices that share each sequence."""
    pipeline_parallel_size: int = Field(1, ge=1)
    """Devices that each hold some of the layers."""
    dp_replicate_size: int = Field(1, ge=1)
    """Data-parallel replicas, each of which shards a whole copy of the model (HSDP)."""
    sequence_parallel: bool = False
    """With tensor parallelism: also shard the activations between the layers along the sequence."""
    cpu_offload: bool | None = None
    """Keep weights, gradients and optimizer state in host memory between uses; slow. null: if nothing else fits."""
    lora: LoraConfig = section(LoraConfig)


class SamplingConfig(ConfigModel):
    """How completions are sampled."""

    backend: Literal["auto", "builtin", "vllm", "openai"] = "auto"
    """`builtin`: Hone's own generator. `vllm`: vLLM servers, which the run starts or finds by URL; where vLLM is not
    installed, Hone's own samples, and a notice says so. `openai`: an endpoint with OpenAI's API, for `hone eval` only.
    `auto`: `builtin`."""
    vllm_cfg: VLLMConfig = section(VLLMConfig)
    vllm_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `vllm serve`, such as `{max_num_seqs: 512, enable_expert_parallel: true}`."""
    continuous_batching: bool = False
    """In the built-in generator (vLLM always does it): completions join the batch as others leave it. Faster where
    lengths differ. The same tokens; their log-probabilities differ from those of fixed batches by rounding."""
    kv_cache_tokens: Count | None = None
    """Tokens whose keys and values the continuous batch may hold; a completion that does not fit waits. null: what its
    sequences need."""
    num_speculative_tokens: int = Field(0, ge=0)
    """Draft tokens that a step checks at once, taken from where the last tokens occurred before; 0: none. The sampled
    tokens are the same."""
    prompt_lookup_max: int = Field(4, ge=2)
    """Tokens of the longest text that is looked up for drafts."""
    max_new_tokens: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Maximum tokens of a completion. Prompt and completion together have at most max_total_sequence_length."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with at least this total probability; 1.0: from all tokens."""
    top_k: TopK = None
    """Sample from the k most likely tokens; null, 0 or -1: from all tokens."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Sample from tokens whose probability is at least min_p times that of the most likely token; 0: from all
    tokens."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1: tokens that are already in the prompt or the completion become less likely. 1: off, which training on
    samples requires, since the learner applies no penalty."""
    min_new_tokens: int = Field(0, ge=0)
    """Minimum tokens of a completion."""
    ignore_eos: bool = False
    """Do not stop at the model's end-of-sequence tokens, only at stop_token_ids and stop_strings."""
    stop_token_ids: list[int] | None = None
    """Tokens that end a completion, besides every end-of-sequence token of the model."""
    stop_strings: list[str] | None = None
    """Texts that end a completion."""


class GeneratorResourcesConfig(ConfigModel):
    """Devices that generators have for themselves, out of those of `cluster`."""

    gpus_per_node: int | None = Field(None, ge=1)
    """On one machine: so many of its GPUs (or CPU processes, where cluster.cpu_workers_per_node is given) generate,
    each with a whole model; the others learn."""
    num_nodes: int | None = Field(None, ge=1)
    """On several machines: so many of them generate, with all of their devices."""


class ColocatedConfig(ConfigModel):
    """Where completions are sampled."""

    enabled: bool = True
    """Generate on the learner's devices, in its processes. false: in processes and on devices of their own
    (`resources`); without a second device, in one process beside the learner's on the CPU."""
    resources: GeneratorResourcesConfig = section(GeneratorResourcesConfig)


class GenerationConfig(SamplingConfig):
    """How completions are sampled, in training and in validation."""

    colocated: ColocatedConfig = section(ColocatedConfig)
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
