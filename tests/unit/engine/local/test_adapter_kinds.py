"""Every kind of adapter: what it begins as, that it resumes to the bit, and that ranks train it as one process does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, make_learner, make_model, make_samples, run, sft_config

from hone.algorithms import sft
from hone.engine.local.adalora import RankSchedule
from hone.engine.local.learner import LocalLearner
from hone.engine.local.local_engine import BaseModelScorer
from hone.errors import CheckpointError
from hone.model.adapters import NAME, with_lora
from hone.model.mesh import Mesh

pytest.importorskip("peft")

ADAMW = {"name": "torch.optim.AdamW", "kwargs": {"lr": 3e-3, "eps": 1e-4}}
UPDATES = 6
ADALORA = {"adalora": {"enabled": True, "init_r": 4, "total_step": UPDATES, "tinit": 1, "tfinal": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "adalora": ADALORA,
    "xavier": {"init_lora_weights": "xavier"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, fast": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "dora, rslora": {"use_dora": True, "use_rslora": True, "dropout": 0.1},
}


def policy_of(kind: str, **more: Any) -> Any:
    lora = {"enabled": True, "dim": 2, "alpha": 4.0, **KINDS[kind]}
    return sft_config(optimizer=ADAMW, train_micro_batch_size=2, lora=lora, **more).policy


def learner_of(kind: str, seed: int = 0) -> LocalLearner:
    policy = policy_of(kind)
    torch.manual_seed(seed)
    return make_learner(with_lora(make_model(), policy.lora, seed=seed), policy)


def train(learner: LocalLearner, updates: range) -> list[dict[str, float]]:
    return [run(sft.step(learner, make_samples(5, seed=update))) for update in updates]


def copy_of(learner: LocalLearner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.weights()}


QUICK = ("dora", "adalora", "pissa", "xavier")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_it_begins_as_the_base_and_trains_the_adapters_alone(kind: str) -> None:
    learner, samples = learner_of(kind), make_samples(4)
    base = run(make_learner().forward(samples))
    for ours, theirs in zip(run(learner.forward(samples)), base, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    before = copy_of(learner)
    train(learner, range(3))
    changed = {name for name, weight in learner.weights() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    without = run(BaseModelScorer(learner).forward(samples))
    same = all(torch.allclose(a, b, rtol=0, atol=2e-5) for a, b in zip(without, base, strict=True))
    assert (
        same == policy_of(kind).lora.base_is_initial_model
    )  # what has been taken out of the base is missing


def test_scales_are_the_papers() -> None:
    scales = {}
    for kind in ("lora", "rslora"):
        layer = learner_of(kind).model.base_model.model.model.layers[0].self_attn.q_proj
        scales[kind] = layer.scaling[NAME]
    assert scales["lora"] == 4.0 / 2
    assert scales["rslora"] == pytest.approx(4.0 / 2**0.5)


def test_xavier_has_the_spread_that_it_is_named_for() -> None:
    policy = sft_config(lora={"enabled": True, "dim": 32, "init_lora_weights": "xavier"}).policy
    weights = dict(with_lora(make_model(), policy.lora).named_parameters())
    first = torch.cat([w.flatten() for n, w in weights.items() if "lora_A" in n and w.shape == (32, 32)])
    assert float(first.std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_adapters_are_drawn_with_the_seed_alone() -> None:
    policy = policy_of("lora")
    one = with_lora(make_model(), policy.lora, seed=3)
    model = make_model()
    torch.rand(5)
    other = with_lora(model, policy.lora, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    third = with_lora(make_model(), policy.lora, seed=4)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), third.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "done"),
    [
        ("adalora", 2),
        ("adalora", 5),
        ("pissa", 2),
        *(pytest.param(kind, 2, marks=pytest.mark.slow) for kind in ("lora", "dora", "dora, rslora")),
    ],
)
def test_going_on_is_bit_exact(kind: str, done: int, tmp_path: Path) -> None:
    """AdaLoRA: once while ranks fall, once after they have fallen."""
    first = learner_of(kind)
    train(first, range(done))
    run(first.save(tmp_path))
    second = learner_of(kind, seed=1)
    run(second.load(tmp_path))
    assert second.updates == done
    histories = []
    for learner in (first, second):
        torch.manual_seed(7)  # dropout: a process's generators are the run's to restore
        histories.append(train(learner, range(done, done + 4)))
    assert histories[0] == histories[1]
    theirs = copy_of(first)
    assert all(torch.equal(weight, theirs[name]) for name, weight in second.weights())
    if kind == "adalora":
        assert second.rank_schedule is not None
        assert second.rank_schedule.mean_rank() == first.rank_schedule.mean_rank()  # type: ignore[union-attr]


def test_adaloras_state_is_asked_for(tmp_path: Path) -> None:
    plain = learner_of("lora")
    run(plain.save(tmp_path / "plain"))
    learner = learner_of("adalora")
    run(learner.save(tmp_path / "own"))
    state = torch.load(tmp_path / "own" / "optimizer" / "schedule.pt", weights_only=True)
    state["ranks"] = None
    torch.save(state, tmp_path / "own" / "optimizer" / "schedule.pt")
    with pytest.raises(CheckpointError, match="AdaLoRA"):
        run(learner.load(tmp_path / "own"))


def test_ranks_fall_as_the_papers_schedule_says() -> None:
    """From 4 to 2 over updates 1 to 4 of 6: 2 (1 - (t - 1) / 3)^3 + 2 of each matrix, and from then on 2."""
    learner = learner_of("adalora")
    matrices = len(learner.rank_schedule.allocator.name_set)  # type: ignore[union-attr]
    assert matrices == 2 * 7
    ranks = [metrics["adapter_rank"] for metrics in train(learner, range(8))]
    budget = [int(matrices * 2 * (1 - (t - 1) / 3) ** 3 + matrices * 2) for t in (2, 3)]
    assert ranks == pytest.approx([4, budget[0] / matrices, budget[1] / matrices, 2, 2, 2, 2, 2])
    left = [int((weight != 0).sum()) for name, weight in learner.model.named_parameters() if "lora_E" in name]
    assert sum(left) == 2 * matrices
    assert len(set(left)) > 1  # some layers kept more than others


def test_the_penalty_is_the_papers_whatever_the_micro_batch() -> None:
    learner = learner_of("adalora")
    wanted, parts = 0.0, []
    for name, weight in learner.model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            w = weight.detach()
            square = w @ w.T if "lora_A" in name else w.T @ w
            parts.append(float((square - torch.eye(4)).norm()))
    wanted = 0.5 * sum(parts) / len(parts)
    found = train(learner, range(1))[0]["orthogonality_loss"]
    assert found == pytest.approx(wanted, rel=1e-6)
    other = make_learner(with_lora(make_model(), policy_of("adalora").lora), policy_of("adalora"))
    other.policy.train_micro_batch_size = 5
    train(other, range(1))
    again = learner_of("adalora")
    train(again, range(1))
    theirs = copy_of(other)
    for name, weight in again.weights():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6)


def test_the_penaltys_gradient_by_hand() -> None:
    """Of |A A' - I| it is 2 (A A' - I) A / |A A' - I|, and likewise of B, each by the weight over their number."""
    learner = learner_of("adalora")
    run(learner.forward_backward(make_samples(3), sft.sft_loss))
    adapters = {
        name: p for name, p in learner.model.named_parameters() if "lora_A" in name or "lora_B" in name
    }
    before = {name: p.grad.clone() for name, p in adapters.items() if p.grad is not None}
    assert learner.rank_schedule is not None
    learner.rank_schedule.penalize()
    for name, p in adapters.items():
        w = (p.T if "lora_B" in name else p).detach()
        gap = w @ w.T - torch.eye(4)
        wanted = 2 * gap @ w / gap.norm() * 0.5 / len(adapters)
        assert p.grad is not None
        added = p.grad - before[name]
        torch.testing.assert_close(added.T if "lora_B" in name else added, wanted, rtol=1e-4, atol=1e-6)


def test_only_adalora_has_a_schedule() -> None:
    assert RankSchedule.of(make_model()) is None
    assert RankSchedule.of(learner_of("dora").model) is None


def on_mesh(mesh: Mesh | None, kind: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    policy = policy_of(kind)

    def make() -> Any:
        return with_lora(make_model(), policy.lora)

    model = make() if mesh is None else spread_tiny(mesh, make)
    learner = LocalLearner(model, policy, pad_token=PAD)
    return train(learner, range(UPDATES)), copy_of(learner)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("dora"),
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("adalora", "lora", "rslora", "pissa", "xavier")
        ),
    ],
)
def test_two_ranks_train_as_one_process(kind: str) -> None:
    history, weights = on_mesh(None, kind)
    for theirs, spread in on_ranks(layout(shard=2), partial(on_mesh, kind=kind)):
        for one, two in zip(history, theirs, strict=True):
            assert two == pytest.approx(one, rel=1e-5, abs=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(spread[name], weight, rtol=0, atol=1e-5)
