"""`hone plan`: the resolved run and what it needs, before anything heavy.

A plan makes the run's own checks (`hone.training.preflight`), so it refuses what the run would refuse before its first
step, with the same messages. Only missing hardware is no error: a plan for a cluster may be made on any machine, and if
the model or the data are not there, it says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hone import evaluation
from hone.config import EvalConfig, Loaded, OnlineConfig, TrainingConfig
from hone.config.schema.run import RewardFunctionConfig
from hone.data.sources import load_rows
from hone.engine.local.threads import SMALL_MODEL, threads_for
from hone.errors import HoneError, ModelError
from hone.evaluation.suite import load_suite
from hone.evaluation.suite_data import load_problems
from hone.export import with_models_of_runs
from hone.model.model_size import ModelSize, load_model_size
from hone.planning.auxiliary_models import check_length
from hone.planning.balance import balance_lines
from hone.planning.hardware import Hardware, hardware_here, hardware_named
from hone.planning.memory_estimate import tokens
from hone.planning.placement import (
    builtin_instead_of_vllm,
    check_distributed,
    check_mesh,
    found_by_url,
    generator_of,
    is_single_process,
    split_devices,
    vllm_generates,
)
from hone.planning.plan_report import choice_lines, generator_lines, memory_lines
from hone.planning.planner import check_generators, choose, settled
from hone.training import preflight
from hone.units import counted, format_count


def main(algorithm: str, loaded: Loaded, gpu: str | None = None) -> int:
    """Print the plan, for GPUs of the kind `gpu` if it is given, and return 0. Raises the HoneError that the run would
    end with."""
    loaded = with_models_of_runs(loaded, only_described=True)
    parts = sections(algorithm, loaded, gpu)
    if not elsewhere(loaded.config, gpu) or reachable(loaded.config):
        checks = evaluation if isinstance(loaded.config, EvalConfig) else preflight
        checks.check(loaded)
        parts.append(("checked", ["all that the run checks without loading a model"]))
    else:
        parts.append(("checked", ["the settings alone: the model or the data are not here"]))
    print(f"hone {algorithm}: the run that this configuration describes")
    for title, lines in parts:
        for index, line in enumerate(lines):
            print(f"  {title if index == 0 else '':<12}{line}")
    return 0


def elsewhere(config: TrainingConfig | EvalConfig, gpu: str | None) -> bool:
    """Whether the plan is for other hardware than this machine's."""
    cluster = config.cluster
    if gpu is not None or cluster.ray_address is not None:
        return True
    wanted = cluster.gpus_per_node * cluster.num_nodes
    return cluster.cpu_workers_per_node is None and wanted > max(torch.cuda.device_count(), 1)


def reachable(config: TrainingConfig | EvalConfig) -> bool:
    """Whether the models and the training data are here, so that more can be checked than the settings."""
    parts = ("policy", "teacher", "value", "generation")
    models = [getattr(config, part) for part in parts if hasattr(config, part)]
    if isinstance(config, EvalConfig) and generator_of(config) == "openai":
        models = []
    entries = [config.data] if isinstance(config, EvalConfig) else list(config.data.train or [])
    if isinstance(config, EvalConfig) and config.eval.has_own_data:
        entries = []
    try:
        for model in models:
            load_model_size(model.model_name, trust_remote_code=model.trust_remote_code)
        for entry in entries:
            load_rows(entry, role="test" if isinstance(config, EvalConfig) else "train")
    except (HoneError, OSError):
        return False
    return True


def sections(algorithm: str, loaded: Loaded, gpu: str | None = None) -> list[tuple[str, list[str]]]:
    """Title and lines of each part of the plan. Raises ConfigError for settings that the model cannot have."""
    config = loaded.config
    parts = _evaluation(config) if isinstance(config, EvalConfig) else _training(config, gpu)
    return parts + ([("notes", list(loaded.notices))] if loaded.notices else [])


def _evaluation(config: EvalConfig) -> list[tuple[str, list[str]]]:
    endpoint = config.generation.openai_cfg
    if generator_of(config) == "openai":
        size, about = None, [f"{endpoint.model} at {endpoint.base_url}"]
    else:
        size, about = model_size(config.generation)
    return [
        ("model", about),
        *([("devices", devices(config, size))] if generator_of(config) != "openai" else []),
        ("data", suite_lines(config) if config.eval.has_own_data else data_lines(config, [config.data])),
        ("sampling", eval_lines(config)),
    ]


