"""Parallelising a model from outside, in this order: tensor, context, then FSDP2 over the other axes.

Tensor parallelism follows the plan that `transformers` declares for the architecture (`base_model_tp_plan`), as
PyTorch's styles. Sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198 section 4.2.2) also shards what is
between the matrix products over the tokens; it works for the families in `BETWEEN_IS_NORMS`, whose blocks have only
norms and sums outside attention and MLP.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from transformers import PreTrainedConfig, PreTrainedModel

from hone.errors import ConfigError
from hone.model.attention import has_full_attention, use_context_attention
from hone.model.capabilities import decoder_of
from hone.model.mesh import Mesh
from hone.model.scorer import TokenScorer

# It warns at every gradient norm that reducing two axes in sequence is slower than one.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)

BETWEEN_IS_NORMS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "granite")
"""Architectures with sequence parallelism."""

STYLES: dict[str, Any] = {
    "colwise": lambda: ColwiseParallel(),
    "rowwise": lambda: RowwiseParallel(),
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_split_input": lambda: RowwiseParallel(input_layouts=Replicate()),
    # A norm over each head's values: heads are sharded, its weight is not, so its gradient is summed. The sharded dim
    # may be any but the last.
    "replicated_with_grad_allreduce": lambda: SequenceParallel(sequence_dim=2, use_local_output=True),
}
"""PyTorch's styles by `transformers`' names."""


def parallelize(scorer: TokenScorer, mesh: Mesh, *, sequence_parallel: bool, cpu_offload: bool) -> None:
    """Parallelise the scorer's model over the mesh, in place. Works on the meta device; weights are loaded
    afterwards."""
    if mesh.size("tensor") > 1:
        tensor_parallel(scorer, mesh.weights["tensor"], sequence_parallel=sequence_parallel)
    if mesh.size("context") > 1:
        use_context_attention(scorer.model, mesh.group("context"))
    scorer.mesh = mesh
    scorer.sequence_parallel = sequence_parallel and mesh.size("tensor") > 1
    shard(scorer, mesh, cpu_offload=cpu_offload)


def tensor_parallel(scorer: TokenScorer, axis: DeviceMesh, *, sequence_parallel: bool) -> None:
    """Shard each block over the ranks of `axis`, and embedding and head by the vocabulary. A scalar head and the
    norms are replicated."""
    model = scorer.model
    decoder = decoder_of(model)
    between = Shard(1) if sequence_parallel else Replicate()
    for block in blocks_of(model):
        plan = {name: STYLES[style]() for name, style in block_plan(model.config).items()}
        for name, module in block.named_children():
            if _is_norm(module):
                if sequence_parallel:
                    plan[name] = SequenceParallel(use_local_output=True)
            elif name == "self_attn":
                plan[name] = PrepareModuleInput(
                    input_kwarg_layouts={"hidden_states": between},
                    desired_input_kwarg_layouts={"hidden_states": Replicate()},
                )
            else:
                plan[name] = PrepareModuleInput(
                    input_layouts=(between,), desired_input_layouts=(Replicate(),)
                )
        if sequence_parallel:
            for name, style in block_plan(model.config).items():
                if style.startswith("rowwise"):
                    plan[name] = RowwiseParallel(output_layouts=Shard(1))
        parallelize_module(block, axis, plan)
    ends: dict[str, ParallelStyle] = {}
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    spread = type(embedding) is nn.Embedding and (scorer.plain_head or not tied)
    if spread:
        ends["embed_tokens"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
    elif sequence_parallel:
        ends["embed_tokens"] = PrepareModuleOutput(
            output_layouts=(Replicate(),), desired_output_layouts=(Shard(1),), use_local_output=True
        )
    if sequence_parallel:
        ends["norm"] = SequenceParallel(use_local_output=True)
    parallelize_module(decoder, axis, ends)
    if scorer.plain_head and (spread or not tied):
        parallelize_module(head, axis, ColwiseParallel())
    if tied:
        head.weight = embedding.weight


def block_plan(config: PreTrainedConfig) -> dict[str, str]:
    """`transformers`' style of each module of a block, by the module's name; {} without a plan."""
    plan = config.get_text_config().base_model_tp_plan or {}
    start = "layers.*."
    return {name.removeprefix(start): style for name, style in plan.items() if name.startswith(start)}


def shard(scorer: TokenScorer, mesh: Mesh, *, cpu_offload: bool) -> None:
    """FSDP2: a block is gathered when it computes; parameters outside the blocks stay gathered for the step.
    Gradients are summed, not averaged: a loss is divided by its global denominator before any backward."""
    replicated = mesh.weights["replicate"].size() > 1
    over = mesh.weights["replicate", "shard"] if replicated else mesh.weights["shard"]
    offload = CPUOffloadPolicy() if cpu_offload and mesh.weights.device_type != "cpu" else OffloadPolicy()
    for block in blocks_of(scorer.model):
        fully_shard(block, mesh=over, offload_policy=offload)
    fully_shard(scorer, mesh=over, offload_policy=offload)
    for module in scorer.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sums


def check_parallel(
    config: PreTrainedConfig, axes: dict[str, int], *, sequence_parallel: bool, lora: bool
) -> None:
    """Raise ConfigError for axes that this architecture does not support. Needs no weights."""
    text = config.get_text_config()
    tensor = axes["tensor"]
    if tensor > 1:
        key = f"policy.tensor_parallel_size={tensor}"
        if lora:
            raise ConfigError(f"{key}: adapters are not sharded over tensor ranks; set it to 1")
        plan = block_plan(config)
        if not plan or not set(plan.values()) <= set(STYLES):
            raise ConfigError(
                f"{key}: there is no plan for {config.model_type} models; set it to 1 (FSDP shards the weights anyway)"
            )
        heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        if heads % tensor or kv_heads % tensor:
            sizes = [n for n in range(1, heads + 1) if heads % n == 0 and kv_heads % n == 0]
            raise ConfigError(
                f"{key} does not divide the {heads} heads and {kv_heads} key/value heads of this model: "
                f"choose one of {', '.join(map(str, sizes))}"
            )
        made_for = config.model_type in BETWEEN_IS_NORMS and has_full_attention(config)
        if sequence_parallel and not made_for:
            raise ConfigError(
                f"policy.sequence_parallel=true is not supported for {config.model_type} models; set it to false"
            )
    if axes["context"] > 1 and not has_full_attention(config):
        raise ConfigError(
            f"policy.context_parallel_size={axes['context']}: {config.model_type} models have layers without full "
            "attention (a sliding window, a recurrent state); set it to 1"
        )


def reshard(scorer: TokenScorer) -> None:
    """Free gathered weights. After a forward without a backward, FSDP keeps the parameters outside the blocks
    gathered, and would not see the gradients of their shards."""
    if isinstance(scorer, FSDPModule):
        scorer.reshard()


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The repeated blocks: the outermost of the modules in the architecture's `_no_split_modules`."""
    kinds = set(model._no_split_modules or ())
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if type(module).__name__ in kinds and not any(name.startswith(f"{above}.") for above in found):
            found[name] = module
    return list(found.values())
