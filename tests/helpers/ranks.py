"""Several ranks in processes of their own, over gloo: the engine without its cluster. Not a test itself."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hone.engine.distributed.sharding import shard_model
from hone.model.mesh import Mesh, make_mesh
from hone.model.scorer import TokenScorer
from hone.planning.parallel_dims import ParallelDims


def layout(replicate: int = 1, shard: int = 1, context: int = 1, tensor: int = 1) -> ParallelDims:
    """A mesh on one machine."""
    return ParallelDims(1, replicate * shard * context * tensor, replicate, shard, context, tensor)


MESHES = {"dp2": layout(shard=2), "tp2": layout(tensor=2), "dp3": layout(shard=3), "cp2": layout(context=2)}
"""What every algorithm is compared on."""


def on_meshes(meshes: dict[str, ParallelDims] = MESHES, quick: str | None = "dp2") -> pytest.MarkDecorator:
    """A test on each mesh, as its argument `mesh`: all slow but the one called `quick`."""
    given = [
        pytest.param(mesh, id=name, marks=() if name == quick else pytest.mark.slow)
        for name, mesh in meshes.items()
    ]
    return pytest.mark.parametrize("mesh", given)


def on_ranks(
    shape: ParallelDims | int, work: Callable[..., Any], *args: Any, seconds: float = 120
) -> list[Any]:
    """What `work(*args)` returns on each rank. With ParallelDims its first argument is the Mesh.
    Raises what a rank did."""
    world = shape if isinstance(shape, int) else shape.world
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        answers = [Path(folder) / f"answer_{rank}" for rank in range(world)]
        store = f"{folder}/store"
        processes = [
            context.Process(target=_rank, args=(rank, shape, store, answers[rank], work, args), daemon=True)
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(seconds)
        for process in processes:
            process.kill()
        results = [torch.load(path, weights_only=False) if path.is_file() else None for path in answers]
    failed = [result for result in results if result is None or result[0] is not None]
    for result in failed:
        if result is not None:
            print(result[2])
    if failed:
        raise next((result[0] for result in failed if result is not None), TimeoutError("a rank is missing"))
    return [result[1] for result in results]


def _rank(
    rank: int,
    shape: ParallelDims | int,
    store: str,
    answer: Path,
    work: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    world = shape if isinstance(shape, int) else shape.world
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        mesh = () if isinstance(shape, int) else (make_mesh(shape.axes, "cpu"),)
        result = (None, work(*mesh, *args), "")
    except Exception as error:  # told to the test, which raises it
        result = (error, None, traceback.format_exc())
    torch.save(result, answer.with_suffix(".tmp"))
    os.replace(answer.with_suffix(".tmp"), answer)
    os._exit(0)


def spread_tiny(mesh: Mesh, make: Callable[[], Any], **settings: Any) -> TokenScorer:
    """A tiny model's scorer on a mesh; `make` gives the model with its weights."""

    def one(with_weights: bool) -> Any:
        if with_weights:
            return make()
        with torch.device("meta"):
            return make()

    usual = {"device": torch.device("cpu"), "temperature": 1.0, "chunk_rows": None}
    return shard_model(one, mesh, **usual | settings)