def _training(config: TrainingConfig, gpu: str | None) -> list[tuple[str, list[str]]]:
    policy = config.policy
    size, about = model_size(policy, scalar=policy.has_scalar_head)
    parts = [("model", about)]
    if (value := config.critic) is not None:
        value_size, about = model_size(value, scalar=True)
        size = None if size is None or value_size is None else replace(size, value=value_size)
        parts.append(("value model", about))
    if (teacher := config.teacher_model) is not None:
        teacher_size, about = model_size(teacher)
        size = None if size is None or teacher_size is None else replace(size, teacher=teacher_size)
        parts.append(("teacher", about))
    parts.append(("devices", devices(config, size, gpu)))
    hardware = planned_hardware(config, gpu)
    if size is None:
        parts.append(("memory", ["unknown without the model's config.json"]))
    else:
        check_length(policy, size.context)
        hardware, generators = split_devices(config, hardware)
        check_generators(config, size, generators)
        choice = choose(size, config, hardware)
        if hardware.count > 1 and (gpu is not None or not is_single_process(config.cluster)):
            check_distributed(config)
            check_mesh(settled(config, choice.taken.settings), choice.dims)
        config = settled(config, choice.taken.settings)
        held = memory_lines(choice, size, config) + generator_lines(size, config, generators)
        parts += [("run as", choice_lines(choice)), ("memory", held)]
        if isinstance(config, OnlineConfig):
            parts.append(("balance", balance_lines(size, config, hardware, generators)))
    return [
        *parts,
        ("data", data_lines(config, list(config.data.train or []))),
        ("batch", batch_lines(config)),
        ("checkpoints", checkpoint_lines(config)),
    ]


def model_size(model: Any, *, scalar: bool = False) -> tuple[ModelSize | None, list[str]]:
    """The size of a section's model, counted from its config.json, and lines about it; or why it is unknown."""
    name, overrides = model.model_name, getattr(model, "hf_config_overrides", {})
    try:
        size = load_model_size(name, overrides, scalar=scalar, trust_remote_code=model.trust_remote_code)
    except ModelError as error:
        return None, [f"{name}: not reachable from here ({error})"]
    return size, [
        f"{name}: {size.architecture}, {format_count(size.parameters)} parameters",
        f"{size.layers} layers of {size.hidden}, vocabulary {size.vocabulary}, context {size.context}",
    ]


def planned_hardware(config: TrainingConfig, gpu: str | None) -> Hardware:
    """The devices to plan for: GPUs of the kind `gpu`, this machine's (further nodes have the same), or the CPU."""
    cluster = config.cluster
    nodes, per_node = cluster.num_nodes, cluster.gpus_per_node
    if gpu is not None:
        return hardware_named(gpu, nodes=nodes, per_node=max(per_node, 1))
    if cluster.cpu_workers_per_node is not None:
        return hardware_here(nodes=nodes, per_node=cluster.cpu_workers_per_node, gpu=False)
    if per_node and torch.cuda.is_available():
        return hardware_here(nodes=nodes, per_node=per_node, gpu=True)
    if nodes * per_node > 1:
        return Hardware("GPU", nodes, per_node)
    return hardware_here(gpu=False)


def devices(config: TrainingConfig | EvalConfig, size: ModelSize | None, gpu: str | None = None) -> list[str]:
    """The devices that the config asks for, and those of this machine."""
    cluster = config.cluster
    if cluster.cpu_workers_per_node is not None and gpu is None:
        processes = counted(cluster.cpu_workers_per_node, "process")
        return [f"asked for: {cluster.num_nodes} x {processes} on the CPU"]
    wanted, here = cluster.gpus_per_node * cluster.num_nodes, torch.cuda.device_count()
    asked = "1 GPU" if wanted else "the CPU"
    if wanted > 1:
        asked = f"{cluster.num_nodes} x {cluster.gpus_per_node} GPUs"
    lines = [f"asked for: {asked}; here: {counted(here, 'GPU') if here else 'none'}"]
    if gpu is not None:
        return lines
    if wanted > max(here, 1):
        lines.append(
            f"not reachable from here: {wanted - here} GPUs. "
            + ("" if here else "A run here uses one process: same numbers up to rounding, slower. ")
            + "--gpu A100-80G (or another kind) plans for their memory"
        )
    elif not here:
        threads = threads_for(cluster.cpu_threads, size.parameters if size is not None else SMALL_MODEL)
        lines.append(f"a run here uses one process on the CPU, {counted(threads, 'thread')}")
    return lines


