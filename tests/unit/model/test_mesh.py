"""A mesh in one process, which no launcher has set up."""

from __future__ import annotations

from multiprocessing import get_context
from typing import Any

from ranks import spread_tiny
from tiny import make_model

from hone.model.mesh import mesh_of_one


def alone(answer: Any) -> None:
    mesh = mesh_of_one("cpu")
    again = mesh_of_one("cpu")  # the process group is there already
    scorer = spread_tiny(mesh, make_model)
    numbers = sum(parameter.numel() for parameter in scorer.parameters())
    answer.put(([mesh.size(axis) for axis in ("data", "context", "tensor")], again.rank("data"), numbers))


def test_a_process_can_be_a_mesh_by_itself() -> None:
    context = get_context("fork")  # a process group would stay with the tests that come after
    answer = context.Queue()
    process = context.Process(target=alone, args=(answer,))
    process.start()
    expected = sum(parameter.numel() for parameter in make_model().parameters())
    assert answer.get(timeout=60) == ([1, 1, 1], 0, expected)
    process.join()
