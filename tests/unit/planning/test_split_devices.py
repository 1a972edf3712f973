"""Which devices of a run learn and which generate, and what a generator's device holds."""

from __future__ import annotations

import pytest

from hone.config import load
from hone.errors import ClusterError, ConfigError
from hone.model.model_size import load_model_size
from hone.planning import placement
from hone.planning.hardware import Hardware, hardware_named
from hone.planning.memory_estimate import generator_bytes
from hone.planning.placement import count_vllm_servers, split_devices
from hone.planning.plan_report import generator_lines
from hone.planning.planner import check_generators, choose

APART = "policy.generation.colocated.enabled=false"
RESOURCES = "policy.generation.colocated.resources"


def config_of(*argv: str):  # type: ignore[no-untyped-def]
    return load("grpo", None, [*argv]).config


def test_colocated_generators_have_no_devices() -> None:
    hardware = Hardware("GPU", 1, 8)
    assert split_devices(config_of("cluster.gpus_per_node=8"), hardware) == (hardware, None)


def test_on_one_machine_some_of_its_devices_generate() -> None:
    config = config_of("cluster.gpus_per_node=8", APART, f"{RESOURCES}.gpus_per_node=3")
    learn, generate = split_devices(config, Hardware("GPU", 1, 8))
    assert generate is not None
    assert (learn.count, generate.count) == (5, 3)


def test_on_several_machines_whole_machines_generate() -> None:
    config = config_of("cluster.gpus_per_node=8", "cluster.num_nodes=3", APART, f"{RESOURCES}.num_nodes=1")
    learn, generate = split_devices(config, Hardware("GPU", 3, 8))
    assert generate is not None
    assert (learn.nodes, generate.nodes, learn.per_node, generate.per_node) == (2, 1, 8, 8)
    with pytest.raises(ClusterError, match="none is left to learn on"):
        split_devices(config, Hardware("GPU", 1, 8))


def test_a_single_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"colocated.enabled=false needs a GPU for the generator"):
        split_devices(config_of(APART), Hardware("GPU", 1, 1))


def test_a_vllm_server_shares_a_single_gpu_with_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: True)
    config = config_of("grpo.async_rollouts=lookahead", "policy.generation.backend=vllm")
    assert not config.policy.generation.colocated.enabled
    assert split_devices(config, Hardware("GPU", 1, 1)) == (Hardware("GPU", 1, 1), None)
    config.policy.generation.vllm_cfg.gpu_memory_utilization = 0.75
    assert split_devices(config, Hardware("GPU", 1, 1, memory=80)) == (Hardware("GPU", 1, 1, memory=20), None)


VLLM = "policy.generation.backend=vllm"
SIZE_2 = "policy.generation.vllm_cfg.tensor_parallel_size=2"


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: True)


def test_vllm_servers_with_devices_of_their_own_leave_the_learners_memory(vllm: None) -> None:
    given = ("cluster.gpus_per_node=8", APART, f"{RESOURCES}.gpus_per_node=4", VLLM, SIZE_2)
    config, hardware = config_of(*given), Hardware("GPU", 1, 8, memory=80)
    learn, generate = split_devices(config, hardware)
    assert (learn.memory, learn.count) == (80, 4)
    assert count_vllm_servers(config, learn, generate) == 2
    (line,) = generator_lines(load_model_size("hone/tiny"), config, generate)
    assert line.startswith("2 vLLM servers of 2 devices each: weights ")


def test_vllm_servers_share_the_learners_devices(vllm: None) -> None:
    config = config_of("cluster.gpus_per_node=8", VLLM, SIZE_2)
    learn, generate = split_devices(config, Hardware("GPU", 2, 8, memory=80))
    assert (learn.memory, generate) == (32, None)
    assert count_vllm_servers(config, learn, generate) == 8
    assert count_vllm_servers(config, Hardware("CPU", 1, 2, elastic=True), None) == 1


