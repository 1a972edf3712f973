"""Every generator passes the same suite: a new one is a line of SUBJECTS."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from generating import ROWS, Server, make_generator, make_prompts
from generator_suite import CHECKS, CONTEXT, STOPS, Subject
from tiny import make_learner, make_model, make_tokenizer, run, sft_config

from hone.config.schema.grpo import GRPOConfig
from hone.engine.base import Transport
from hone.engine.concurrent_group import ConcurrentGroup
from hone.engine.generator_group import GeneratorGroup
from hone.engine.generator_process import GeneratorProcess
from hone.engine.local.continuous_batching import ContinuousBatching
from hone.engine.local.weight_sync import InProcessTransport
from hone.engine.weight_files import FilePublisher, FileReceiver, Publication
from hone.errors import WeightSyncError
from hone.model.adapters import with_lora
from hone.model.weights import checksum
from hone.types import Completion, Sampling

PAGE = Path(__file__).resolve().parents[3] / "docs" / "add-a-generator.md"


def learner_of(model: Any) -> Any:
    return make_learner(
        model, sft_config(optimizer={"name": "torch.optim.SGD", "kwargs": {"lr": 0.5}}).policy
    )


def decode(tokens: list[int]) -> str:
    return str(make_tokenizer().decode(tokens))


def shared_model(folder: Path) -> Subject:
    """The learner's own model."""
    learner = learner_of(make_model())
    generator = make_generator(learner.model, STOPS, context=CONTEXT)
    return Subject(generator, learner, InProcessTransport(learner, generator), decode)


def own_model(folder: Path) -> Subject:
    """A model of its own, in this process."""
    learner = learner_of(make_model())
    generator = make_generator(make_model(seed=5), STOPS, context=CONTEXT)
    return Subject(generator, learner, InProcessTransport(learner, generator), decode)


def continuous(folder: Path) -> Subject:
    """Rows that join as others leave, with drafts, in a cache that has not room for all."""
    settings = ContinuousBatching(kv_cache_tokens=12 * CONTEXT, num_speculative_tokens=2, prompt_lookup_max=3)
    learner = learner_of(make_model())
    generator = make_generator(learner.model, STOPS, context=CONTEXT, max_rows=24, continuous=settings)
    return Subject(generator, learner, InProcessTransport(learner, generator), decode)


def by_files(folder: Path, generator: Any = None) -> Subject:
    """A model of its own, whose weights come through files."""
    learner = learner_of(make_model())
    generator = generator or make_generator(make_model(seed=5), STOPS, context=CONTEXT)
    publisher = FilePublisher(learner.weights, folder, bucket_bytes=10_000)
    return Subject(generator, learner, Transport(publisher, FileReceiver(generator, folder)), decode)


def group_of_two(folder: Path) -> Subject:
    """Two servers, whose weights come through files."""
    learner = learner_of(make_model())
    servers = [Server(f"generator {i}", folder, stops=STOPS, context=CONTEXT, seed=5 + i) for i in range(2)]
    group = GeneratorGroup(servers, batch_size=ROWS, max_restarts=0)
    group.start()
    return Subject(group, learner, Transport(FilePublisher(learner.weights, folder), group), decode)


def concurrent_group(folder: Path) -> Subject:
    """Two servers for callers that do not wait for each other."""
    learner = learner_of(make_model())
    servers = [Server(f"generator {i}", folder, stops=STOPS, context=CONTEXT, seed=5 + i) for i in range(2)]
    group = ConcurrentGroup(servers, batch_size=ROWS, max_restarts=0)
    group.start()
    return Subject(group, learner, Transport(FilePublisher(learner.weights, folder), group), decode)


MODES: dict[str, dict[str, Any]] = {
    "one call after the other": {},
    "requests": {"async_rollouts": "stream"},
}


@pytest.fixture(scope="module", params=MODES)
def child(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Subject]]:
    """One child process for all checks, with a learner of its own for each."""
    place = tmp_path_factory.mktemp("child")
    model = make_model(seed=5)
    model.generation_config.eos_token_id = list(STOPS)
    model.save_pretrained(place / "model")
    make_tokenizer().save_pretrained(place / "model")
    mode = MODES[request.param]
    settings = {
        "model_name": str(place / "model"),
        "max_total_sequence_length": CONTEXT,
        "precision": "float32",
        "generation": {"continuous_batching": bool(mode)},
    }
    config = GRPOConfig(
        policy=settings,
        grpo=mode,
        cluster={"gpus_per_node": 0},
        checkpointing={"checkpoint_dir": str(place / "run")},
    )
    server = GeneratorProcess("generator", config, place)
    kind = ConcurrentGroup if mode else GeneratorGroup
    group = kind([server], batch_size=None if mode else ROWS, max_restarts=0)
    group.start()

    def subject() -> Subject:
        learner = learner_of(make_model())
        return Subject(group, learner, Transport(FilePublisher(learner.weights, place), group), decode)

    yield subject
    group.close()


