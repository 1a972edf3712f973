"""The bytes that one device holds, by kind: arithmetic on the sizes of a model, without a weight.

Weights, gradients and optimizer state are fp32, spread by FSDP2 over the ranks; `policy.precision` is what autocast
computes in. Two phases hold different things on top of what is resident: training, and (GRPO) generating.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hone.config import OnlineConfig, TrainingConfig
from hone.config.schema.distill import DistillConfig
from hone.config.schema.model import LoraConfig, ModelConfig, OptimizerConfig
from hone.config.schema.ppo import PPOConfig
from hone.config.schema.sft import SFTConfig
from hone.model.adapters import trained_settings
from hone.model.linear_logprobs import ACCELERATOR_CHUNKS, CHUNK_ELEMENTS, KEEP_ELEMENTS
from hone.model.model_size import Linear, ModelSize
from hone.planning.parallel_dims import ParallelDims

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FP32 = 4


@dataclass(frozen=True)
class Settings:
    """What Hone may choose of a run. Changes memory and speed, never the result (beyond rounding)."""

    micro_batch: int
    activation_checkpointing: bool = False
    tensor: int = 1
    sequence_parallel: bool = False
    cpu_offload: bool = False


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one device by kind; `host` is what the rank keeps in its machine's memory instead."""

    weights: int
    gradients: int
    optimizer: int
    reference: int
    generator: int
    """The generator's own copy of the weights."""
    gathered: int
    """FSDP's unsharded weights (two blocks and what is outside of them) and gradients."""
    cast: int
    """Weights in the precision that is computed in, which the backward keeps."""
    activations: int
    logits: int
    """A chunk of logits, and the output layer's gradient before it is added up."""
    cache: int
    """Keys and values of the sequences that are generated at once."""
    host: int = 0
    value: int = 0
    """Weights, gradients and optimizer state of the value model."""
    value_training: int = 0
    """What training it takes besides: as `gathered`, `cast` and `activations` for the policy."""
    teacher: int = 0
    """Weights of the teacher."""
    teacher_reading: int = 0
    """What asking it takes besides: a block gathered and cast, a layer's activations, a chunk of logits."""

    @property
    def resident(self) -> int:
        """Held all the time."""
        beside = self.reference + self.generator + self.value + self.teacher
        return self.weights + self.gradients + self.optimizer + beside

    @property
    def peak(self) -> int:
        """The most that is held at once: the phases take turns."""
        training = self.gathered + self.cast + self.activations + self.logits
        return self.resident + max(training, self.value_training, self.teacher_reading, self.cache)

    @property
    def phase(self) -> str:
        """The phase with the peak."""
        return "training" if self.peak > self.resident + self.cache or not self.cache else "generating"


def estimate_memory(
    shape: ModelSize, config: TrainingConfig, dims: ParallelDims, settings: Settings
) -> MemoryEstimate:
    """What each device of a mesh holds. `policy`'s own values of what `settings` has are not looked at."""
    held = _of_policy(shape, config, dims, settings)
    if (
        shape.teacher is not None
        and isinstance(config, DistillConfig)
        and not config.cluster.reserved_devices
    ):
        return _with_teacher(held, shape.teacher, config, dims, settings)
    if shape.beside is None or not isinstance(config, PPOConfig):
        return held
    value = config.value
    own = replace(settings, micro_batch=value.train_micro_batch_size or settings.micro_batch)
    beside = _of_policy(shape.beside, SFTConfig.model_construct(policy=value), dims, own)
    return replace(
        held,
        value=beside.resident,
        value_training=beside.gathered + beside.cast + beside.activations,
        host=held.host + beside.host,
    )


