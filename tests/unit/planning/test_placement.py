"""Which generator a run gets, and what it is told where that is not the one that it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from hone.cli.plan import generation_backend
from hone.config import load
from hone.errors import ConfigError
from hone.planning import placement
from hone.planning.placement import found_by_url, placement_notices, servers_sleep, vllm_generates

ASKED = {"grpo": "policy.generation.backend=vllm", "ppo": "use_vllm=true", "eval": "generation.backend=vllm"}


def configured(kind: Any, *more: str) -> Any:
    return load(kind, None, [ASKED[kind], *more]).config


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: True)


@pytest.mark.parametrize("kind", ASKED)
def test_without_vllm_the_built_in_generator_samples_and_the_run_says_so(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: False)
    config = configured(kind)
    assert not vllm_generates(config)
    (notice,) = placement_notices(config)
    assert notice.endswith(
        "generation.backend=vllm: vLLM is not installed in this Python; Hone's built-in generator samples"
    )
    assert "vLLM is not installed" in generation_backend(config)


@pytest.mark.parametrize("kind", ASKED)
def test_with_vllm_it_generates_and_nothing_is_said(kind: str, installed: None) -> None:
    config = configured(kind)
    assert vllm_generates(config)
    assert placement_notices(config) == []
    assert generation_backend(config) == "vLLM, which the run starts"


def test_vllm_does_not_generate_where_it_is_not_asked_for(installed: None) -> None:
    for kind in ("sft", "grpo", "eval"):
        config: Any = load(kind, None, []).config  # type: ignore[call-overload]
        assert not vllm_generates(config)
        assert placement_notices(config) == []


def test_with_servers_at_urls_vllm_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "vllm_is_installed", lambda: False)
    config = configured("grpo", "policy.generation.vllm_cfg.server_urls=http://localhost:8000")
    assert vllm_generates(config)
    assert found_by_url(config)
    assert placement_notices(config) == []
    assert generation_backend(config) == "vLLM servers that run already"


def test_only_servers_that_share_the_learners_gpus_sleep(
    installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = "policy.generation.vllm_cfg.sleep_level=1"
    shared, alone = configured("grpo", level), configured("grpo", level, "grpo.async_rollouts=lookahead")
    monkeypatch.setattr(placement, "runs_on_cpu", lambda cluster: False)
    assert [servers_sleep(config) for config in (shared, alone, configured("grpo"))] == [True, False, False]
    monkeypatch.setattr(placement, "runs_on_cpu", lambda cluster: True)
    assert not servers_sleep(shared)
    (notice,) = placement_notices(shared)
    assert notice == "policy.generation.vllm_cfg.sleep_level=1: on a CPU vLLM does not sleep"


def test_sleep_that_spoils_the_weights_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"sleep_level=2: after it .*\. Set it to 1"):
        configured("grpo", "policy.generation.vllm_cfg.sleep_level=2")


def test_on_several_devices_it_generates_too(installed: None) -> None:
    config = configured("grpo", "cluster.cpu_workers_per_node=2")
    assert vllm_generates(config)
    assert not found_by_url(config)
    assert placement_notices(config) == []
