"""How long generation and training take in a step of online RL: an estimate from a model's size and a device's speed.

Decoding one token of each of b sequences reads all weights and the cached keys and values once, and takes 2
floating-point operations for each parameter and sequence. Training takes 6 for each parameter and token (8 with
activation checkpointing), a forward alone 2 (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Attention is left out,
and so is all that is not arithmetic: rewards, communication, transfer of weights.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hone.config import OnlineConfig
from hone.config.schema import RLConfig
from hone.model.model_size import ModelSize
from hone.planning.cpu import generator_precision
from hone.planning.hardware import Hardware
from hone.planning.memory_estimate import BYTES, cache_bytes
from hone.planning.placement import found_by_url, vllm_generates
from hone.units import format_count

SPEEDS: dict[str, tuple[float, float]] = {
    "T4": (0.32, 65),
    "V100": (0.9, 125),
    "A10G": (0.6, 70),
    "L40S": (0.864, 362),
    "L4": (0.3, 121),
    "RTX4090": (1.008, 165),
    "RTX5090": (1.79, 209),
    "A100-40G": (1.555, 312),
    "A100": (2.039, 312),
    "H100-NVL": (3.9, 835),
    "H100": (3.35, 989),
    "H200": (4.8, 989),
    "B200": (8.0, 2250),
}
"""TB/s of memory and dense 16-bit TFLOP/s of data sheets, by the beginning of a name in `hardware.GPUS`."""
DECODING_SHARE, TRAINING_SHARE = 0.5, 0.4
"""Of a device's speed, what decoding and training are taken to reach."""
FORWARD, BACKWARD = 2, 4
"""Operations for each parameter and token."""


@dataclass(frozen=True)
class Speed:
    """Of one device, in bytes and floating-point operations a second. `source`: where the numbers come from."""

    bandwidth: float
    flops: float
    source: str


@dataclass(frozen=True)
class Balance:
    """Seconds of a step, and how many devices do each part. `tokens_per_s` of all generators together."""

    generation_s: float
    training_s: float
    tokens_per_s: float


def speed_of(hardware: Hardware) -> Speed | None:
    """A GPU's by its name; a CPU's is measured (a fifth of a second). None for a device that is not known."""
    if hardware.device == "CPU":
        return _measured()
    name = re.sub(r"[ -]|NVIDIA|GEFORCE|TESLA|SXM\d?", "", hardware.device.upper())
    known = next((kind for kind in SPEEDS if name.startswith(kind.replace("-", ""))), None)
    if known is None:
        return None
    bandwidth, flops = SPEEDS[known]
    return Speed(bandwidth * 1e12, flops * 1e12, "data sheet")


def _measured() -> Speed:
    source, product = torch.ones(16 * 1024**2), torch.ones(768, 768)
    target = torch.empty_like(source)
    copied = _best_seconds(lambda: target.copy_(source))
    multiplied = _best_seconds(lambda: product @ product)
    return Speed(2 * source.nbytes / copied, 2 * 768**3 / multiplied, "measured now, in float32")


