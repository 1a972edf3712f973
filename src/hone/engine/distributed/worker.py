"""One rank of a run: a process whose body is the in-process engine. It knows nothing of how it was started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hone.config import DistillConfig, OnlineConfig, SFTConfig
from hone.engine.build import Engine, LocalTeacher, build_here, build_teacher, tokenizer_of
from hone.engine.distributed.heartbeat import HEARTBEAT, doing
from hone.model.mesh import communication, make_mesh
from hone.planning.parallel_dims import ParallelDims
from hone.types import Completion, Generator, Prompt, Sampling
from hone.version import __version__


class Worker:
    """All methods are called one at a time, but for `pulse` and `stacks`, and `written`: those at any time, each of the
    two sorts from a thread of its own."""

    def __init__(self, rank: int, folder: str, log: str | None) -> None:
        self.rank = rank
        if os.path.isdir(folder):
            os.chdir(folder)  # relative paths mean what they mean where the command was typed
        if log is not None and os.path.isdir(os.path.dirname(log)):
            _write_to(log)
        self.engine: Engine | LocalTeacher | None = None
        self.door: socket.socket | None = None

    def hello(self, sign: str | None, secret: Mapping[str, str]) -> dict[str, Any]:
        """Who this is, and whether it sees the file `sign` in the run's folder. `secret`: variables of the environment
        that nobody else is to see."""
        os.environ.update(secret)
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "hone": __version__,
            "torch": torch.__version__.split("+")[0],
            "sees": sign is None or os.path.isfile(sign),
        }

    def address(self, here: bool) -> str:
        """Where the ranks may meet: a port of this machine, which listens on the address by which the others know it;
        `here`: all are on this machine."""
        host = "127.0.0.1" if here else socket.gethostbyname(socket.gethostname())
        self.door = socket.create_server((host, 0), backlog=1024)
        return f"{host}:{self.door.getsockname()[1]}"

    def join(self, address: str, dims: ParallelDims, timeout_s: float) -> None:
        """Meet the other ranks."""
        host, _, port = address.rpartition(":")
        patience = timedelta(seconds=timeout_s)
        # PyTorch's own socket would listen on every address of the machine.
        store = dist.TCPStore(
            host,
            int(port),
            dims.world,
            self.rank == 0,
            timeout=patience,
            wait_for_workers=False,
            master_listen_fd=None if self.door is None else self.door.detach(),
        )
        dist.init_process_group(
            communication(),
            store=store,
            rank=self.rank,
            world_size=dims.world,
            timeout=patience,
        )

    def build(self, config: SFTConfig | OnlineConfig, dims: ParallelDims) -> None:
        """Load the run's models onto the mesh."""
        with doing("loading the model"):
            device = _device(config)
            mesh = make_mesh(dims.axes, device.type)
            self.engine = build_here(config, tokenizer_of(config), device, mesh)

    def build_teacher(self, config: DistillConfig, dims: ParallelDims, vocabulary: int) -> None:
        """Load the teacher alone onto the mesh."""
        with doing("loading the teacher"):
            device = _device(config)
            mesh = make_mesh(dims.axes, device.type)
            self.engine = build_teacher(config, tokenizer_of(config), device, mesh, vocabulary=vocabulary)

    def call(self, part: str, verb: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """A verb of a model, by its name in the engine. Every rank is called alike; the first answers for all."""
        with doing(f"{part}.{verb}"):
            result = asyncio.run(getattr(getattr(self.engine, part), verb)(*arguments, **named))
        return result if self.rank == 0 else None

    def written(self, part: str) -> None:
        """Return when what a part's `save` was given is on the disk."""
        getattr(self.engine, part).written()

    def take_weights(self, version: int) -> None:
        """Give this rank's generator the learner's weights."""
        with doing("generator.update_weights"):
            asyncio.run(self._generator.update_weights(version, self._engine.learner.weights()))

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, count: int) -> list[list[Completion]]:
        """This rank's share of the prompts, every `world`-th from its own number on."""
        own = prompts[self.rank :: dist.get_world_size()]
        with doing("generator.generate"):
            return asyncio.run(self._generator.generate(own, sampling, count=count)) if own else []

    @property
    def _engine(self) -> Engine:
        assert isinstance(self.engine, Engine)
        return self.engine

    @property
    def _generator(self) -> Generator:
        assert self._engine.generator is not None
        return self._engine.generator

    def pulse(self) -> tuple[int, str]:
        """The count of what has been done, and what is being done."""
        return HEARTBEAT.count, HEARTBEAT.doing

    def stacks(self) -> str:
        """Where the working thread is, innermost call last."""
        own = sys._getframe()
        frames = [frame for frame in sys._current_frames().values() if frame is not own]
        inside = ["".join(traceback.format_stack(frame)[-6:]) for frame in frames]
        return next((text for text in inside if "hone" in text), inside[0] if inside else "")

    def usage(self) -> Mapping[str, float]:
        """This process's memory and its GPU's load."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"host_memory_gib": peak / 2**20 if sys.platform != "darwin" else peak / 2**30}
        if torch.cuda.is_available():
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            with contextlib.suppress(ImportError, RuntimeError):  # no NVML, or it refuses
                found["gpu_utilization"] = float(torch.cuda.utilization())
        return found


def _device(config: SFTConfig | OnlineConfig) -> torch.device:
    """This rank's device: the CPU, or the one GPU that it sees."""
    if config.cluster.cpu_workers_per_node is not None:
        return torch.device("cpu")
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device


def _write_to(log: str) -> None:
    """Send what this process prints, its libraries included, to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
