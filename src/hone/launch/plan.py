"""`hone plan`: the resolved run, before anything heavy.

A plan is for the cluster that the config describes, wherever it is typed. It fails for a wrong config alone; a model,
data or hardware that cannot be reached from here is said, and is no failure.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hone.config import EvalConfig, GRPOConfig, Loaded, SFTConfig
from hone.engine.build import SMALL_MODEL, check_length, threads_for
from hone.errors import HoneError, RewardError
from hone.model.load import one_line, resolve
from hone.rollout.collect import open_pool
from hone.rollout.rewards.resolve import resolve_all

GIB = 1024**3
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelShape:
    """What a plan knows of a model without its weights."""

    architecture: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    context: int | None


def main(kind: str, loaded: Loaded) -> int:
    """Print the plan. Returns 0: a config that cannot run never gets this far."""
    parts = sections(kind, loaded)
    print(f"hone {kind}: the run that this configuration describes")
    for title, lines in parts:
        for index, line in enumerate(lines):
            print(f"  {title if index == 0 else '':<12}{line}")
    return 0


def sections(kind: str, loaded: Loaded) -> list[tuple[str, list[str]]]:
    """Title and lines of each part of the plan. Raises ConfigError for settings that the model cannot have."""
    config = loaded.config
    if isinstance(config, EvalConfig):
        shape, about = model_shape(config.generation.model_name, {})
        parts = [
            ("model", about),
            ("devices", devices(config, shape)),
            ("data", data_lines(config, [config.data])),
        ]
        parts.append(("sampling", eval_lines(config)))
    else:
        policy = config.policy
        shape, about = model_shape(policy.model_name, policy.hf_config_overrides)
        if shape is not None:
            check_length(config, shape.context)
        train = list(config.data.train or [])
        parts = [
            ("model", about),
            ("devices", devices(config, shape)),
            ("memory", memory_lines(config, shape)),
            ("data", data_lines(config, train)),
            ("batch", batch_lines(config)),
            ("checkpoints", checkpoint_lines(config)),
        ]
    if loaded.notices:
        parts.append(("notes", list(loaded.notices)))
    return parts


def model_shape(name: str, overrides: dict[str, Any]) -> tuple[ModelShape | None, list[str]]:
    """The model's size, counted on a meta device from its config alone; or why it cannot be told from here."""
    try:
        source = resolve(name)
        config = AutoConfig.from_pretrained(source, **overrides)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (HoneError, OSError, ValueError) as error:
        return None, [f"{name}: not reachable from here ({one_line(error)})"]
    text = config.get_text_config()
    shape = ModelShape(
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None),
    )
    return shape, [
        f"{name}: {shape.architecture}, {human_count(shape.parameters)} parameters",
        f"{shape.layers} layers of {shape.hidden}, vocabulary {shape.vocabulary}, context {shape.context}",
    ]


def devices(config: SFTConfig | GRPOConfig | EvalConfig, shape: ModelShape | None) -> list[str]:
    """What the config asks for, and what is here."""
    cluster = config.cluster
    wanted = cluster.gpus_per_node * cluster.num_nodes
    here = torch.cuda.device_count()
    asked = (
        f"{cluster.num_nodes} x {cluster.gpus_per_node} GPUs"
        if wanted > 1
        else "1 GPU"
        if wanted
        else "the CPU"
    )
    lines = [f"asked for: {asked}; here: {counted(here, 'GPU') if here else 'none'}"]
    if wanted > max(here, 1):
        lines.append(
            f"not reachable from here: {wanted - here} GPUs. A run here uses one process: same numbers "
            "up to rounding, slower"
        )
    elif not here:
        threads = threads_for(cluster.cpu_threads, shape.parameters if shape is not None else SMALL_MODEL)
        lines.append(f"a run here uses one process on the CPU, {counted(threads, 'thread')}")
    return lines


def memory_lines(config: SFTConfig | GRPOConfig, shape: ModelShape | None) -> list[str]:
    """Bytes by kind on each device, weights and states shared out over all of them."""
    if shape is None:
        return ["unknown without the model's config.json"]
    policy = config.policy
    count = max(config.cluster.gpus_per_node * config.cluster.num_nodes, 1)
    weights, states = (
        4 * shape.parameters,
        12 * shape.parameters,
    )  # fp32 weights; gradients and two Adam moments
    tokens = micro_batch_tokens(config)
    # Korthikanti et al. 2022 (arXiv 2205.05198) eq. 2 without the attention scores, which are not kept
    per_layer = 34 * tokens * shape.hidden * (BYTES[policy.precision] / 2)
    if policy.activation_checkpointing:
        per_layer = BYTES[policy.precision] * tokens * shape.hidden
    activations = per_layer * shape.layers
    reference = (
        weights if isinstance(config, GRPOConfig) and config.loss_fn.reference_policy_kl_penalty else 0
    )
    total = (weights + states + reference) / count + activations
    lines = [
        (f"on each of {count}: " if count > 1 else "")
        + f"{human_bytes(total)} = weights {human_bytes(weights / count)} + gradients and optimizer "
        f"{human_bytes(states / count)}"
        + (f" + reference {human_bytes(reference / count)}" if reference else "")
        + f" + activations about {human_bytes(activations)} ({tokens} tokens at once)"
    ]
    if torch.cuda.is_available():
        room = torch.cuda.get_device_properties(0).total_memory
        if total > room:
            lines.append(
                f"more than a device here has ({human_bytes(room)}): lower policy.train_micro_batch_size, set "
                "policy.activation_checkpointing=true, or use more devices"
            )
    return lines


