"""The estimate of a step of online RL against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hone.config import load
from hone.model.model_size import ModelSize, load_model_size
from hone.planning import balance, placement
from hone.planning.balance import Speed, balance_lines, estimate, speed_of
from hone.planning.hardware import GPUS, Hardware, hardware_named
from hone.planning.memory_estimate import cache_bytes

SLOW = Speed(bandwidth=1e9, flops=1e12, source="a test")
GIVEN = [
    "policy.max_total_sequence_length=100",
    "policy.generation.max_new_tokens=50",
    "policy.precision=float32",
    "policy.train_global_batch_size=32",
    "policy.generation_batch_size=16",
    "policy.activation_checkpointing=false",
    "grpo.num_prompts_per_step=8",
    "grpo.num_generations_per_prompt=4",
    "loss_fn.reference_policy_kl_penalty=0",
]


@pytest.fixture(scope="module")
def model() -> ModelSize:
    return load_model_size("hone/tiny-sft")


def configured(*more: str, kind: Any = "grpo") -> Any:
    return load(kind, None, [*(GIVEN if kind == "grpo" else []), *more]).config


def test_generation_reads_the_weights_and_the_cache_for_every_token(model: ModelSize) -> None:
    config = configured()
    found = estimate(model, config, SLOW, 1, 1)
    of_a_token = cache_bytes(model, config, shared=False) / (16 * 100)
    read = 4 * model.parameters + 16 * 75 * of_a_token  # on average 75 of 100 tokens are cached
    computed = 2 * model.parameters * 16
    expected = 2 * 50 * (read / 1e9 + computed / 1e12) / 0.5  # 32 completions, 16 at once: 2 rounds
    assert found.generation_s == pytest.approx(expected)
    assert found.tokens_per_s == pytest.approx(32 * 50 / expected)


def test_training_takes_six_operations_for_each_parameter_and_token(model: ModelSize) -> None:
    one = estimate(model, configured(), SLOW, 1, 1).training_s
    assert one == pytest.approx(6 * model.parameters * 32 * 100 / 0.4e12)
    assert estimate(model, configured(), SLOW, 1, 4).training_s == pytest.approx(one / 4)


@pytest.mark.parametrize(
    ("given", "operations"),
    [
        (["policy.activation_checkpointing=true"], 8),
        (["loss_fn.reference_policy_kl_penalty=0.1"], 8),
        (["grpo.num_updates_per_rollout=2"], 14),  # and the old log-probabilities
    ],
)
def test_more_passes_take_more(model: ModelSize, given: list[str], operations: int) -> None:
    one = estimate(model, configured(), SLOW, 1, 1).training_s
    more = estimate(model, configured(*given), SLOW, 1, 1).training_s
    assert more == pytest.approx(one * operations / 6)


def test_a_teacher_and_a_value_model_count(model: ModelSize) -> None:
    for part in ("teacher", "value"):
        config = configured()
        alone = estimate(model, config, SLOW, 1, 1).training_s
        both = estimate(replace(model, **{part: model}), config, SLOW, 1, 1).training_s
        assert both == pytest.approx(alone * (6 + (2 if part == "teacher" else 8)) / 6)


def test_every_kind_of_gpu_has_a_speed() -> None:
    speeds = {name: speed_of(hardware_named(name, nodes=1, per_node=1)) for name in GPUS}
    assert all(speeds.values())
    for here, name in {
        "NVIDIA A100-SXM4-40GB": "A100-40G",
        "NVIDIA A100 80GB PCIe": "A100-80G",
        "NVIDIA H100 80GB HBM3": "H100-80G",
        "NVIDIA GeForce RTX 4090": "RTX4090",
        "Tesla T4": "T4",
        "NVIDIA L40S": "L40S",
        "NVIDIA H100 NVL": "H100-NVL",
    }.items():
        assert speed_of(Hardware(here)) == speeds[name]
    assert speed_of(Hardware("48 GiB GPU")) is None


def test_the_lines_say_what_waits_and_what_would_be_even(model: ModelSize) -> None:
    separate = configured(
        "grpo.async_rollouts=lookahead",
        "cluster.gpus_per_node=8",
        "policy.generation.colocated.resources.gpus_per_node=2",
    )
    learners, generators = (hardware_named("H100-80G", nodes=1, per_node=n) for n in (6, 2))
    said = balance_lines(model, separate, learners, generators)
    assert "on 2 and on 6 devices" in said[0]
    assert said[1].startswith("side by side: ")
    assert "of which the learner waits" in said[1]
    assert said[2] == "most even with 7 of the 8 devices generating"
    assert "3,350 GB/s and 989 TFLOP/s (data sheet)" in said[3]
    together = balance_lines(model, configured(), learners, None)
    assert "on the same devices" in together[0]
    assert together[1].startswith("in turns: ")
    assert balance_lines(model, configured(), Hardware("GPU"), None)[0].startswith("unknown: ")


def test_devices_that_share_a_server_are_one_generator(
    model: ModelSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: True)
    vllm = "policy.generation.backend=vllm"
    one = estimate(model, configured(vllm), SLOW, 1, 1)
    two = estimate(model, configured(vllm, "policy.generation.vllm_cfg.tensor_parallel_size=2"), SLOW, 2, 1)
    assert two.generation_s == pytest.approx(one.generation_s / 2)


def test_servers_at_urls_have_a_speed_that_nobody_knows(model: ModelSize) -> None:
    config = configured(
        "policy.generation.backend=vllm", "policy.generation.vllm_cfg.server_urls=[http://h:1]"
    )
    said = balance_lines(model, config, hardware_named("H200", nodes=1, per_node=1), None)
    assert "generation is unknown: servers at URLs" in said[0]


def test_processes_on_a_cpu_share_its_cores(model: ModelSize, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "speed_of", lambda hardware: SLOW)
    one = balance_lines(model, configured(), Hardware("CPU", elastic=True), None)
    beside = Hardware("CPU", elastic=True)
    assert balance_lines(model, configured(), Hardware("CPU", per_node=2, elastic=True), beside) == one
    assert one[1].startswith("in turns")


def test_a_cpus_speed_is_measured(model: ModelSize, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "_best_seconds", lambda compute: compute() is not None and 0.01)
    speed = speed_of(Hardware("CPU", elastic=True))
    assert speed is not None
    assert speed.bandwidth == pytest.approx(2 * 64 * 1024**2 / 0.01)
    assert speed.flops == pytest.approx(2 * 768**3 / 0.01)