@pytest.mark.slow
def test_weights_reach_a_child_process_between_two_tokens(child: Callable[[], Subject]) -> None:
    """Completions that run go on with them; one that nobody waits for ends."""
    subject = child()
    subject.sync(0)
    server = subject.generator.servers[0]
    prompts, sampling = make_prompts(), Sampling(max_new_tokens=48, seed=3, ignore_eos=True)

    async def in_flight() -> tuple[list[list[Completion]], list[list[Completion]]]:
        before = await server.generate(prompts, sampling, count=2)
        await subject.transport.publish(1)
        running = asyncio.ensure_future(server.generate(prompts, sampling, count=2))
        await asyncio.sleep(0.02)
        await server.receive(1)
        during = await running
        cancelled = asyncio.ensure_future(server.generate(prompts, sampling, count=2))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        return before, during

    before, during = run(in_flight())
    spans = [one.versions for group in during for one in group]
    assert {versions[-1].version for versions in spans} == {1}
    assert [versions[-1].end for versions in spans] == [len(one.tokens) for group in before for one in group]
    changed = [versions for versions in spans if len(versions) > 1]
    assert changed, "weights came before the first token: too fast a machine for this test's length"
    for old, new in zip(chain(*before), chain(*during), strict=True):
        begun = new.versions[0].end if new.versions[0].version == 0 else 0
        assert new.tokens[:begun] == old.tokens[:begun]
    assert run(server.generate(prompts[:1], sampling)), "it answers after a call that was cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_child_process_does_what_all_must(
    child: Callable[[], Subject], check: Callable[[Subject], None]
) -> None:
    subject = child()
    subject.sync(0)
    check(subject)


def of_the_page(folder: Path) -> Subject:
    """The generator of docs/add-a-generator.md."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    return by_files(folder, names["PlainGenerator"](make_model(seed=5), make_tokenizer(), STOPS, CONTEXT))


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "built-in, the learner's model": shared_model,
    "built-in, a model of its own": own_model,
    "built-in, through files": by_files,
    "built-in, with continuous batching": continuous,
    "a group of two servers": group_of_two,
    "a group for concurrent callers": concurrent_group,
    "of the page on adding one": of_the_page,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", SUBJECTS.values(), ids=SUBJECTS.keys())
def test_a_generator_does_what_all_must(
    make: Callable[[Path], Subject], check: Callable[[Subject], None], tmp_path: Path
) -> None:
    subject = make(tmp_path)
    subject.sync(0)
    check(subject)


def damaged(folder: Path, version: int, damage: str) -> None:
    file = folder / f"v{version}" / "1.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    else:
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["missing", "cut", "a bit"])
def test_files_that_are_not_what_was_published_change_nothing(damage: str, tmp_path: Path) -> None:
    subject = by_files(tmp_path)
    subject.sync(0)
    before = subject.sample()
    with torch.no_grad():
        next(subject.learner.model.parameters()).add_(1.0)
    run(subject.transport.publish(1))
    damaged(tmp_path, 1, damage)
    with pytest.raises(WeightSyncError, match="version 1"):
        run(subject.transport.receive(1))
    assert subject.sample() == before


def test_once_the_base_is_there_the_files_hold_the_adapters_alone(tmp_path: Path) -> None:
    lora = sft_config(lora={"enabled": True, "dim": 2}).policy.lora
    learner = learner_of(with_lora(make_model(), lora))
    generator = make_generator(with_lora(make_model(seed=5), lora, seed=5), STOPS, context=CONTEXT)
    publisher = FilePublisher(learner.weights, tmp_path)
    subject = Subject(generator, learner, Transport(publisher, FileReceiver(generator, tmp_path)), decode)
    for version in range(3):
        with torch.no_grad():
            for parameter in learner.model.parameters():
                parameter.add_(0.01 if parameter.requires_grad else 0.0)
        subject.sync(version)
        assert generator.checksum() == sum_of(learner)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v0", "v2"]
    names = [name for bucket in Publication.open(tmp_path, 2).buckets for name in bucket]
    assert names
    assert all("lora" in name for name in names)
    late = make_generator(with_lora(make_model(seed=6), lora, seed=6), STOPS, context=CONTEXT)
    run(FileReceiver(late, tmp_path).receive(2))
    assert late.checksum() == sum_of(learner)


def sum_of(learner: Any) -> int:
    return checksum(learner.weights())