def micro_batch_tokens(config: SFTConfig | GRPOConfig) -> int:
    """Most tokens that one forward and backward holds."""
    policy = config.policy
    for budget in (policy.sequence_packing, policy.dynamic_batching):
        if budget.enabled:
            return budget.train_mb_tokens
    return policy.train_micro_batch_size * policy.max_total_sequence_length


def data_lines(config: SFTConfig | GRPOConfig | EvalConfig, entries: list[Any]) -> list[str]:
    """Each dataset with its number of rows, or why it cannot be read from here."""
    from hone.data.sources import load_rows

    kind = "test" if isinstance(config, EvalConfig) else "train"
    lines = []
    for entry in entries:
        name = entry.dataset_name + (f" [{entry.split}]" if entry.split else "")
        try:
            lines.append(f"{name}: {len(load_rows(entry, kind=kind))} rows")
        except (HoneError, OSError) as error:
            lines.append(f"{name}: not reachable from here ({str(error).splitlines()[0]})")
    return lines or ["none"]


def batch_lines(config: SFTConfig | GRPOConfig) -> list[str]:
    """The arithmetic from rows to updates."""
    policy = config.policy
    tokens = micro_batch_tokens(config)
    update = f"{policy.train_global_batch_size} sequences per update, at most {tokens} tokens at once"
    layout = "packed" if policy.sequence_packing.enabled else "padded"
    if isinstance(config, SFTConfig):
        return [f"{update} ({layout})", steps_line(config.sft.max_num_steps, config.sft.max_num_epochs)]
    g = config.grpo
    rollouts = g.num_prompts_per_step * g.num_generations_per_prompt
    updates = g.num_updates_per_rollout * -(-rollouts // policy.train_global_batch_size)
    return [
        f"{g.num_prompts_per_step} prompts x {g.num_generations_per_prompt} completions = {rollouts} per step, "
        f"{updates} update{'s' if updates > 1 else ''} of {policy.train_global_batch_size}",
        f"{update} ({layout})",
        f"generation: {generation_backend(config.policy.generation.backend)}",
        "rewards: " + ", ".join(f"{f.weight:g} x {f.path or f.name}" for f in config.rewards.functions),
        *reward_lines(config),
        steps_line(g.max_num_steps, g.max_num_epochs),
    ]


def reward_lines(config: GRPOConfig) -> list[str]:
    """What is wrong with the reward functions, seen from here: a worker imports them, as for a run."""
    try:
        asyncio.run(_try_rewards(config))
    except RewardError as error:
        return [f"not usable from here: {str(error).splitlines()[0]}"]
    return []


async def _try_rewards(config: GRPOConfig) -> None:
    if all(f.path is None for f in config.rewards.functions):
        resolve_all(config.rewards.functions)  # built-in ones: nothing to import
        return
    async with open_pool(config.rewards):
        pass


def steps_line(steps: int | None, epochs: int | None) -> str:
    """How long the run is."""
    limits = [f"{steps} steps"] if steps is not None else []
    limits += [f"{epochs} epoch{'s' if epochs > 1 else ''} of the data"] if epochs is not None else []
    return "until " + " or ".join(limits) + (", whichever is first" if len(limits) > 1 else "")


def generation_backend(wanted: str) -> str:
    """Which generator a run here gets, and why."""
    if wanted == "vllm":
        return (
            "built-in (the vLLM backend is not part of this version; the samples have the same distribution)"
        )
    return "built-in generator, in the learner's process"


def checkpoint_lines(config: SFTConfig | GRPOConfig) -> list[str]:
    """Where and when a run is saved."""
    c = config.checkpointing
    if not c.enabled:
        return ["none (checkpointing.enabled=false): a stopped run starts from the beginning"]
    ranked = f" by {c.metric_name}" if c.metric_name else ""
    kept = "all kept" if c.keep_top_k is None else f"{c.keep_top_k} kept{ranked}"
    return [f"{c.checkpoint_dir}/step_N every {c.save_period} steps and at the end, {kept}"]


def eval_lines(config: EvalConfig) -> list[str]:
    """How answers are drawn and scored."""
    g, e = config.generation, config.eval
    return [
        f"{counted(e.num_tests_per_prompt, 'answer')} for each problem, temperature {g.temperature:g}, "
        f"top_p {g.top_p:g}, at most {g.max_new_tokens} tokens; {e.metric} with k = {e.k_value}",
        f"generation: {generation_backend(g.backend)}",
    ]


def counted(number: int, what: str) -> str:
    """1 thread, 2 threads"""
    return f"{number} {what}{'s' if number != 1 else ''}"


def human_count(number: float) -> str:
    """1234567 -> 1.2M"""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(int(number))


def human_bytes(number: float) -> str:
    """Bytes in the unit that reads best."""
    for unit, size in (("TiB", 1024**4), ("GiB", GIB), ("MiB", 1024**2)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1024:.1f} KiB"
