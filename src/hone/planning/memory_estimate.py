"""Bytes that each device holds, by kind: arithmetic on a model's sizes; no weight is read.

Weights, gradients and optimizer state are fp32, sharded by FSDP2; `policy.precision` is autocast's. Training and
generating each hold more on top of what is resident.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hone.config import OnlineConfig, TrainingConfig
from hone.config.schema.model import LoraConfig, ModelConfig, OptimizerConfig
from hone.model.adapters import trained_settings
from hone.model.linear_logprobs import ACCELERATOR_CHUNKS, CHUNK_ELEMENTS, KEEP_ELEMENTS
from hone.model.model_size import Linear, ModelSize
from hone.planning.cpu import generator_precision, transposed_bytes
from hone.planning.parallel_dims import ParallelDims
from hone.planning.placement import vllm_generates

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FP32 = 4


@dataclass(frozen=True)
class Settings:
    """What the planner may choose. It changes memory and speed, and results by rounding alone."""

    micro_batch: int
    activation_checkpointing: bool = False
    tensor: int = 1
    sequence_parallel: bool = False
    cpu_offload: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one device by kind; `host`: what the rank keeps in host memory instead."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    """FSDP's unsharded weights (two blocks, and what is outside the blocks) and gradients."""
    cast: int
    """Weights in the precision of the matrix products, which the backward keeps."""
    activations: int
    logits: int
    """A tile of logits, and the output layer's gradient before it is added up."""
    reference: int = 0
    generator: int = 0
    """The generator's own copy of the weights."""
    cache: int = 0
    """Keys and values of the sequences that are generated at once."""
    transposed: int = 0
    """Copies of the matrices that a CPU decodes from."""
    host: int = 0
    value: int = 0
    """Weights, gradients and optimizer state of the value model."""
    value_training: int = 0
    """What its training takes in addition: as `gathered`, `cast` and `activations` for the policy."""
    teacher: int = 0
    """The teacher's weights."""
    teacher_reading: int = 0
    """What its forward takes in addition: a block gathered and cast, a layer's activations, a tile of logits."""

    @property
    def resident(self) -> int:
        """Held all the time."""
        others = self.reference + self.generator + self.value + self.teacher
        return self.weights + self.gradients + self.optimizer + others

    @property
    def peak(self) -> int:
        """The most that is held at once: the phases take turns."""
        training = self.gathered + self.cast + self.activations + self.logits
        return self.resident + max(training, self.value_training, self.teacher_reading, self.generating)

    @property
    def generating(self) -> int:
        """What generation takes in addition."""
        return self.cache + self.transposed

    @property
    def phase(self) -> str:
        """The phase with the peak."""
        is_generating = self.generating and self.peak == self.resident + self.generating
        return "generating" if is_generating else "training"


def estimate_memory(
    model: ModelSize, config: TrainingConfig, dims: ParallelDims, settings: Settings, *, on_cpu: bool = False
) -> MemoryEstimate:
    """What each device of a mesh holds. What `settings` has is not read from the configuration."""
    policy = config.policy
    held = _trained(model, policy, dims, settings)
    if isinstance(config, OnlineConfig):
        sharded, colocated = (
            dims.world > 1 or settings.cpu_offload,
            config.policy.generation.colocated.enabled and not vllm_generates(config),
        )
        ranks = dims.shard * dims.context * dims.tensor
        in_base = policy.lora.enabled and policy.lora.base_is_initial_model
        keeps_reference = config.uses_reference_model and not in_base
        held = replace(
            held,
            reference=_share(FP32 * model.parameters, ranks) if keeps_reference else 0,
            generator=_generator_size(config, on_cpu) * model.parameters if sharded and colocated else 0,
            cache=cache_bytes(model, config, shared=not sharded, on_cpu=on_cpu) if colocated else 0,
            transposed=transposed_bytes(model) if colocated and on_cpu else 0,
        )
    if (teacher := config.teacher_model) and model.teacher and not config.cluster.reserved_devices:
        held = _with_teacher(held, model.teacher, teacher, dims, settings)
    if (value := config.critic) and model.value:
        own = replace(settings, micro_batch=value.train_micro_batch_size or settings.micro_batch)
        of_value = _trained(model.value, value, dims, own)
        held = replace(
            held,
            value=of_value.resident,
            value_training=of_value.gathered + of_value.cast + of_value.activations,
            host=held.host + of_value.host,
        )
    return held


