"""What vLLM cannot do for a run is said before anything is started; what it can do it is asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from hone import evaluation
from hone.config import load
from hone.config.checks import unused_table
from hone.engine.vllm.checks import check
from hone.engine.vllm.server import ServerSettings
from hone.engine.vllm.settings import logprobs_mode, server_options
from hone.errors import ConfigError
from hone.planning import placement
from hone.planning.auxiliary_models import model_size_of_run

GENERATION = "policy.generation."


def grpo(*given: str) -> Any:
    return load("grpo", None, [f"{GENERATION}backend=vllm", *given]).config


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ([], "raw_logprobs"),
        (["top_p=0.9", "min_new_tokens=2"], "raw_logprobs"),
        (["temperature=0.7"], "processed_logprobs"),
    ],
)
def test_log_probabilities_are_those_of_the_unfiltered_distribution(given: list[str], mode: str) -> None:
    assert logprobs_mode(grpo(*(GENERATION + text for text in given))) == mode


@pytest.mark.parametrize("filtered", ["top_p=0.9", "top_k=5", "min_p=0.1", "min_new_tokens=2"])
def test_a_filter_with_a_temperature_is_refused_by_name(filtered: str) -> None:
    with pytest.raises(ConfigError, match=f"{filtered.split('=')[0]} with temperature=0.7"):
        logprobs_mode(grpo(f"{GENERATION}temperature=0.7", GENERATION + filtered))


@pytest.mark.parametrize(
    "setting",
    ["lora.use_dora=true", "lora.init_lora_weights=pissa", "lora.dim=1024", "lora.modules_to_save=[lm_head]"],
)
def test_adapters_that_vllm_cannot_run_are_refused_by_name(setting: str) -> None:
    config = grpo("policy.lora.enabled=true", f"policy.{setting}")
    with pytest.raises(ConfigError, match="policy." + setting.split("=")[0]):
        check(config, model_size_of_run(config))


def test_heads_that_vllm_does_not_compute_on_a_cpu_are_refused() -> None:
    config = grpo()
    size = model_size_of_run(config)
    check(config, size)
    with pytest.raises(ConfigError, match="heads of 16 numbers"):
        check(config, replace(size, head_dim=16))


@pytest.mark.parametrize("key", ["logprobs_mode", "max-model-len", "no_enable_lora", "dtype"])
def test_arguments_that_the_run_decides_about_are_refused_by_name(key: str) -> None:
    """Other log-probabilities than those that are asked for would be trained on in silence."""
    config = grpo(f"{GENERATION}vllm_kwargs={{max_num_seqs: 8, {key}: 1}}")
    with pytest.raises(ConfigError, match=rf"policy.generation.vllm_kwargs.{key}: .*Remove it"):
        check(config, model_size_of_run(config))


@pytest.mark.parametrize("installed", [False, True])
def test_settings_of_workers_have_an_effect_with_vllm(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unused_table, "vllm_is_installed", lambda: installed)
    loaded = load("grpo", None, [f"{GENERATION}backend=vllm", "cluster.max_restarts=5"])
    assert any("cluster.max_restarts" in notice for notice in loaded.notices) != installed


def test_settings_for_vllm_reach_its_command_line() -> None:
    config = grpo(
        f"{GENERATION}vllm_cfg.tensor_parallel_size=2",
        f"{GENERATION}vllm_cfg.gpu_memory_utilization=0.3",
        f"{GENERATION}vllm_cfg.enforce_eager=true",
        f"{GENERATION}vllm_kwargs={{max_num_seqs: 8, enable_expert_parallel: true, enable_prefix_caching: false}}",
    )
    given = server_options(config.policy.generation, on_cpu=False)
    command = ServerSettings("model", 64, "float32", "raw_logprobs", **given).command(1234)
    pairs = list(pairwise(command))
    assert ("--tensor-parallel-size", "2") in pairs
    assert ("--gpu-memory-utilization", "0.3") in pairs
    assert ("--max-num-seqs", "8") in pairs
    assert {"--enforce-eager", "--enable-expert-parallel", "--no-enable-prefix-caching"} <= set(command)


def test_a_server_without_a_learner_reads_the_weights_of_its_model() -> None:
    trained, frozen = (
        ServerSettings("model", 64, "float32", "raw_logprobs", trained=trained).command(1)
        for trained in (True, False)
    )
    assert ("--load-format", "dummy") in pairwise(trained)
    assert "--weight-transfer-config" in trained
    assert ("--load-format", "auto") in pairwise(frozen)
    assert "--weight-transfer-config" not in frozen


def test_an_evaluation_is_refused_before_it_starts_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: True)
    given = ["generation.backend=vllm", "generation.vllm_kwargs={port: 80}"]
    with pytest.raises(ConfigError, match=r"generation\.vllm_kwargs\.port"):
        evaluation.check(load("eval", None, given))
    evaluation.check(load("eval", None, given[:1]))
