"""What cannot be placed stops with a message before a model loads, and before Ray starts where it can."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import command

SMALL = ("sft.max_num_steps=1", "cluster.cpu_workers_per_node=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["policy.pipeline_parallel_size=2"],
            "policy.pipeline_parallel_size=2: Hone has no pipeline parallelism",
        ),
        (["policy.precision=float16"], "policy.precision=float16 is for one device"),
        (["cluster.ray_address=127.0.0.1:1"], "cluster.ray_address=127.0.0.1:1 does not answer"),
        (["cluster.ray_address=nowhere"], "cluster.ray_address=nowhere does not answer"),
        (
            ["policy.tensor_parallel_size=1", "policy.sequence_parallel=true"],
            "policy.sequence_parallel=true is a part of tensor parallelism",
        ),
    ],
)
def test_before_anything_starts(overrides: list[str], message: str, tmp_path: Path) -> None:
    ended = command("-m", "hone", "sft", *SMALL, *overrides, cwd=tmp_path)
    assert ended.code != 0
    assert ended.err.startswith("error: ")
    assert message in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.context_parallel_size=3"], "do not multiply out to the 2 devices"),
        (
            ["cluster.cpu_workers_per_node=3", "policy.tensor_parallel_size=3"],
            "policy.tensor_parallel_size=3 does not divide",
        ),
    ],
)
def test_before_a_model_loads(overrides: list[str], message: str, tmp_path: Path) -> None:
    ended = command("-m", "hone", "sft", *SMALL, *overrides, cwd=tmp_path)
    assert ended.code != 0
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert "step 1/" not in ended.out
