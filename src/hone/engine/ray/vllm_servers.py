"""vLLM servers on the devices of a cluster: each is started by a Ray actor, and ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hone.config import OnlineConfig
from hone.engine.ray.nodes import NodeLost, ray
from hone.engine.ray.worker_group import WorkerGroup
from hone.engine.vllm.server import LOOPBACK, NAME, ServerSettings
from hone.engine.vllm.settings import training_settings
from hone.errors import WorkerLostError
from hone.planning.hardware import Hardware
from hone.planning.parallel_dims import ParallelDims
from hone.planning.placement import count_vllm_servers

if ray is not None:
    from ray.exceptions import RayError

CALL_S = 60.0
"""Of a call that starts a server, besides the start itself."""


@dataclass
class RayVLLMServer:
    """A server with the methods of VLLMServer, on the devices of the rank `first` of `workers` and its neighbours.

    `own`: the ranks are there for this server alone, and are started and closed with it; else they learn, too.
    """

    name: str
    workers: WorkerGroup
    settings: ServerSettings
    start_s: float
    first: int = 0
    own: bool = False
    url: str = ""
    model: str = NAME

    def start(self) -> None:
        """Start the actors, if they are the server's own, and the server. Raises WorkerLostError if it does not start
        in time."""
        if self.own:
            try:
                self.workers.start()
            except (NodeLost, RayError) as error:
                raise WorkerLostError(f"{self.name} lost its node: {error}") from error
        about = self.workers.about[self.first : self.first + self.settings.tensor_parallel_size]
        devices = ",".join(one["devices"] for one in about if one["devices"])
        urls = self.workers.call_all(
            "start_vllm",
            self.first,
            self.settings,
            str(self.workers.folder / f"{self.name.replace(' ', '_')}.log"),
            LOOPBACK if self.workers.own else about[0]["address"],
            devices,
            self.start_s,
            seconds=self.start_s + CALL_S,
        )
        self.url = urls[self.first]

    def stop(self) -> None:
        """Stop the server's own actors. A server on the learner's ranks ends with them, or when it is started again."""
        if self.own:
            self.workers.close()


def servers_on_cluster(
    config: OnlineConfig,
    workers: WorkerGroup,
    learner_hardware: Hardware,
    own_hardware: Hardware | None,
    threads: int,
) -> Iterator[RayVLLMServer]:
    """The servers of a run, on devices of their own or on those of the learner's `workers`."""
    settings, start_s = training_settings(config), config.policy.generation.vllm_cfg.start_timeout_s
    size = settings.tensor_parallel_size
    for i in range(count_vllm_servers(config, learner_hardware, own_hardware)):
        name = f"vLLM {i}"
        if own_hardware is None:
            yield RayVLLMServer(name, workers, settings, start_s, first=i * size)
            continue
        dims = ParallelDims(1, size, shard=size)
        group = WorkerGroup(config, dims, threads=threads, own=workers.own, title=f"{name} rank {{}}")
        yield RayVLLMServer(name, group, settings, start_s, own=True)
