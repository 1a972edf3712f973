"""What a vLLM generator consists of, without vLLM: adapters, names of weights, calls over HTTP, the server's end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny import VOCABULARY, make_learner, make_model, run, sft_config
from transformers import Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from hone.engine.vllm import guardian
from hone.engine.vllm.checkpoint_names import CheckpointWeights
from hone.engine.vllm.generator import VLLMGenerator
from hone.engine.vllm.lora import AdapterPublisher, server_arguments
from hone.engine.weight_files import versions_in
from hone.errors import ClusterError, ConfigError, GeneratorError, HoneError, WeightSyncError, WorkerLostError
from hone.model.adapters import with_lora
from hone.types import Prompt, Sampling, VersionSpan


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


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
    ],
)
def test_an_adapter_that_vllm_cannot_run_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    model: Any = with_lora(make_model(), lora(**settings))
    with pytest.raises(ConfigError, match=f"cannot run adapters with {named}: .*backend=builtin"):
        server_arguments(model.peft_config["default"])


def test_the_server_has_room_for_the_adapters_rank() -> None:
    model: Any = with_lora(make_model(), lora(dim=9))
    assert server_arguments(model.peft_config["default"])[-2:] == ["--max-lora-rank", "16"]


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


Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], tuple[str, list[Any]]]]:
    """Start an HTTP server that answers as a function says; its URL, and the (path, body) that it was asked."""
    servers = []

    def start(answer: Answer) -> tuple[str, list[Any]]:
        asked: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(text) if text else {}
                asked.append((self.path, body))
                status, reply = answer(body) if "generate" in self.path else (200, {})
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answered(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Two tokens: the prompt's first one, and 1. The first is of version 3, the second of version 4."""
    logprobs = [{"logprob": -0.5}, {"logprob": -1.5}]
    spans = [{"version": "3", "start": 0, "end": 1}, {"version": "4", "start": 1, "end": 2}]
    choice = {"token_ids": [body["token_ids"][0], 1], "finish_reason": "stop", "weight_versions": spans}
    return 200, {"choices": [{**choice, "logprobs": {"content": logprobs}}]}


def generator_at(url: str, folder: Path) -> VLLMGenerator:
    made = VLLMGenerator(
        "vLLM", url, weights=folder, stop_tokens=(1, 7), context=10, vocabulary_limit=60, vocabulary=64
    )
    made.start()
    return made


PROMPT = Prompt("p", (5, 6, 9), "text")


def test_a_completion_has_the_servers_tokens_and_the_version_of_each(serve: Any, tmp_path: Path) -> None:
    url, asked = serve(answered)
    other = Prompt("q", (8,), "text")
    done = run(generator_at(url, tmp_path).generate([PROMPT, other], Sampling(20, top_k=4), count=2))
    assert [[one.tokens for one in each] for each in done] == [[(5, 1)] * 2, [(8, 1)] * 2]
    assert done[0][0].logprobs == (-0.5, -1.5)
    assert done[0][0].versions == (VersionSpan(3, 0, 1), VersionSpan(4, 1, 2))
    sent = [body["sampling_params"] for _, body in asked if body["token_ids"] == [5, 6, 9]]
    assert sent[0]["max_tokens"] == 7  # what the context leaves
    assert sent[0]["stop_token_ids"] == [1, 7]
    assert sent[0]["top_k"] == 4
    assert sent[0]["logit_bias"].keys() == {"60", "61", "62", "63"}
    assert len({one["seed"] for one in sent}) == 2


def test_the_cache_of_other_weights_is_not_found(serve: Any, tmp_path: Path) -> None:
    url, asked = serve(answered)
    generator = generator_at(url, tmp_path)
    for version in (1, 2):
        (tmp_path / f"v{version}").mkdir()
        run(generator.receive(version))
        run(generator.generate([PROMPT], Sampling(4)))
    assert [body["cache_salt"] for path, body in asked if "generate" in path] == ["v1", "v2"]
    updates = [path for path, _ in asked if "generate" not in path]
    assert updates == 2 * [
        "/pause?mode=keep",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/resume",
    ]
    with pytest.raises(WeightSyncError, match=r"version 9, .*version 2"):
        run(generator.receive(9))
    assert [path for path, _ in asked if "generate" not in path] == updates


@pytest.mark.parametrize(
    ("status", "error"), [(400, GeneratorError), (404, GeneratorError), (500, WorkerLostError)]
)
def test_a_refusal_and_a_failure_are_told_apart(
    status: int, error: type[HoneError], serve: Any, tmp_path: Path
) -> None:
    url, _ = serve(lambda _: (status, {"error": {"message": "no room"}}))
    with pytest.raises(error, match=f"{url}/inference/v1/generate .*: {status} no room"):
        run(generator_at(url, tmp_path).generate([PROMPT], Sampling(4)))


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no vLLM server answers at http://127\.0\.0\.1:9/health"):
        generator_at("http://127.0.0.1:9", tmp_path)


def test_a_command_and_its_children_end_with_the_process_that_started_it() -> None:
    command = [sys.executable, guardian.__file__, "sh", "-c", "sleep 600 & sleep 600"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    time.sleep(1.0)
    assert process.poll() is None
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
