"""A head split over processes by the vocabulary, and the memory of a head with a large one."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from hone.model import linear_logprobs as module
from hone.model.linear_logprobs import VocabularyShard, linear_logprobs

HIDDEN, TOKENS = 16, 50
SHARDS = {2: (25, 25), 3: (17, 17, 16)}


@dataclass(frozen=True)
class Case:
    """One call. `shards` are the sizes that the ranks have; None: even ones."""

    rows: int = 23
    temperature: float = 1.0
    chunk: int | None = None
    keep: bool = False
    autocast: bool = False
    frozen: bool = False
    entropy: bool = False
    shards: tuple[int, ...] | None = None


CASES = {
    "many tiles": Case(),
    "logits kept": Case(keep=True),
    "temperature": Case(temperature=0.6),
    "chunks of 1": Case(chunk=1, temperature=1.7),
    "chunks of 5": Case(chunk=5),
    "one row": Case(rows=1),
    "no targets": Case(rows=0),
    "frozen head": Case(frozen=True),
    "entropy": Case(entropy=True, temperature=0.7),
    "entropy in chunks": Case(entropy=True, chunk=4),
    "entropy, logits kept": Case(entropy=True, keep=True),
    "bf16": Case(autocast=True),
    "bf16 in chunks": Case(autocast=True, chunk=4),
}
UNEVEN = {
    2: {"empty shard": Case(shards=(50, 0), entropy=True), "one column": Case(shards=(1, 49))},
    3: {"empty shard": Case(shards=(30, 0, 20)), "empty at the end": Case(shards=(1, 49, 0), chunk=5)},
}
EXACT = [name for name, case in CASES.items() if not case.autocast]


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, the whole weight, targets in every shard (some twice), and a gradient to send back."""
    generator = torch.Generator().manual_seed(0)
    hidden = 0.3 * torch.randn(case.rows, HIDDEN, generator=generator)
    weight = torch.randn(TOKENS, HIDDEN, generator=generator)
    targets = torch.randint(0, TOKENS, (case.rows,), generator=generator)
    targets[:4] = torch.tensor([7, 7, 0, TOKENS - 1])[: case.rows]
    return hidden, weight, targets, torch.randn(case.rows, generator=generator)


def call(case: Case, vocabulary: VocabularyShard | None = None, size: int = TOKENS) -> dict[str, Tensor]:
    """Values and gradients, on this rank's part of the weight."""
    hidden, weight, targets, grad = inputs(case)
    first = vocabulary.start if vocabulary else 0
    weight = weight[first : first + size].clone().requires_grad_(not case.frozen)
    hidden.requires_grad_()
    module.CHUNK_ELEMENTS, module.KEEP_ELEMENTS, module.KEEP_SHARE = 4 * 23, 0, float(case.keep)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.autocast):
        values = linear_logprobs(
            hidden,
            weight,
            targets,
            temperature=case.temperature,
            chunk_rows=case.chunk,
            vocabulary=vocabulary,
            entropy=case.entropy,
        )
    values.backward(torch.stack([grad, grad.flip(0)], 1) if case.entropy else grad)
    assert hidden.grad is not None
    weight_grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return {"values": values.detach(), "hidden": hidden.grad, "weight": weight_grad}


