"""Lines of `hone plan` about the planner's choice and the memory of each device."""

from __future__ import annotations

from hone.config import OnlineConfig, TrainingConfig
from hone.model.model_size import ModelSize
from hone.planning.hardware import Hardware
from hone.planning.memory_estimate import adapter_parameters, generator_bytes, state_bytes, tokens
from hone.planning.placement import count_vllm_servers, vllm_generates
from hone.planning.planner import Choice
from hone.units import counted, format_bytes, format_count

SHOWN = 3
"""Number of rejected candidates that are shown; more are counted."""


def choice_lines(choice: Choice) -> list[str]:
    """The candidate that was chosen, those that do not fit, and what would fit if none does."""
    dims = choice.dims
    mesh = f" ({dims})" if dims.world > 1 else ""
    lines = [f"{choice.backend}{mesh}: {choice.taken}"]
    if choice.fits is False:
        lines = [f"does not fit {choice.hardware}; at least: {lines[0]}"]
        if choice.hardware.elastic:
            lines.append("a run on a CPU is tried all the same: its memory can be swapped")
    refused = [candidate for candidate in choice.refused if candidate is not choice.taken]
    lines += [f"does not fit: {one}, {format_bytes(one.memory.peak)}" for one in refused[:SHOWN]]
    if len(refused) > SHOWN:
        lines.append(f"nor do {len(refused) - SHOWN} more ways")
    lines += [f"would fit: {change}" for change in choice.nearest]
    if choice.fits is False and not choice.nearest:
        lines.append("nothing that Hone can choose would fit: take a smaller model")
    return lines


def memory_lines(choice: Choice, model: ModelSize, config: TrainingConfig) -> list[str]:
    """Peak memory and its parts."""
    hardware, held = choice.hardware, choice.taken.memory
    where = f"on each of {hardware.count} devices" if hardware.count > 1 else f"on the {hardware.device}"
    usable = "" if hardware.usable is None else f" of {format_bytes(hardware.usable)} that can be used"
    lines = [f"{format_bytes(held.peak)} at most {where}{usable}, in {held.phase}"]
    rows = [(name, size, why) for name, size, why in _kinds(choice, model, config) if size]
    width = max(len(name) for name, _, _ in rows)
    lines += [f"  {name:<{width}} {format_bytes(size):>10}  {why}" for name, size, why in rows]
    if held.host:
        node = held.host * hardware.per_node
        has = "" if hardware.host is None else f" of {format_bytes(hardware.host)}"
        lines.append(
            f"and in host memory {format_bytes(held.host)} a device, {format_bytes(node)} a machine{has}: weights, "
            "gradients, optimizer"
        )
    return lines


def generator_lines(model: ModelSize, config: TrainingConfig, hardware: Hardware | None) -> list[str]:
    """How many devices generate, and what each holds, where the learner's do not."""
    if hardware is None or not isinstance(config, OnlineConfig):
        return []
    by_vllm = vllm_generates(config)
    weights, cache = generator_bytes(model, config, on_cpu=hardware.elastic and not by_vllm)
    if by_vllm:
        vllm, servers = config.policy.generation.vllm_cfg, count_vllm_servers(config, hardware, hardware)
        each = f" of {vllm.tensor_parallel_size} devices each" if vllm.tensor_parallel_size > 1 else ""
        return [
            f"{counted(servers, 'vLLM server')}{each}: weights {format_bytes(weights // vllm.tensor_parallel_size)} on "
            f"each device; kv cache in what gpu_memory_utilization={vllm.gpu_memory_utilization:g} leaves"
        ]
    where = (
        "in a process beside the learner's" if hardware.count == 1 and hardware.elastic else "of their own"
    )
    return [
        f"{format_bytes(weights + cache)} on each of {counted(hardware.count, 'generator')}, {where}: weights "
        f"{format_bytes(weights)}, kv cache {format_bytes(cache)}"
    ]


def _kinds(choice: Choice, model: ModelSize, config: TrainingConfig) -> list[tuple[str, int, str]]:
    """Name, bytes and arithmetic of each kind."""
    policy, dims, held, settings = config.policy, choice.dims, choice.taken.memory, choice.taken.settings
    ranks = dims.shard * dims.context * dims.tensor
    share = f" / {ranks} ranks" if ranks > 1 else ""
    split = f" / {dims.tensor} tensor ranks" if dims.tensor > 1 else ""
    all_of_it = trained = all_numbers = format_count(model.parameters)
    if policy.lora.enabled:
        trained = format_count(adapter_parameters(model, policy.lora))
        all_of_it = f"({all_of_it} + adapters of {trained})"
    block, outside = format_count(model.block), format_count(model.non_block)
    gradients = "" if policy.lora.enabled else f", and the gradients of {block} + {outside}"
    at_once = f"{tokens(policy, settings.micro_batch)} tokens at once"
    at_once += f" / {dims.context} context ranks" if dims.context > 1 else ""
    recomputed = ", one of them in full" if settings.activation_checkpointing else ""
    casts = f"{block} + the output layer" if settings.activation_checkpointing else "all matrices"
    rows = getattr(policy, "generation_batch_size", 0)
    value_parameters = format_count(model.value.parameters) if model.value is not None else ""
    teacher_parameters = format_count(model.teacher.parameters) if model.teacher is not None else ""
    return [
        ("weights", held.weights, f"{all_of_it} x 4 bytes{share}"),
        ("gradients", held.gradients, f"{trained} x 4 bytes{share}"),
        ("optimizer", held.optimizer, f"{trained} x {state_bytes(policy.optimizer)} bytes{share}"),
        ("reference", held.reference, f"{format_count(model.parameters)} x 4 bytes{share}"),
        ("teacher", held.teacher, f"{teacher_parameters} x 4 bytes{share}"),
        ("value model", held.value, f"{value_parameters}: weights, gradients and optimizer{share}"),
        (
            "generator",
            held.generator,
            f"a whole copy on each device, {all_numbers} x {held.generator // model.parameters} bytes",
        ),
        (
            "gathered",
            held.gathered,
            f"(2 blocks of {block} and {outside} outside{gradients}) x 4 bytes{split}",
        ),
        ("cast", held.cast, f"{casts} in {policy.precision}{split}"),
        ("activations", held.activations, f"about: {at_once}, {model.layers} layers{recomputed}"),
        ("logits", held.logits, "some at once, and the output layer's gradient"),
        (
            "its reading",
            held.teacher_reading,
            "the teacher's, before the policy's training: one layer, some logits",
        ),
        (
            "its training",
            held.value_training,
            "the value model's, when the policy's is over: activations, casts",
        ),
        (
            "kv cache",
            held.cache,
            f"in generating: {rows} sequences of {policy.max_total_sequence_length} tokens",
        ),
        ("transposed", held.transposed, "in generating: copies of the matrices, 4 bytes a number"),
    ]