def _with_teacher(
    held: MemoryEstimate, model: ModelSize, teacher: ModelConfig, dims: ParallelDims, settings: Settings
) -> MemoryEstimate:
    """The same with a teacher beside the policy, of which one layer computes at a time."""
    own = replace(
        settings,
        micro_batch=teacher.logprob_batch_size or settings.micro_batch,
        activation_checkpointing=True,  # nothing is kept for a backward
    )
    sharded = dims.world > 1 or settings.cpu_offload
    reading = (
        (_gathered(model, dims, lora=True) if sharded else 0)
        + _cast(model, BYTES[teacher.precision], own)
        + _activations(replace(model, layers=1), teacher, dims, own)
        + _logits(model, teacher, dims, own)
    )
    weights = _share(FP32 * model.parameters, dims.shard * dims.context * dims.tensor)
    if settings.cpu_offload:
        return replace(held, teacher_reading=reading, host=held.host + weights)
    return replace(held, teacher=weights, teacher_reading=reading)


def _trained(model: ModelSize, policy: ModelConfig, dims: ParallelDims, settings: Settings) -> MemoryEstimate:
    """A model that is trained: its weights, gradients and optimizer state, and what a forward and backward take."""
    lora, offload = policy.lora.enabled, settings.cpu_offload
    adapters = adapter_parameters(model, policy.lora) if lora else 0
    constants = adapter_constants(model, policy.lora) if lora else 0
    ranks = dims.shard * dims.context * dims.tensor
    trained = adapters if lora else model.parameters
    numbers = model.parameters + adapters + constants
    weights = _share(FP32 * numbers - _saved_by_4bit(model, policy.lora), ranks)
    gradients = _share(FP32 * trained, ranks)
    states = _share(state_bytes(policy.optimizer) * trained, ranks)
    return MemoryEstimate(
        weights=0 if offload else weights,
        gradients=0 if offload else gradients,
        optimizer=0 if offload else states,
        gathered=_gathered(model, dims, lora=lora) if dims.world > 1 or offload else 0,
        cast=_cast(model, BYTES[policy.precision], settings),
        activations=_activations(model, policy, dims, settings),
        logits=_logits(model, policy, dims, settings),
        host=weights + gradients + states if offload else 0,
    )


def generator_bytes(model: ModelSize, config: OnlineConfig, *, on_cpu: bool = False) -> tuple[int, int]:
    """Weights, with the copies that a CPU decodes from, and keys and values, of a generator on a device of its own."""
    adapters = adapter_parameters(model, config.policy.lora) if config.policy.lora.enabled else 0
    weights = _generator_size(config, on_cpu) * (model.parameters + adapters)
    copies = transposed_bytes(model) if on_cpu else 0
    return weights + copies, cache_bytes(model, config, shared=False, on_cpu=on_cpu)


def _generator_size(config: OnlineConfig, on_cpu: bool) -> int:
    """Bytes of a number of the generator's weights, keys and values."""
    return BYTES[generator_precision(config.policy.precision, on_cpu=on_cpu)]


def tokens(policy: ModelConfig, micro_batch: int) -> int:
    """Most tokens that one forward and backward holds: a budget that was given, else the micro-batch's."""
    for budget in (policy.sequence_packing, policy.dynamic_batching):
        if budget.enabled and budget.train_mb_tokens is not None:
            return budget.train_mb_tokens
    return micro_batch * policy.sequences_per_unit * policy.max_total_sequence_length


def adapter_parameters(model: ModelSize, lora: LoraConfig) -> int:
    """Parameters of LoRA's two matrices at every linear layer that gets them. AdaLoRA has a number for each direction
    besides, DoRA one for each row of the layer."""
    lora = trained_settings(lora)
    single, rows = int(lora.adalora.enabled), int(lora.use_dora)
    return sum(
        (lora.rank * (linear.inputs + linear.outputs + single) + rows * linear.outputs) * linear.count
        for linear in _adapted(model, lora)
    )


def _saved_by_4bit(model: ModelSize, lora: LoraConfig) -> int:
    """Bytes that 4 bits save: half a byte for each number of a linear layer, a scale (fp32) for every 64 of them."""
    if not (lora.enabled and lora.load_in_4bit):
        return 0
    numbers = sum(linear.inputs * linear.outputs * linear.count for linear in model.linears)
    return FP32 * numbers - numbers // 2 - FP32 * numbers // 64


def adapter_constants(model: ModelSize, lora: LoraConfig) -> int:
    """Numbers of the adapters that are not trained: AdaLoRA keeps each matrix's first rank."""
    return sum(linear.count for linear in _adapted(model, lora)) if lora.adalora.enabled else 0


def _adapted(model: ModelSize, lora: LoraConfig) -> list[Linear]:
    """The layers that get an adapter."""
    return [
        linear
        for linear in model.linears
        if (not lora.target_modules or linear.name in lora.target_modules)
        and linear.name not in lora.exclude_modules
    ]


