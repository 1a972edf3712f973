"""With adapters, a generator that holds the base is sent the adapters alone, and still holds what the learner has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import EOS, PAD, make_learner, make_model, make_samples, make_tokenizer, run, sft_config

from hone.algorithms import sft
from hone.engine.distributed.sharding import unsharded_copy
from hone.engine.local import weight_sync
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.learner import LocalLearner
from hone.engine.local.weight_sync import InProcessTransport
from hone.errors import HoneError
from hone.model.adapters import merged, with_lora
from hone.model.mesh import Mesh
from hone.model.weights import checksum
from hone.types import Prompt, Sampling

pytest.importorskip("peft")

ADALORA = {"enabled": True, "init_r": 4, "total_step": 3}


def policy_of(**lora: Any) -> Any:
    return sft_config(
        lora={"enabled": True, "dim": 2, **lora}, optimizer={"kwargs": {"lr": 0.01}}, train_micro_batch_size=2
    ).policy


def generator_of(model: Any) -> LocalGenerator:
    return LocalGenerator(model, make_tokenizer(), stop_tokens=[EOS], context=64)


def separate(policy: Any) -> tuple[LocalLearner, LocalGenerator]:
    """A learner, and a generator that has a model of its own with other weights."""
    learner = make_learner(with_lora(make_model(), policy.lora), policy)
    return learner, generator_of(with_lora(make_model(seed=5), policy.lora, seed=5))


def sync(transport: InProcessTransport, version: int) -> None:
    run(transport.publish(version))
    run(transport.receive(version))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every tensor that is sent."""
    sizes: list[int] = []
    real = weight_sync.full_tensor

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return real(tensor)

    monkeypatch.setattr(weight_sync, "full_tensor", counted)
    return sizes


def step(learner: LocalLearner, update: int) -> None:
    run(sft.step(learner, make_samples(4, seed=update)))


@pytest.mark.parametrize(
    "lora", [{}, {"use_dora": True}, {"adalora": ADALORA}], ids=["lora", "dora", "adalora"]
)
def test_after_the_first_time_the_adapters_alone(lora: dict[str, Any], sent: list[int]) -> None:
    learner, generator = separate(policy_of(**lora))
    transport = InProcessTransport(learner, generator)
    sync(transport, 0)
    everything = sum(sent)
    assert everything == sum(tensor.numel() for tensor in learner.model.state_dict().values())
    trained = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
    for update in (1, 2):
        step(learner, update)
        sent.clear()
        sync(transport, update)
        assert sum(sent) == trained < everything / 3
        assert generator.checksum() == checksum(learner.weights())
        assert generator.version == update


def test_a_base_that_is_no_longer_the_same_is_sent_again(sent: list[int]) -> None:
    learner, generator = separate(policy_of())
    transport = InProcessTransport(learner, generator)
    sync(transport, 0)
    everything = sum(sent)
    for model in (generator.model, learner.model):  # damaged here; loaded from a checkpoint there
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        sent.clear()
        sync(transport, 1)
        assert sum(sent) == everything
        assert generator.checksum() == checksum(learner.weights())


def test_all_weights_are_sent_when_all_are_trained(sent: list[int]) -> None:
    learner = make_learner(make_model())
    generator = generator_of(make_model(seed=5))
    transport = InProcessTransport(learner, generator)
    for update in range(2):
        sent.clear()
        sync(transport, update)
        assert sum(sent) == sum(tensor.numel() for tensor in learner.model.state_dict().values())


def test_an_adapter_that_does_not_arrive_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, generator = separate(policy_of())
    transport = InProcessTransport(learner, generator)
    sync(transport, 0)
    step(learner, 1)
    monkeypatch.setattr(weight_sync.LearnerWeights, "trained", lambda self: iter(()))
    with pytest.raises(HoneError, match="version 1"):
        sync(transport, 1)


def on_mesh(mesh: Mesh) -> tuple[list[int], list[bool]]:
    policy = policy_of()

    def make() -> Any:
        return with_lora(make_model(), policy.lora)

    learner = LocalLearner(spread_tiny(mesh, make), policy, pad_token=PAD)
    with torch.device("meta"):
        empty = make()
    generator = generator_of(unsharded_copy(empty, learner.model, torch.device("cpu")))
    transport = InProcessTransport(learner, generator)
    sizes: list[int] = []
    real = weight_sync.full_tensor
    # This rank's own process.
    weight_sync.full_tensor = lambda tensor: (sizes.append(tensor.numel()), real(tensor))[1]
    totals, same = [], []
    for update in range(3):
        sizes.clear()
        sync(transport, update)
        totals.append(sum(sizes))
        same.append(generator.checksum() == checksum(learner.weights()))
        step(learner, update)
    return totals, same


def test_on_ranks() -> None:
    model = with_lora(make_model(), policy_of().lora)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    for totals, same in on_ranks(layout(shard=2), on_mesh):
        assert totals == [everything, trained, trained]
        assert all(same)


def test_it_decodes_what_the_merged_model_would() -> None:
    learner = make_learner(with_lora(make_model(), policy_of().lora), policy_of())
    for update in range(3):
        step(learner, update)
    prompts = [Prompt(id="a", tokens=(5, 6, 7), content=""), Prompt(id="b", tokens=(9,), content="")]
    sampling = Sampling(max_new_tokens=12, temperature=0.0)
    found = run(generator_of(learner.model).generate(prompts, sampling))
    plain = run(generator_of(make_model()).generate(prompts, sampling))
    again = run(generator_of(merged(learner.model)).generate(prompts, sampling))
    tokens = [[row[0].tokens for row in rows] for rows in (found, again, plain)]
    assert tokens[0] == tokens[1] != tokens[2]