def rank_main(rank: int, world: int, folder: Path) -> None:
    """Every case once; the results, and how often the ranks spoke, to a file of the rank's own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        function = getattr(dist, name)
        return lambda *args, **kwargs: (calls.append(name), function(*args, **kwargs))[1]

    for name in ("all_reduce", "all_gather", "all_gather_into_tensor"):
        setattr(dist, name, counted(name))
    results = {}
    for name, case in {**CASES, **UNEVEN[world]}.items():
        shards = case.shards or SHARDS[world]
        calls.clear()
        shard = VocabularyShard(dist.group.WORLD, sum(shards[:rank]))  # type: ignore[arg-type]
        results[name] = {**call(case, shard, shards[rank]), "calls": tuple(calls)}
    torch.save(results, folder / f"rank_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, Any]]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "hone.model.linear_logprobs"])

    @cache
    def run(world: int) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp(f"world_{world}")
        ranks = [context.Process(target=rank_main, args=(rank, world, folder)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(60)
            process.kill()
        assert [process.exitcode for process in ranks] == [0] * world
        return [torch.load(folder / f"rank_{rank}.pt") for rank in range(world)]

    return run


@pytest.fixture(autouse=True)
def _constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """`call` changes them."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", module.CHUNK_ELEMENTS)
    monkeypatch.setattr(module, "KEEP_ELEMENTS", module.KEEP_ELEMENTS)
    monkeypatch.setattr(module, "KEEP_SHARE", module.KEEP_SHARE)


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-6, of the largest where that is above 1."""
    assert ours.shape == theirs.shape
    largest = max([1.0, *theirs.abs().flatten().tolist()])
    assert torch.allclose(ours, theirs, atol=1e-6 * largest, rtol=0)


@pytest.mark.parametrize("name", [*EXACT, "empty shard"])
@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_shards_give_what_the_whole_head_gives(of_ranks: Any, world: int, name: str) -> None:
    case = {**CASES, **UNEVEN[world]}[name]
    alone, ranks = call(case), [results[name] for results in of_ranks(world)]
    weight = torch.cat([rank["weight"] for rank in ranks])
    for ours, theirs in (
        (ranks[0]["values"], alone["values"]),
        (ranks[0]["hidden"], alone["hidden"]),
        (weight, alone["weight"]),
    ):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("name", ["one column", "empty at the end"])
def test_shards_of_any_size(of_ranks: Any, name: str) -> None:
    world = 2 if name == "one column" else 3
    alone, ranks = call(UNEVEN[world][name]), [results[name] for results in of_ranks(world)]
    assert_equal(ranks[0]["values"], alone["values"])
    assert_equal(torch.cat([rank["weight"] for rank in ranks]), alone["weight"])


@pytest.mark.parametrize("name", ["bf16", "bf16 in chunks"])
@pytest.mark.parametrize("world", [2, 3])
def test_shards_under_autocast(of_ranks: Any, world: int, name: str) -> None:
    """The logits are those of one process to the bit: what differs is where gradients are rounded."""
    alone, ranks = call(CASES[name]), [results[name] for results in of_ranks(world)]
    assert torch.allclose(ranks[0]["values"], alone["values"], atol=1e-5)
    exact = call(replace(CASES[name], autocast=False))
    weight = torch.cat([rank["weight"] for rank in ranks])
    for ours, theirs, best in (
        (ranks[0]["hidden"], alone["hidden"], exact["hidden"]),
        (weight, alone["weight"], exact["weight"]),
    ):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours, theirs, atol=0.02 * float(best.abs().max()))
        assert (ours - best).norm() < 1.1 * (theirs - best).norm() + 1e-6


@pytest.mark.parametrize("world", [2, 3])
def test_all_ranks_have_the_same_bits(of_ranks: Any, world: int) -> None:
    first, *others = of_ranks(world)
    for other in others:
        for name in first:
            assert torch.equal(first[name]["values"], other[name]["values"])
            assert torch.equal(first[name]["hidden"], other[name]["hidden"])


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_speak_twice_however_many_tiles(of_ranks: Any, world: int) -> None:
    """A rank that spoke once more than another, or in another order, would hang them all."""
    for results in of_ranks(world):
        for name, result in results.items():
            assert result["calls"] == ("all_gather", "all_reduce"), name


def test_a_target_outside_the_head_is_named() -> None:
    hidden, weight, targets, _ = inputs(Case())
    for wrong in (TOKENS, -100):
        targets[5] = wrong
        with pytest.raises(IndexError, match=f"{wrong}.* 50 rows"):
            linear_logprobs(hidden, weight, targets)


# ---- memory ----


def peak_of(function: Callable[[], Any], folder: Path) -> int:
    """Most bytes that the CPU allocator had given out at one time during a call, temporaries included."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    path = folder / "trace.json"
    profile.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        total += event["args"]["Bytes"]
        most = max(most, total)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_memory_at_a_large_vocabulary_is_at_most_a_third(
    tmp_path: Path, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer rows and a narrower model than the 8 x 1,024 tokens and 896 of the measurement: the gradient of the weight,
    which both have, is then as small a part of either as there. So few logits would all be kept."""
    monkeypatch.setattr(module, "KEEP_ELEMENTS", 0)
    rows, vocabulary, width = 256, 151_936, 32
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = (0.1 * torch.randn(vocabulary, width, generator=generator)).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    values: list[Tensor] = []

    def run(logprobs: Callable[[], Tensor]) -> Callable[[], None]:
        def both() -> None:
            hidden.grad = weight.grad = None
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                values.append(logprobs())
            values[-1].sum().backward()

        return both

    ours = peak_of(run(lambda: linear_logprobs(hidden, weight, targets)), tmp_path)
    full = peak_of(
        run(lambda: (hidden @ weight.t()).float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)),
        tmp_path,
    )
    assert torch.allclose(values[0], values[1], atol=1e-3)
    assert full > 2 * 4 * rows * vocabulary  # the measure sees the full logits and their gradient
    assert ours < full / 3
    lean = peak_of(run(lambda: linear_logprobs(hidden, weight, targets, chunk_rows=1024)), tmp_path)
    tile, gradient = 4 * module.CHUNK_ELEMENTS, 4 * weight.numel()
    assert lean < 3 * tile + (2.5 if autocast else 1) * gradient