def state_bytes(optimizer: OptimizerConfig) -> int:
    """Bytes of optimizer state per trained parameter; what is not known is taken to be like Adam."""
    given, name = optimizer.kwargs, optimizer.name.rpartition(".")[2]
    if name == "SGD":
        return FP32 if given.get("momentum") else 0
    if name == "RMSprop":
        return FP32 * (1 + bool(given.get("momentum")) + bool(given.get("centered")))
    if name == "Adagrad":
        return FP32
    return FP32 * (3 if given.get("amsgrad") else 2)


def cache_bytes(model: ModelSize, config: OnlineConfig, *, shared: bool, on_cpu: bool = False) -> int:
    """Keys and values of `generation_batch_size` sequences of full length, or of `kv_cache_tokens`. Under autocast,
    with the learner's own weights (`shared`), rotated keys come out in fp32."""
    policy = config.policy
    size = _generator_size(config, on_cpu)
    each = model.kv_heads * model.head_dim * ((FP32 if shared else size) + size)
    tokens = policy.generation_batch_size * policy.max_total_sequence_length
    if policy.generation.continuous_batching:
        tokens = policy.generation.kv_cache_tokens or tokens
    return each * model.layers * tokens


def _share(total: int, ranks: int) -> int:
    return -(-total // ranks)


def _gathered(model: ModelSize, dims: ParallelDims, *, lora: bool) -> int:
    """Weights: a block that computes, the next one on its way, and what is outside of the blocks for the whole step.
    Gradients of a block and of the outside, before they are scattered."""
    weights = 2 * model.block + model.non_block
    gradients = 0 if lora else model.block + model.non_block
    return _share(FP32 * (weights + gradients), dims.tensor)


def _cast(model: ModelSize, size: int, settings: Settings) -> int:
    """Autocast makes a copy of each matrix, and the graph holds it until the backward has used it. With activation
    checkpointing the graph is made again block by block."""
    if size == FP32:
        return 0
    head = 0 if model.scalar else model.vocabulary * model.hidden
    all_used = model.parameters - (0 if model.tied else model.embedding)
    used = model.block + head if settings.activation_checkpointing else all_used
    return _share(size * used, settings.tensor)


def _activations(model: ModelSize, policy: ModelConfig, dims: ParallelDims, settings: Settings) -> int:
    """What the backward needs of each layer, after Korthikanti et al. 2022 (arXiv 2205.05198) section 4.1, for the
    layers of today: no dropout, an MLP with a gate, an fp32 stream between the layers.

    Both norms keep their input and its normalised value in fp32. Autocast hands each of the five matrices that read a
    norm its own copy (in fp32 the two norms' outputs are shared). Attention keeps query, key, value and its result
    twice, the MLP four vectors of its inner size.
    """
    size, h = BYTES[policy.precision], model.hidden
    here = _share(tokens(policy, settings.micro_batch), dims.context)
    between = settings.tensor if settings.sequence_parallel else 1
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    norms = 4 * FP32 * h // between
    inputs = (2 if size == FP32 else 5) * size * h
    inside = size * (3 * queries + 2 * keys + 4 * model.intermediate) // settings.tensor
    layer = (
        norms
        + inputs
        + inside
        + (_scores(model, policy, size) // settings.tensor if model.keeps_attention_scores else 0)
    )
    end = (2 * FP32 + size) * h
    stream = FP32 * h // between
    kept = model.layers * stream + layer if settings.activation_checkpointing else model.layers * layer
    return here * (kept + end)


def _scores(model: ModelSize, policy: ModelConfig, size: int) -> int:
    """Of a token: its scores with all others in each head, capped, and after the softmax in fp32; keys and values
    once per query head."""
    copies = size if size != FP32 else 0
    repeated = 2 * (model.heads - model.kv_heads) * model.head_dim * size
    return model.heads * policy.max_total_sequence_length * (size + FP32 + copies) + repeated


def _logits(model: ModelSize, policy: ModelConfig, dims: ParallelDims, settings: Settings) -> int:
    """As `model/linear_logprobs.py` computes them: a tile in fp32 and in the precision of the products, as many of
    them as it keeps on an accelerator, and the gradient of the whole matrix. A head that is not a plain matrix has
    all at once, a scalar one none."""
    if model.scalar:
        return 0
    size = BYTES[policy.precision]
    product = 0 if size == FP32 else size
    width = _share(model.vocabulary, settings.tensor)
    elements = _share(tokens(policy, settings.micro_batch), dims.context) * width
    tile = 2 * elements if not model.plain_head else min(CHUNK_ELEMENTS * ACCELERATOR_CHUNKS, elements)
    kept = min(elements, KEEP_ELEMENTS) if policy.logprob_chunk_size is None and model.plain_head else 0
    gradient = 0 if policy.lora.enabled else width * model.hidden
    return (tile + gradient) * (FP32 + product) + kept * size