def _with_teacher(
    held: MemoryEstimate, shape: ModelSize, config: DistillConfig, dims: ParallelDims, settings: Settings
) -> MemoryEstimate:
    """The same with a frozen model beside it, of which no more than one layer computes at a time."""
    teacher = config.teacher.as_model_config(config.policy)
    own = replace(
        settings,
        micro_batch=teacher.logprob_batch_size or settings.micro_batch,
        activation_checkpointing=True,  # nothing is kept for a backward
    )
    sharded = dims.world > 1 or settings.cpu_offload
    reading = (
        (_gathered(shape, dims, lora=True) if sharded else 0)
        + _cast(shape, BYTES[teacher.precision], own)
        + _activations(replace(shape, layers=1), teacher, dims, own)
        + _logits(shape, teacher, dims, own)
    )
    weights = _share(FP32 * shape.parameters, dims.shard * dims.context * dims.tensor)
    offload = settings.cpu_offload
    return replace(
        held,
        teacher=0 if offload else weights,
        teacher_reading=reading,
        host=held.host + (weights if offload else 0),
    )


def _of_policy(
    shape: ModelSize, config: TrainingConfig, dims: ParallelDims, settings: Settings
) -> MemoryEstimate:
    policy = config.policy
    lora = policy.lora.enabled
    adapters = adapter_parameters(shape, policy.lora) if lora else 0
    fixed = adapter_constants(shape, policy.lora) if lora else 0
    ranks = dims.shard * dims.context * dims.tensor
    size = BYTES[policy.precision]
    trained = adapters if lora else shape.parameters
    weights = _share(FP32 * (shape.parameters + adapters + fixed) - _spared(shape, policy.lora), ranks)
    gradients = _share(FP32 * trained, ranks)
    states = _share(state_bytes(policy.optimizer) * trained, ranks)
    reference = generator = cache = 0
    sharded = dims.world > 1 or settings.cpu_offload
    if isinstance(config, OnlineConfig):
        if config.uses_reference_model and not (lora and policy.lora.base_is_initial_model):
            reference = _share(FP32 * shape.parameters, ranks)
        generator = size * shape.parameters if sharded else 0
        cache = cache_bytes(shape, config, shared=not sharded)
    offload = settings.cpu_offload
    return MemoryEstimate(
        weights=0 if offload else weights,
        gradients=0 if offload else gradients,
        optimizer=0 if offload else states,
        reference=reference,
        generator=generator,
        gathered=_gathered(shape, dims, lora=lora) if sharded else 0,
        cast=_cast(shape, size, settings),
        activations=_activations(shape, policy, dims, settings),
        logits=_logits(shape, policy, dims, settings),
        cache=cache,
        host=weights + gradients + states if offload else 0,
    )


def tokens(policy: ModelConfig, micro_batch: int) -> int:
    """Most tokens that one forward and backward holds: a budget that was given, else the micro-batch's."""
    for budget in (policy.sequence_packing, policy.dynamic_batching):
        if budget.enabled and budget.train_mb_tokens is not None:
            return budget.train_mb_tokens
    return micro_batch * policy.sequences_per_unit * policy.max_total_sequence_length


def adapter_parameters(shape: ModelSize, lora: LoraConfig) -> int:
    """Parameters of LoRA's two matrices at every linear layer that gets them. AdaLoRA has a number for each direction
    besides, DoRA one for each row of the layer."""
    lora = trained_settings(lora)
    single, rows = int(lora.adalora.enabled), int(lora.use_dora)
    return sum(
        (lora.rank * (linear.inputs + linear.outputs + single) + rows * linear.outputs) * linear.count
        for linear in _adapted(shape, lora)
    )


def _spared(shape: ModelSize, lora: LoraConfig) -> int:
    """Bytes that 4 bits save: half a byte for each number of a linear layer, a scale (fp32) for every 64 of them."""
    if not (lora.enabled and lora.load_in_4bit):
        return 0
    numbers = sum(linear.inputs * linear.outputs * linear.count for linear in shape.linears)
    return FP32 * numbers - numbers // 2 - FP32 * numbers // 64


def adapter_constants(shape: ModelSize, lora: LoraConfig) -> int:
    """Numbers of the adapters that are not trained: AdaLoRA keeps each matrix's first rank."""
    return sum(linear.count for linear in _adapted(shape, lora)) if lora.adalora.enabled else 0