def test_devices_that_servers_cannot_share_are_refused_by_name(vllm: None) -> None:
    config = config_of("cluster.gpus_per_node=8", APART, f"{RESOURCES}.gpus_per_node=3", VLLM, SIZE_2)
    _, generate = split_devices(config, Hardware("GPU", 1, 8, memory=1 << 40))
    with pytest.raises(
        ConfigError, match="tensor_parallel_size=2: vLLM servers have 3 devices of each machine"
    ):
        check_generators(config, load_model_size("hone/tiny"), generate)


def test_weights_that_do_not_fit_beside_a_cache_ask_for_more_devices(vllm: None) -> None:
    config = config_of("cluster.gpus_per_node=2", APART, f"{RESOURCES}.gpus_per_node=1", VLLM)
    size = load_model_size("hone/tiny")
    check_generators(config, size, Hardware("GPU", 1, 1, memory=1 << 30))
    with pytest.raises(ConfigError, match=r"gpu_memory_utilization=0\.6 .*tensor_parallel_size"):
        check_generators(config, size, Hardware("GPU", 1, 1, memory=1 << 20))


def test_servers_that_run_already_take_none_of_the_runs_devices() -> None:
    urls = "policy.generation.vllm_cfg.server_urls=http://localhost:8000"
    config = config_of("cluster.gpus_per_node=8", VLLM, urls, "grpo.async_rollouts=lookahead")
    hardware = Hardware("GPU", 1, 8, memory=80)
    assert split_devices(config, hardware) == (hardware, None)


def test_beside_a_vllm_server_the_learner_holds_no_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: True)
    size = load_model_size("hone/tiny-sft")
    held = {}
    for backend in ("builtin", "vllm"):
        config = config_of(f"policy.generation.backend={backend}")
        held[backend] = choose(size, config, Hardware("GPU", memory=1 << 40)).taken.memory
    assert held["builtin"].cache > 0
    assert held["vllm"].cache == 0
    assert held["vllm"].generator == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("cluster.gpus_per_node=4",), "resources.gpus_per_node to how many of them generate"),
        (("cluster.gpus_per_node=4", f"{RESOURCES}.gpus_per_node=4"), "fewer than all"),
        (("cluster.cpu_workers_per_node=2",), "cluster.cpu_workers_per_node=2: set"),
        (("cluster.num_nodes=2",), "resources.num_nodes to how many of them generate"),
        (
            (
                "cluster.num_nodes=2",
                "cluster.gpus_per_node=8",
                f"{RESOURCES}.num_nodes=1",
                f"{RESOURCES}.gpus_per_node=3",
            ),
            "set it to null",
        ),
    ],
)
def test_too_few_devices_are_refused_by_name(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(APART, *argv)


def test_a_learner_without_a_generator_holds_less() -> None:
    size, hardware = load_model_size("hone/tiny"), hardware_named("A100-80G", nodes=1, per_node=8)
    apart = config_of("cluster.gpus_per_node=8", APART, f"{RESOURCES}.gpus_per_node=2")
    together = choose(size, config_of("cluster.gpus_per_node=8"), hardware).taken.memory
    learn, generate = split_devices(apart, hardware)
    held = choose(size, apart, learn).taken.memory
    assert together.generator > 0
    assert (held.generator, held.cache) == (0, 0)
    weights, cache = generator_bytes(size, apart)
    assert (weights, cache) == (together.generator, together.cache)
    (line,) = generator_lines(size, apart, generate)
    assert "on each of 2 generators" in line
    assert split_devices(config_of(), hardware)[1] is None


def test_a_generator_that_does_not_fit_its_device_is_refused() -> None:
    config = config_of("cluster.gpus_per_node=2", APART, f"{RESOURCES}.gpus_per_node=1")
    size = load_model_size("hone/tiny")
    check_generators(config, size, Hardware("GPU", 1, 1, memory=1 << 30))
    with pytest.raises(ConfigError, match=r"lower policy\.generation_batch_size"):
        check_generators(config, size, Hardware("GPU", 1, 1, memory=1 << 20))
