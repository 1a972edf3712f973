"""Several generator servers as one generator: batches, losses, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from generating import ROWS, Server, make_generator, make_prompts
from tiny import make_learner, make_model, run, sft_config

from hone.engine.generator_group import GeneratorGroup
from hone.engine.weight_files import FilePublisher
from hone.errors import HoneError, WeightSyncError, WorkerLostError
from hone.types import Completion, Prompt, Sampling

SAMPLING = Sampling(max_new_tokens=8, seed=3)


def group_of(folder: Path, *lost_at: Sequence[int], max_restarts: int = 3) -> GeneratorGroup:
    """A group that holds version 5 of a learner's weights."""
    servers = [Server(f"generator {i}", folder, calls, seed=20 + i) for i, calls in enumerate(lost_at)]
    group = GeneratorGroup(servers, batch_size=ROWS, max_restarts=max_restarts)
    group.start()
    run(FilePublisher(make_learner(make_model(), sft_config().policy).weights, folder).publish(5))
    run(group.receive(5))
    return group


def alone(count: int) -> list[list[Completion]]:
    """Of one built-in generator with the same weights."""
    generator = make_generator(make_model(), max_rows=ROWS)
    generator.version = 5
    return run(generator.generate(make_prompts(), SAMPLING, count=count))


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("servers", [1, 2, 3])
def test_completions_are_those_of_one_generator_to_the_bit(servers: int, count: int, tmp_path: Path) -> None:
    group = group_of(tmp_path, *[()] * servers)
    assert run(group.generate(make_prompts(), SAMPLING, count=count)) == alone(count)


def test_free_servers_share_the_batches(tmp_path: Path) -> None:
    group = group_of(tmp_path, (), ())
    run(group.generate(make_prompts(), SAMPLING, count=8))
    assert [server.batches for server in group.servers] == [5, 5]  # type: ignore[attr-defined]


@pytest.mark.parametrize("lost_at", [(1,), (2,), (3,), (2, 3)])
def test_completions_of_a_lost_server_are_sampled_again(
    lost_at: Sequence[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = group_of(tmp_path, lost_at, ())
    assert run(group.generate(make_prompts(), SAMPLING, count=4)) == alone(4)
    assert "generator 0 died\nstarting generator 0 again" in capsys.readouterr().err
    assert [server.starts for server in group.servers] == [1 + len(lost_at), 1]  # type: ignore[attr-defined]


def test_all_servers_may_be_lost_at_once(tmp_path: Path) -> None:
    group = group_of(tmp_path, (2,), (2,))
    assert run(group.generate(make_prompts(), SAMPLING, count=4)) == alone(4)


def test_a_server_that_is_lost_again_and_again_ends_the_call(tmp_path: Path) -> None:
    group = group_of(tmp_path, range(2, 100), (), max_restarts=2)
    with pytest.raises(WorkerLostError, match="generator 0 died"):
        run(group.generate(make_prompts(), SAMPLING, count=4))


def test_losses_are_counted_anew_for_each_version(tmp_path: Path) -> None:
    group = group_of(tmp_path, (2, 7), max_restarts=1)
    for _ in range(2):
        assert run(group.generate(make_prompts(), SAMPLING, count=1)) == alone(1)
        run(group.receive(5))


def test_what_a_generator_raises_is_raised(tmp_path: Path) -> None:
    group = group_of(tmp_path, (), ())
    with pytest.raises(HoneError, match="no room for an answer"):
        run(group.generate([*make_prompts(), Prompt("long", (5,) * 64, "text")], SAMPLING))
    assert run(group.generate(make_prompts(), SAMPLING)) == alone(1)


def test_after_a_version_that_is_not_there_a_restart_brings_the_one_before(tmp_path: Path) -> None:
    group = group_of(tmp_path, (3,))
    with pytest.raises(WeightSyncError):
        run(group.receive(6))
    assert run(group.generate(make_prompts(), SAMPLING, count=1)) == alone(1)