def _adapted(shape: ModelSize, lora: LoraConfig) -> list[Linear]:
    """The layers that get an adapter."""
    return [
        linear
        for linear in shape.linears
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


def cache_bytes(shape: ModelSize, config: OnlineConfig, *, shared: bool) -> int:
    """Keys and values of `generation_batch_size` sequences of full length. Under autocast, with the learner's own
    weights (`shared`), rotated keys come out in fp32."""
    policy = config.policy
    size = BYTES[policy.precision]
    each = shape.kv_heads * shape.head_dim * ((FP32 if shared else size) + size)
    return each * shape.layers * policy.generation_batch_size * policy.max_total_sequence_length


def _share(total: int, ranks: int) -> int:
    return -(-total // ranks)


def _gathered(shape: ModelSize, dims: ParallelDims, *, lora: bool) -> int:
    """Weights: a block that computes, the next one on its way, and what is outside of the blocks for the whole step.
    Gradients of a block and of the outside, before they are scattered."""
    weights = 2 * shape.block + shape.root
    gradients = 0 if lora else shape.block + shape.root
    return _share(FP32 * (weights + gradients), dims.tensor)


def _cast(shape: ModelSize, size: int, settings: Settings) -> int:
    """Autocast makes a copy of each matrix, and the graph holds it until the backward has used it. With activation
    checkpointing the graph is made again block by block."""
    if size == FP32:
        return 0
    head = 0 if shape.scalar else shape.vocabulary * shape.hidden
    all_used = shape.parameters - (0 if shape.tied else shape.embedding)
    used = shape.block + head if settings.activation_checkpointing else all_used
    return _share(size * used, settings.tensor)


def _activations(shape: ModelSize, policy: ModelConfig, dims: ParallelDims, settings: Settings) -> int:
    """What the backward needs of each layer, after Korthikanti et al. 2022 (arXiv 2205.05198) section 4.1, for the
    layers of today: no dropout, an MLP with a gate, an fp32 stream between the layers.

    Both norms keep their input and its normalised value in fp32. Autocast hands each of the five matrices that read a
    norm its own copy (in fp32 the two norms' outputs are shared). Attention keeps query, key, value and its result
    twice, the MLP four vectors of its inner size.
    """
    size, h = BYTES[policy.precision], shape.hidden
    here = _share(tokens(policy, settings.micro_batch), dims.context)
    between = settings.tensor if settings.sequence_parallel else 1
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 4 * FP32 * h // between
    inputs = (2 if size == FP32 else 5) * size * h
    inside = size * (3 * queries + 2 * keys + 4 * shape.intermediate) // settings.tensor
    layer = norms + inputs + inside + (_scores(shape, policy, size) // settings.tensor if shape.scores else 0)
    end = (2 * FP32 + size) * h
    stream = FP32 * h // between
    kept = shape.layers * stream + layer if settings.activation_checkpointing else shape.layers * layer
    return here * (kept + end)


def _scores(shape: ModelSize, policy: ModelConfig, size: int) -> int:
    """Of a token: its scores with all others in each head, capped, and after the softmax in fp32; keys and values
    once per query head."""
    copies = size if size != FP32 else 0
    repeated = 2 * (shape.heads - shape.kv_heads) * shape.head_dim * size
    return shape.heads * policy.max_total_sequence_length * (size + FP32 + copies) + repeated


def _logits(shape: ModelSize, policy: ModelConfig, dims: ParallelDims, settings: Settings) -> int:
    """As `model/linear_logprobs.py` computes them: a tile in fp32 and in the precision of the products, as many of
    them as it keeps on an accelerator, and the gradient of the whole matrix. A head that is not a plain matrix has
    all at once, a scalar one none."""
    if shape.scalar:
        return 0
    size = BYTES[policy.precision]
    product = 0 if size == FP32 else size
    width = _share(shape.vocabulary, settings.tensor)
    elements = _share(tokens(policy, settings.micro_batch), dims.context) * width
    tile = 2 * elements if not shape.plain_head else min(CHUNK_ELEMENTS * ACCELERATOR_CHUNKS, elements)
    kept = min(elements, KEEP_ELEMENTS) if policy.logprob_chunk_size is None and shape.plain_head else 0
    gradient = 0 if policy.lora.enabled else width * shape.hidden
    return (tile + gradient) * (FP32 + product) + kept * size
