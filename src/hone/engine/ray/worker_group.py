"""The ranks of a run as Ray actors, each of which runs an `EngineWorker`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from hone.config import TrainingConfig
from hone.config.secrets import SECRETS
from hone.engine.distributed.worker import EngineWorker
from hone.engine.ray.nodes import NodeLost, ray, usable_nodes
from hone.engine.ray.watchdog import (
    LOOK_S,
    Watchdog,
    answer_of,
    background_loop,
    death_reason,
    is_communication_error,
)
from hone.errors import ClusterError, HoneError, TrainingError, WorkerLostError
from hone.files import last_lines
from hone.planning.parallel_dims import ParallelDims
from hone.version import __version__

if ray is not None:
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

START_S = 600.0
"""Seconds that a rank may take to start Python and import torch. All ranks of a node do this at the same time, and a
busy node is slow. A rank that dies meanwhile is noticed at once."""
GRACE_S = 5.0
"""Seconds to wait after the first failure for the rank that caused it, since its peers may fail first."""
NOTICE_S = 30.0
"""Seconds within which Ray notices that a node is gone."""
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT", "PYTHONPATH", "CUBLAS_WORKSPACE_CONFIG")
"""Environment variables that ranks are started with. Ray shows them to its clients and writes them into its logs."""
SECRET = ("HF_TOKEN",)
"""Environment variables that are sent to a rank after it has started."""
LOOPBACK_DEVICE = "lo0" if sys.platform == "darwin" else "lo"


class WorkerGroup:
    """The ranks of a run, or of one of its models with separate devices.

    `title` is the name of each rank in messages and in the name of its log file: `teacher rank {}`.
    """

    def __init__(
        self, config: TrainingConfig, dims: ParallelDims, *, threads: int, own: bool, title: str = "rank {}"
    ) -> None:
        self.config, self.dims, self.threads, self.own, self.title = config, dims, threads, own, title
        self.folder = Path(config.checkpointing.checkpoint_dir).resolve() / "workers"
        self.actors: list[Any] = []
        self.about: list[dict[str, Any]] = []
        self.group: Any = None

    def start(self) -> None:
        """Start the ranks and check that their versions and folders match. Raises ClusterError if they do not."""
        gpus = 0 if self.config.cluster.cpu_workers_per_node is not None else 1
        each = {"CPU": float(self.dims.per_node)}
        if gpus:
            each["GPU"] = float(self.dims.per_node)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.group = placement_group(
            [dict(each) for _ in range(self.dims.nodes)],
            strategy="STRICT_SPREAD" if self.dims.nodes > 1 else "PACK",
        )
        self._wait_for_room(each)
        remote = cast(Any, ray).remote(concurrency_groups={"control": 1, "files": 1})(EngineWorker)
        for rank in range(self.dims.world):
            place = PlacementGroupSchedulingStrategy(self.group, rank // self.dims.per_node)
            self.actors.append(
                remote.options(
                    num_cpus=1,
                    num_gpus=gpus,
                    scheduling_strategy=place,
                    runtime_env={"env_vars": self._environment()},
                ).remote(rank, os.getcwd(), str(self._log(rank)))
            )
        sign = self.folder / f".sign_{uuid.uuid4().hex}"
        sign.touch()
        try:
            self.about = self.call_all("identify", str(sign), self._secret(), seconds=START_S)
        finally:
            sign.unlink(missing_ok=True)
        self._check_alike()

    def join(self) -> None:
        """Join the ranks in one process group."""
        address = ray.get(self.actors[0].rendezvous.remote(self.own), timeout=START_S)
        # Longer than the watchdog's timeout, so that its error, which names the hanging rank, comes first.
        patience = 2 * self.config.cluster.worker_timeout_s + 60
        self.call_all("join", address, self.dims, patience, seconds=START_S)

    def _wait_for_room(self, each: dict[str, float]) -> None:
        """Wait until Ray has reserved the devices. Ray notices a lost node after about 15 s."""
        seconds = max(self.config.cluster.node_wait_s, NOTICE_S)
        deadline = time.monotonic() + seconds
        ready = self.group.ready()
        while not ray.wait([ready], timeout=1.0)[0]:
            if len(usable_nodes(self.config.cluster)) < self.dims.nodes:
                raise NodeLost
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the Ray cluster has no room for {self.dims.nodes} x {each}: something else runs on it "
                    f"(see `ray status`). Waited {seconds:.0f} s"
                )

    def _environment(self) -> dict[str, str]:
        return {
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            **self._devices(),
            **{name: value for name, value in self._passed_on().items() if SECRETS.scrub(value) == value},
        }

    def _passed_on(self) -> dict[str, str]:
        return {name: os.environ[name] for name in PASSED_ON if name in os.environ}

    def _secret(self) -> dict[str, str]:
        """Variables to send to a rank after its start: secret ones, and others that contain a secret, such as a URL
        with a password."""
        passed = {name: value for name, value in self._passed_on().items() if SECRETS.scrub(value) != value}
        return passed | {name: os.environ[name] for name in SECRET if name in os.environ}

    def _devices(self) -> dict[str, str]:
        """The network interface of the ranks' communication: the loopback if all ranks are on this machine."""
        if not self.own:
            return {}
        names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
        return {name: os.environ.get(name, LOOPBACK_DEVICE) for name in names}

    def _check_alike(self) -> None:
        ours = {"hone": __version__, "torch": torch.__version__.split("+")[0]}
        for rank, about in enumerate(self.about):
            who = f"{self.title.format(rank)} on {about['host']}"
            for name, version in ours.items():
                if about[name] != version:
                    raise ClusterError(
                        f"{who} has {name} {about[name]}, this process {version}: install "
                        "the same version on every machine"
                    )
            if not about["sees"]:
                raise ClusterError(
                    f"{who} does not see checkpointing.checkpoint_dir={self.folder.parent}: "
                    "name a folder that all machines share"
                )

    def call_all(self, method: str, *arguments: Any, seconds: float, thread: str | None = None) -> list[Any]:
        """Call a method of every rank, on the named `thread` if given, and wait for all results."""
        return asyncio.run_coroutine_threadsafe(
            self._settled(method, arguments, seconds, thread), background_loop()
        ).result()

    async def call_all_async(self, method: str, *arguments: Any) -> list[Any]:
        """The same from within a running loop."""
        future = asyncio.run_coroutine_threadsafe(
            self._settled(method, arguments, self.config.cluster.worker_timeout_s), background_loop()
        )
        return await asyncio.wrap_future(future)

    async def _settled(
        self, method: str, arguments: tuple[Any, ...], seconds: float, thread: str | None = None
    ) -> list[Any]:
        """All answers. Raises what the ranks raised, or WorkerLostError."""
        sent = [ray.put(argument) for argument in arguments]
        options = {"concurrency_group": thread} if thread is not None else {}
        refs = [getattr(actor, method).options(**options).remote(*sent) for actor in self.actors]
        answers = [asyncio.ensure_future(answer_of(ref)) for ref in refs]
        watchdog = Watchdog(self.actors, self.name, method, seconds)
        while True:
            done, waiting = await asyncio.wait(answers, timeout=LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            if any(answer.exception() is not None for answer in done):
                await asyncio.wait(answers, timeout=GRACE_S)
                raise self._cause(method, answers)
            if not waiting:
                return [answer.result() for answer in answers]
            hang = await watchdog.hang([rank for rank, answer in enumerate(answers) if not answer.done()])
            if hang is not None:
                for answer in answers:
                    answer.cancel()
                raise WorkerLostError(hang)

    def _cause(self, method: str, answers: Sequence[asyncio.Future[Any]]) -> BaseException:
        """The error to raise: a HoneError of any rank, otherwise one for a dead rank, otherwise the first error."""
        errors = {
            rank: error
            for rank, answer in enumerate(answers)
            if answer.done() and (error := answer.exception()) is not None
        }
        for answer in answers:
            answer.cancel()
        causes = {
            rank: error.cause if isinstance(error, RayTaskError) else error for rank, error in errors.items()
        }
        for rank, cause in causes.items():
            if isinstance(cause, HoneError):
                return cause
            if isinstance(cause, torch.OutOfMemoryError):
                return TrainingError(
                    f"{self.name(rank)} ran out of GPU memory in {method}: lower policy.train_micro_batch_size, set "
                    "policy.activation_checkpointing=true, or see `hone plan`"
                )
        for rank, error in errors.items():
            if isinstance(error, RayActorError):
                return WorkerLostError(
                    f"{self.name(rank)} died: {death_reason(error)}{last_lines(self._log(rank))}"
                )
        for rank, cause in causes.items():
            if isinstance(cause, RayError) or is_communication_error(cause):
                text = (str(cause).strip() or repr(cause)).splitlines()[0]
                return WorkerLostError(f"{self.name(rank)} lost its connection to the others: {text}")
        return next(iter(errors.values()))

    def name(self, rank: int) -> str:
        """The name of a rank in messages, with its process and host."""
        about = self.about[rank] if rank < len(self.about) else None
        name = self.title.format(rank)
        return f"{name} (pid {about['pid']} on {about['host']})" if about else name

    def _log(self, rank: int) -> Path:
        return self.folder / f"{self.title.format(rank).replace(' ', '_')}.log"

    def close(self) -> None:
        """Stop the ranks and release their devices."""
        for actor in self.actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)
        if self.group is not None:
            with contextlib.suppress(RayError):
                remove_placement_group(self.group)
        self.actors, self.group = [], None
