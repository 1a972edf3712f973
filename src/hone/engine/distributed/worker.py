"""One rank of a run: a process whose body is the in-process engine, independent of how it was started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hone.config import OnlineConfig, TrainingConfig
from hone.engine.base import WeightPublisher, WeightReceiver
from hone.engine.distributed.heartbeat import HEARTBEAT, doing
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.local_engine import build_generator, build_local, build_teacher, tokenizer_of
from hone.engine.vllm.launch import publisher_for
from hone.engine.vllm.server import ServerSettings, VLLMServer
from hone.engine.weight_files import FileReceiver
from hone.model.mesh import communication, make_mesh
from hone.planning.parallel_dims import ParallelDims
from hone.types import Completion, Generator, Prompt, Sampling
from hone.version import __version__

VERBS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "forward": lambda model, samples: model.forward(samples),
    "entropies": lambda model, samples: model.entropies(samples),
    "topk_logprobs": lambda model, samples, k: model.topk_logprobs(samples, k),
    "forward_backward": lambda model, samples, loss: model.forward_backward(samples, loss),
    "optim_step": lambda model: model.optim_step(),
    "save": lambda model, path, wait: model.save(path, wait=wait),
    "load": lambda model, path: model.load(path),
}
"""The methods of a model that `EngineWorker.call` may call."""


class EngineWorker:
    """One rank. Its methods are called one at a time, with two exceptions, each on its own thread: `heartbeat` and
    `stacks`, and `wait_for_save`."""

    def __init__(
        self, rank: int, folder: str, log: str | None, between_tokens: Callable[[], None] = lambda: None
    ) -> None:
        """`between_tokens`: see LocalGenerator; it may call `receive_weights` and `abort`."""
        self.rank, self.between_tokens = rank, between_tokens
        if os.path.isdir(folder):
            os.chdir(folder)  # relative paths are relative to the directory of the command
        if log is not None and os.path.isdir(os.path.dirname(log)):
            _write_to(log)
        self.models: dict[str, Any] = {}
        """By role: learner, reference, value, teacher."""
        self.generator: Generator | None = None
        self.publisher: WeightPublisher | None = None
        self.receiver: WeightReceiver | None = None
        self.listener: socket.socket | None = None
        self.server: VLLMServer | None = None

    def identify(self, sign: str | None, secret: Mapping[str, str]) -> dict[str, Any]:
        """Host and address, process id, GPUs, versions, and whether this rank sees the file `sign` in the run's folder.
        `secret` are environment variables to set, which must not pass through Ray's settings."""
        os.environ.update(secret)
        return {
            "host": socket.gethostname(),
            "address": socket.gethostbyname(socket.gethostname()),
            "devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "pid": os.getpid(),
            "hone": __version__,
            "torch": torch.__version__.split("+")[0],
            "sees": sign is None or os.path.isfile(sign),
        }

    def rendezvous(self, here: bool) -> str:
        """An address for the ranks' rendezvous: a port of this node, on the loopback if all ranks are `here`."""
        host = "127.0.0.1" if here else socket.gethostbyname(socket.gethostname())
        self.listener = socket.create_server((host, 0), backlog=1024)
        return f"{host}:{self.listener.getsockname()[1]}"

    def join(self, address: str, dims: ParallelDims, timeout_s: float) -> None:
        """Join the process group of all ranks."""
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
            master_listen_fd=None if self.listener is None else self.listener.detach(),
        )
        dist.init_process_group(
            communication(), store=store, rank=self.rank, world_size=dims.world, timeout=patience
        )

    def build(self, config: TrainingConfig, dims: ParallelDims, weights: Path | None, for_vllm: bool) -> None:
        """Load the run's models onto the mesh. `weights`: the folder of the weights for generators in processes of
        their own, which are vLLM servers or Hone's."""
        with doing("loading the model"):
            device = _device(config)
            mesh = make_mesh(dims.axes, device.type)
            engine = build_local(config, tokenizer_of(config), device, mesh, weights)
        roles = {"learner": engine.learner, "reference": engine.reference, "value": engine.value}
        self.models = {name: model for name, model in roles.items() if model is not None}
        if engine.teacher is not None:
            self.models["teacher"] = engine.teacher
        self.generator, self.receiver = engine.generator, engine.transport
        self.publisher = engine.publisher or engine.transport
        if for_vllm and weights is not None and isinstance(config, OnlineConfig):
            self.publisher = publisher_for(engine.learner, config, weights)

    def build_generator(self, config: OnlineConfig, weights: Path) -> None:
        """Load only a generator, which receives its weights from the folder `weights`."""
        with doing("loading the model"):
            self.generator = build_generator(config, tokenizer_of(config), self.between_tokens)
        self.receiver = FileReceiver(self.generator, weights)

    def start_vllm(
        self, rank: int, settings: ServerSettings, log: str, host: str, devices: str, start_s: float
    ) -> str | None:
        """Start a vLLM server in this process's charge, if this is the rank for it, in place of the one that it had.
        Returns its URL."""
        if rank != self.rank:
            return None
        if self.server is not None:
            self.server.stop()
        visible = {"CUDA_VISIBLE_DEVICES": devices} if devices else {}
        settings = replace(settings, environment={**settings.environment, **visible})
        self.server = VLLMServer(settings, Path(log), start_s=start_s, host=host)
        with doing("starting vLLM"):
            self.server.start()
        return self.server.url

    def build_teacher(self, config: OnlineConfig, dims: ParallelDims, vocabulary: int) -> None:
        """Load only the teacher onto the mesh."""
        with doing("loading the teacher"):
            device = _device(config)
            mesh = make_mesh(dims.axes, device.type)
            teacher = build_teacher(config, tokenizer_of(config), device, mesh, vocabulary=vocabulary)
        self.models = {"teacher": teacher}

    def call(self, role: str, verb: str, *arguments: Any) -> Any:
        """Call a method of a model. All ranks are called with the same arguments; the first rank returns the result."""
        with doing(f"{role}.{verb}"):
            result = asyncio.run(VERBS[verb](self.models[role], *arguments))
        return result if self.rank == 0 else None

    def wait_for_save(self, role: str) -> None:
        """Return when all saves are on the disk."""
        self.models[role].wait_for_save()

    def publish_weights(self, version: int) -> None:
        """Make the learner's weights available as `version`."""
        assert self.publisher is not None
        with doing("learner.publish_weights"):
            asyncio.run(self.publisher.publish(version))

    def receive_weights(self, version: int) -> None:
        """Load the weights that were published as `version` into this process's generator."""
        assert self.receiver is not None
        with doing("generator.receive_weights"):
            _completed(self.receiver.receive(version))

    def abort(self, keys: Sequence[tuple[str, int]]) -> None:
        """End completions that are being sampled (see LocalGenerator.abort)."""
        assert isinstance(self.generator, LocalGenerator)
        self.generator.abort(keys)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, count: int) -> list[list[Completion]]:
        """Completions of prompts rank, rank + world, rank + 2 world …; without a process group, of all prompts."""
        own = prompts[self.rank :: dist.get_world_size() if dist.is_initialized() else 1]
        assert self.generator is not None
        with doing("generator.generate"):
            return asyncio.run(self.generator.generate(own, sampling, count=count)) if own else []

    def heartbeat(self) -> tuple[int, str]:
        """The count of progress, and the current operation."""
        return HEARTBEAT.count, HEARTBEAT.doing

    def stacks(self) -> str:
        """The stack of the working thread, innermost call last."""
        own = sys._getframe()
        frames = [frame for frame in sys._current_frames().values() if frame is not own]
        inside = ["".join(traceback.format_stack(frame)[-6:]) for frame in frames]
        return next((text for text in inside if "hone" in text), inside[0] if inside else "")

    def usage(self) -> Mapping[str, float]:
        """The peak memory of this process in GiB, and the peak memory and utilization of its GPU."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {"host_memory_gib": peak / 2**20 if sys.platform != "darwin" else peak / 2**30}
        if torch.cuda.is_available():
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            with contextlib.suppress(ImportError, RuntimeError):  # NVML is missing or fails
                found["gpu_utilization"] = float(torch.cuda.utilization())
        return found


def _completed(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing; also where an event loop is running, between two tokens."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError(f"{coroutine} waits for something")


def _device(config: TrainingConfig) -> torch.device:
    """This rank's device: the CPU, or the only GPU that is visible to it."""
    if config.cluster.cpu_workers_per_node is not None:
        return torch.device("cpu")
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device


def _write_to(log: str) -> None:
    """Redirect the output of this process, libraries included, to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