def _best_seconds(compute: Callable[[], object], tries: int = 5) -> float:
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def estimate(
    model: ModelSize,
    config: OnlineConfig,
    speed: Speed,
    generators: int,
    learners: int,
    *,
    on_cpu: bool = False,
) -> Balance:
    """If all completions have full length, and devices that share a vLLM server's layers are as fast together as their
    sum. The model's experts, if it has any, count as if all were used."""
    policy, settings, group = config.policy, config.algorithm, _devices_per_generator(config)
    longest, new = policy.max_total_sequence_length, policy.generation.max_new_tokens
    assert new is not None
    new = min(new, longest)
    rollouts = settings.num_prompts_per_step * settings.num_generations_per_prompt
    each = -(-rollouts // max(1, generators // group))
    at_once = each if vllm_generates(config) else min(each, policy.generation_batch_size)
    weights = BYTES[generator_precision(policy.precision, on_cpu=on_cpu)] * model.parameters
    cached = cache_bytes(model, config, shared=False, on_cpu=on_cpu)
    cached_each = cached / policy.generation_batch_size / longest
    read = weights + at_once * (longest - new / 2) * cached_each
    computed = FORWARD * model.parameters * at_once
    token_s = (read / speed.bandwidth + computed / speed.flops) / DECODING_SHARE / group
    generation_s = -(-each // at_once) * new * token_s
    trained = settings.num_prompts_per_step * settings.samples_per_prompt * longest
    training_s = trained * _operations(model, config) / (TRAINING_SHARE * speed.flops * learners)
    return Balance(generation_s, training_s, rollouts * new / generation_s)


def _devices_per_generator(config: OnlineConfig) -> int:
    return config.policy.generation.vllm_cfg.tensor_parallel_size if vllm_generates(config) else 1


def _operations(model: ModelSize, config: OnlineConfig) -> int:
    """For each token of a step's samples: the updates, and the forward passes of models that are not trained."""
    again = FORWARD if config.policy.activation_checkpointing else 0
    update = (FORWARD + BACKWARD + again) * config.algorithm.updates_per_rollout
    others = FORWARD * model.parameters * config.uses_reference_model
    others += FORWARD * model.teacher.parameters if model.teacher else 0
    others += (update + FORWARD) * model.value.parameters if model.value else 0
    old_logprobs = FORWARD if config.algorithm.updates_per_rollout > 1 else 0
    return (update + old_logprobs) * model.parameters + others


def balance_lines(
    model: ModelSize, config: OnlineConfig, learners: Hardware, generators: Hardware | None
) -> list[str]:
    """The estimate, what it is made of, and with how many generators both parts would take as long. Processes on a CPU
    share its cores, so that they count as one device."""
    if (speed := speed_of(learners)) is None:
        kind = learners.device
        return [f"unknown: Hone does not know how fast a {kind} is; --gpu takes kinds that it knows"]
    shares = (
        f"of which {DECODING_SHARE:.0%} in decoding and {TRAINING_SHARE:.0%} in training (docs/planning.md)"
    )
    speeds = f"{speed.bandwidth / 1e9:,.0f} GB/s and {speed.flops / 1e12:,.3g} TFLOP/s ({speed.source})"
    basis = f"an estimate, from {speeds}, {shares}"
    learning = 1 if learners.elastic else learners.count
    own = generators if not learners.elastic else None
    found = estimate(model, config, speed, own.count if own else learning, learning, on_cpu=learners.elastic)
    if found_by_url(config):
        training = f"training about {_seconds(found.training_s)} a step"
        return [f"{training}; generation is unknown: servers at URLs have devices of their own", basis]
    where = f"on {own.count} and on {learning} devices" if own else "on the same devices"
    lines = [
        f"about: generation {_seconds(found.generation_s)} ({format_count(found.tokens_per_s)} tokens/s), training "
        f"{_seconds(found.training_s)} a step, {where}, if all completions have full length",
        _together(found, side_by_side=own is not None and _is_asynchronous(config)),
    ]
    if own is not None:
        best, total = _most_even(model, config, speed, own.count + learning), own.count + learning
        lines.append(f"most even with {best} of the {total} devices generating")
    return [*lines, basis]


def _is_asynchronous(config: OnlineConfig) -> bool:
    return isinstance(config, RLConfig) and config.algorithm.async_rollouts is not None


def _together(found: Balance, *, side_by_side: bool) -> str:
    """How long a step is, and what waits."""
    first, second = found.generation_s, found.training_s
    if not side_by_side:
        share = first / (first + second)
        return f"in turns: {_seconds(first + second)} a step, of which generation is {share:.0%}"
    slow, fast = max(first, second), min(first, second)
    waits = "learner" if first > second else "generator"
    return f"side by side: {_seconds(slow)} a step, of which the {waits} waits {1 - fast / slow:.0%}"


def _most_even(model: ModelSize, config: OnlineConfig, speed: Speed, devices: int) -> int:
    """How many of the devices would generate where the longer of both parts is shortest."""
    group = _devices_per_generator(config)

    def slower(generators: int) -> float:
        found = estimate(model, config, speed, generators, devices - generators)
        return max(found.generation_s, found.training_s)

    return min(range(group, devices, group), key=slower)


def _seconds(number: float) -> str:
    return f"{number:.2g} s" if number < 10 else f"{number:,.0f} s"