def data_lines(config: TrainingConfig | EvalConfig, entries: list[Any]) -> list[str]:
    """Each dataset with its number of rows, or why it cannot be read from here."""
    split = "test" if isinstance(config, EvalConfig) else "train"
    lines = []
    for entry in entries:
        name = entry.dataset_name + (f" [{entry.split}]" if entry.split else "")
        try:
            lines.append(f"{name}: {len(load_rows(entry, role=split))} rows")
        except (HoneError, OSError) as error:
            lines.append(f"{name}: not reachable from here ({str(error).splitlines()[0]})")
    return lines or ["none"]


def suite_lines(config: EvalConfig) -> list[str]:
    """Each suite with its number of problems, or why they cannot be read from here."""
    lines = [f"task {name} of lm-evaluation-harness" for name in config.eval.lm_eval]
    for suite in map(load_suite, config.eval.suite):
        head = f"suite {suite.name} (version {suite.version}, {suite.kind}, {suite.metric})"
        try:
            rows = load_problems(suite, config.eval.suite_data.get(suite.name), config.data.limit)
            lines.append(f"{head}: {len(rows)} problems of {rows.name}")
        except (HoneError, OSError) as error:
            lines.append(f"{head}: not reachable from here ({str(error).splitlines()[0]})")
    return lines


def batch_lines(config: TrainingConfig) -> list[str]:
    """The arithmetic from rows to updates."""
    policy = config.policy
    unit = "sequences" if policy.sequences_per_unit == 1 else "pairs"
    at_once = "in micro-batches that are chosen when the model is known"
    if policy.train_micro_batch_size is not None:
        at_once = f"at most {tokens(policy, policy.train_micro_batch_size)} tokens at once"
    layout = "packed" if policy.sequence_packing.enabled else "padded"
    update = f"{policy.train_global_batch_size} {unit} per update, {at_once} ({layout})"
    if not isinstance(config, OnlineConfig):
        return [update, steps_line(config.algorithm.max_num_steps, config.algorithm.max_num_epochs)]
    g, sampling = config.algorithm, config.policy.generation
    rollouts = g.num_prompts_per_step * g.num_generations_per_prompt
    trained = g.num_prompts_per_step * g.samples_per_prompt
    updates = g.updates_per_rollout * -(-trained // policy.train_global_batch_size)
    return [
        f"{g.num_prompts_per_step} prompts x {g.num_generations_per_prompt} completions = {rollouts} per step, "
        + (f"at most {trained} pairs, " if g.trains_on_pairs else "")
        + f"{counted(updates, 'update')} of {policy.train_global_batch_size}",
        update,
        f"generation: {generation_backend(config, sampling.colocated.enabled)}",
        *config.plan_lines,
        "rewards: " + ", ".join(f"{weight_text(f)} x {f.path or f.name}" for f in config.rewards.functions),
        steps_line(g.max_num_steps, g.max_num_epochs),
    ]


def weight_text(function: RewardFunctionConfig) -> str:
    """A weight such as `0.5`; the first and last of one that changes: `1..0.2`."""
    first, last = function.weight_at(0), function.weight_at(None)
    return f"{first:g}" if not isinstance(function.weight, dict) else f"{first:g}..{last:g}"


def steps_line(steps: int | None, epochs: int | None) -> str:
    """How long the run is."""
    limits = [f"{steps} steps"] if steps is not None else []
    limits += [f"{counted(epochs, 'epoch')} of the data"] if epochs is not None else []
    return "until " + " or ".join(limits) + (", whichever is first" if len(limits) > 1 else "")


def generation_backend(config: TrainingConfig | EvalConfig, colocated: bool = True) -> str:
    """Which generator a run on this machine gets, and why."""
    if isinstance(config, EvalConfig) and generator_of(config) == "openai":
        endpoint = config.generation.openai_cfg
        return f"the endpoint ({endpoint.api}), {counted(endpoint.max_concurrency, 'request')} at a time"
    reason = builtin_instead_of_vllm(config)
    if found_by_url(config):
        return "vLLM servers that run already"
    if vllm_generates(config):
        return "vLLM, which the run starts"
    place = "the learner's process" if colocated else "processes of its own"
    return f"built-in generator, in {place}" + (f" ({reason})" if reason else "")


def checkpoint_lines(config: TrainingConfig) -> list[str]:
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
    limit = f"at most {g.max_new_tokens} tokens"
    if not g.has_tokens and g.max_new_tokens >= g.max_model_len:
        limit = "as many tokens as the endpoint gives"
    return [
        f"{counted(e.num_tests_per_prompt, 'answer')} for each problem, temperature {g.temperature:g}, "
        f"top_p {g.top_p:g}, {limit}; {e.metric} with k = {e.k_value}",
        f"generation: {generation_backend(config)}",
    ]
