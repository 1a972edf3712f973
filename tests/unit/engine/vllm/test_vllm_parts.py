"""What a vLLM generator consists of, without vLLM: adapters, names of weights, calls over HTTP, the server's end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny import VOCABULARY, make_learner, make_model, run, sft_config
from transformers import Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from hone.engine.base import Engine
from hone.engine.vllm import guardian
from hone.engine.vllm.checkpoint_names import CheckpointWeights
from hone.engine.vllm.generator import VLLMGenerator
from hone.engine.vllm.lora import AdapterPublisher, server_arguments
from hone.engine.vllm.running import RunningServer
from hone.engine.vllm.server import ServerSettings
from hone.engine.weight_files import versions_in
from hone.errors import ConfigError, GeneratorError, HoneError, WeightSyncError, WorkerLostError
from hone.model.adapters import with_lora
from hone.types import Prompt, Sampling, VersionSpan
from tests.helpers.fake_vllm import FakeVLLM, completion, running


def lora(**settings: Any) -> Any:
    return sft_config(lora={"enabled": True, "dim": 2, **settings}).policy.lora


def test_a_published_adapter_is_the_learners_for_peft(tmp_path: Path) -> None:
    model = with_lora(make_model(), lora(), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
    publisher = AdapterPublisher(make_learner(model).weights, tmp_path)
    for version in (1, 2, 5):
        run(publisher.publish(version))
    assert versions_in(tmp_path) == [2, 5]  # a server may still read the one before
    loaded = peft.PeftModel.from_pretrained(make_model(), str(tmp_path / "v5"))
    tokens = torch.arange(12)[None]
    assert torch.equal(loaded.eval()(tokens).logits, model.eval()(tokens).logits)
    assert not torch.allclose(loaded(tokens).logits, make_model().eval()(tokens).logits)


def test_the_server_has_room_for_the_adapters_rank() -> None:
    assert server_arguments(lora(dim=9))[-2:] == ["--max-lora-rank", "16"]


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"r": 16}, None),
        ({"r": 8, "rank_pattern": {"q_proj": 1024}}, "dim=1024"),
        ({"r": 8, "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 8, "init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
    ],
)
def test_an_adapter_that_is_trained_further_has_its_own_settings(
    saved: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **saved}))
    if said is None:
        assert server_arguments(lora(dim=4, adapter_path=str(tmp_path)))[-1] == "16"
        return
    with pytest.raises(ConfigError, match=f"policy.lora.{said}: vLLM cannot run such adapters"):
        server_arguments(lora(dim=4, adapter_path=str(tmp_path)))


def test_weights_have_the_names_and_pieces_of_a_checkpoint(tmp_path: Path) -> None:
    """transformers holds the experts of a layer as one tensor."""
    model = AutoModelForCausalLM.from_config(
        Qwen3MoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=3,
            num_experts_per_tok=2,
        )
    )
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    weights = dict(CheckpointWeights(model, make_learner().weights().ranks))
    assert "model.layers.0.mlp.experts.2.up_proj.weight" in weights
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved.items())


def generator_at(fake: FakeVLLM, folder: Path, **options: Any) -> VLLMGenerator:
    """With the weights of version 3."""
    needed = ServerSettings("model", 10, "float32", "raw_logprobs", trained=False)
    made = VLLMGenerator(
        RunningServer(fake.url, needed), weights=folder, stop_tokens=(1, 7), context=10, **options
    )
    made.start()
    (folder / "v3").mkdir()
    run(made.receive(3))
    return made


@pytest.fixture
def fake() -> Iterator[FakeVLLM]:
    with running(FakeVLLM()) as made:
        yield made


PROMPT = Prompt("p", (5, 6, 9), "text")


def test_a_completion_has_the_servers_tokens_and_the_version_of_each(fake: FakeVLLM, tmp_path: Path) -> None:
    generator = generator_at(fake, tmp_path, vocabulary_limit=60, vocabulary=64)
    other = Prompt("q", (8,), "text")
    session = fake.label.partition(":")[0]

    def two_versions(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return completion(f"{session}:3", f"{session}:4", tokens=(body["token_ids"][0], 1))

    fake.answer = two_versions
    done = run(generator.generate([PROMPT, other], Sampling(20, top_k=4), count=2))
    assert [[one.tokens for one in each] for each in done] == [[(5, 1)] * 2, [(8, 1)] * 2]
    assert done[0][0].logprobs == (-0.5, -1.5)
    assert done[0][0].versions == (VersionSpan(3, 0, 1), VersionSpan(4, 1, 2))
    sent = [body["sampling_params"] for _, body in fake.asked if body.get("token_ids") == [5, 6, 9]]
    assert sent[0]["max_tokens"] == 7  # what the context leaves
    assert sent[0]["stop_token_ids"] == [1, 7]
    assert sent[0]["top_k"] == 4
    assert sent[0]["logit_bias"].keys() == {"60", "61", "62", "63"}
    assert len({one["seed"] for one in sent}) == 2


def test_the_cache_of_other_weights_is_not_found(fake: FakeVLLM, tmp_path: Path) -> None:
    generator = generator_at(fake, tmp_path)
    run(generator.generate([PROMPT], Sampling(4)))
    (tmp_path / "v4").mkdir()
    run(generator.receive(4))
    run(generator.generate([PROMPT], Sampling(4)))
    assert [body["cache_salt"] for path, body in fake.asked if "generate" in path] == ["v3", "v4"]
    updates = fake.paths()
    assert updates == 2 * [
        "/pause?mode=keep",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/resume",
    ]
    with pytest.raises(WeightSyncError, match=r"version 9, .*version 4"):
        run(generator.receive(9))
    assert fake.paths() == updates


def test_a_server_that_sleeps_wakes_before_it_gets_weights(fake: FakeVLLM, tmp_path: Path) -> None:
    generator = generator_at(fake, tmp_path)
    engine = Engine(cast(Any, None), cast(Any, None), sleepers=[generator])
    (tmp_path / "v4").mkdir()
    fake.asked.clear()
    run(engine.begin_update())
    assert fake.paths() == ["/sleep?level=1"]
    run(generator.receive(4))
    assert fake.paths()[1:3] == ["/wake_up", "/pause?mode=keep"]
    run(generator.receive(4))
    assert fake.paths().count("/wake_up") == 1


@pytest.mark.parametrize(
    ("status", "error"), [(400, GeneratorError), (404, GeneratorError), (500, WorkerLostError)]
)
def test_a_refusal_and_a_failure_are_told_apart(
    status: int, error: type[HoneError], fake: FakeVLLM, tmp_path: Path
) -> None:
    generator = generator_at(fake, tmp_path)
    fake.answer = lambda _: (status, {"error": {"message": "no room"}})
    with pytest.raises(error, match=f"{fake.url}/inference/v1/generate .*: {status} no room"):
        run(generator.generate([PROMPT], Sampling(4)))


def test_a_server_that_is_gone_is_named(fake: FakeVLLM, tmp_path: Path) -> None:
    generator = generator_at(fake, tmp_path)
    fake.stop()
    with pytest.raises(WorkerLostError, match=f"{fake.url}/inference/v1/generate cannot be reached"):
        run(generator.generate([PROMPT], Sampling(4)))


@pytest.mark.parametrize("is_killed_itself", [False, True])
def test_a_command_and_its_children_end_with_the_process_that_started_it(is_killed_itself: bool) -> None:
    """A worker of Ray kills its own children when it ends, but not theirs."""
    command = [sys.executable, guardian.__file__, "sh", "-c", "sleep 600 & sleep 600"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    time.sleep(1.0)
    assert process.poll() is None
    if is_killed_itself:
        process.kill()
    assert process.stdin is not None
    process.stdin.close()  # what the kernel does when the parent dies
    assert process.wait(20) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a child lives on")


def test_the_exit_code_is_the_commands() -> None:
    command = [sys.executable, guardian.__file__, "sh", "-c", "exit 3"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert process.wait(20) == 3
    assert process.stdin is not None
    process.stdin.close()
