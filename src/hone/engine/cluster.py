"""The only file that knows Ray: ranks as actors, each with a `Worker` for a body, and the verbs that reach all of them.

Every verb goes to all ranks at once with the same arguments, which travel once. Nothing waits for ever: a rank that
dies, or makes no progress, is named with its cause and the last lines of its log, and the whole group is replaced
(`hone.loop.keep_going`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

os.environ.setdefault(
    "RAY_AUTH_MODE", "disabled"
)  # read on import; with it Ray writes a token into the home folder
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError:
    ray = None  # type: ignore[assignment]

import torch
from transformers import PreTrainedTokenizerBase

import hone
from hone.config import GRPOConfig, SFTConfig
from hone.config.schema import ClusterConfig
from hone.engine import planner
from hone.engine.build import Engine
from hone.engine.layout import Layout
from hone.engine.place import machine_of
from hone.engine.worker import Worker
from hone.errors import ClusterError, ConfigError, HoneError, TrainingError, WorkerLostError, install_command
from hone.model.load import configured, resolve
from hone.model.parallel import check_parallel
from hone.model.shape import ModelShape
from hone.types import Completion, LossFn, Prompt, Sample, Sampling

START_S = 120.0
"""Seconds that a rank may take to start Python and import torch."""
LOOK_S = 5.0
"""Seconds between looks at the ranks' pulses, and what a rank has to answer."""
GRACE_S = 5.0
"""Seconds after the first failure in which the rank that caused it is looked for: its peers may fail before it."""
PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "PYTHONPATH", "CUBLAS_WORKSPACE_CONFIG")


def build_on_cluster(
    config: SFTConfig | GRPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    shape: ModelShape,
    *,
    recovering: bool,
) -> ClusterEngine:
    """Start the ranks, check that they can work together, and load the run's models onto them.

    Raises ConfigError and ClusterError before any weight is loaded, WorkerLostError when a rank is lost meanwhile.
    """
    policy = config.policy
    machine_of(config.cluster)
    own = connect(config.cluster)
    try:
        nodes = wait_for_nodes(config.cluster, recovering=recovering)
        config, choice = planner.resolve(config, shape, machine_of(config.cluster, nodes))
        check_parallel(
            configured(resolve(policy.model_name), policy.hf_config_overrides),
            choice.layout.axes,
            sequence_parallel=config.policy.sequence_parallel,
            lora=policy.lora.enabled,
        )
        workers = Workers(config, choice.layout, own=own)
    except BaseException:
        if own:
            ray.shutdown()
        raise
    try:
        workers.start()
        workers.everyone("build", config, choice.layout, seconds=config.cluster.worker_timeout_s)
    except BaseException:
        workers.close()
        raise
    missing = config.cluster.num_nodes - nodes
    notices = [
        f"{choice.layout} on {nodes} machine{'s' if nodes > 1 else ''}; logs of the ranks: {workers.folder}"
    ]
    if missing:
        notices.append(
            f"{missing} of {config.cluster.num_nodes} machines are missing: going on with those left"
        )
    online = isinstance(config, GRPOConfig)
    referred = isinstance(config, GRPOConfig) and bool(config.loss_fn.reference_policy_kl_penalty)
    return ClusterEngine(
        tokenizer,
        ClusterLearner(workers, "learner"),
        ClusterLearner(workers, "reference") if referred else None,
        ClusterGenerator(workers) if online else None,
        ranks=choice.layout.world,
        notices=notices,
        workers=workers,
    )


def connect(cluster: ClusterConfig) -> bool:
    """Be part of a Ray cluster; True if it was started here. Raises ClusterError for one that does not answer."""
    if ray is None:
        raise ConfigError(
            f"several devices need Ray: {install_command('hone[ray]')}, or set cluster.gpus_per_node=1"
        )
    if ray.is_initialized():
        return False
    address = cluster.ray_address or os.environ.get("RAY_ADDRESS")
    if address is None and cluster.num_nodes > 1:
        address = "auto"
    if address is not None and address != "auto":
        _check_answers(address)
    try:
        if address is not None:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="hone")
            return False
        ranks = cluster.cpu_workers_per_node or 0
        ray.init(
            address="local",  # never somebody else's that happens to run here
            num_cpus=max(os.cpu_count() or 1, ranks, cluster.gpus_per_node),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="hone",
        )
        return True
    except (ConnectionError, RayError, RuntimeError, ValueError, TimeoutError) as error:
        how = (
            "start Ray on every machine (`ray start --head` on the first, `ray start --address=FIRST:6379` on the "
            "others) and run this command on one of them, or name the cluster by cluster.ray_address"
        )
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(
            f"no Ray cluster at {address or 'this machine'}: {reason}. To use one, {how}"
        ) from error


def wait_for_nodes(cluster: ClusterConfig, *, recovering: bool) -> int:
    """The number of machines to go on with: all that are asked for, as soon as they are there.

    Raises ClusterError when too few come in `cluster.node_wait_s`, unless the run had them and is `recovering`.
    """
    deadline = time.monotonic() + cluster.node_wait_s
    said = False
    while (there := len(usable_nodes(cluster))) < cluster.num_nodes:
        if time.monotonic() > deadline:
            if recovering and there:
                return there
            kind = "CPUs" if cluster.cpu_workers_per_node else "GPUs"
            wanted = cluster.cpu_workers_per_node or cluster.gpus_per_node
            raise ClusterError(
                f"cluster.num_nodes={cluster.num_nodes}: of the Ray cluster's machines {there} have {wanted} {kind}. "
                "Let more join (`ray start --address=...`) or lower cluster.num_nodes"
            )
        if not said:
            print(
                f"waiting for machines: {there} of {cluster.num_nodes} are there", file=sys.stderr, flush=True
            )
            said = True
        time.sleep(1)
    return cluster.num_nodes


def usable_nodes(cluster: ClusterConfig) -> list[dict[str, Any]]:
    """Machines of the cluster that are alive and have what a machine of the run needs."""
    kind = "CPU" if cluster.cpu_workers_per_node is not None else "GPU"
    wanted = cluster.cpu_workers_per_node or cluster.gpus_per_node
    return [n for n in ray.nodes() if n["Alive"] and n["Resources"].get(kind, 0) >= wanted]


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"cluster.ray_address={address} does not answer ({error}): give HOST:PORT of a running Ray head, as "
            "`ray start --head` prints it"
        ) from error


class Workers:
    """The ranks of a run."""

    def __init__(self, config: SFTConfig | GRPOConfig, layout: Layout, *, own: bool) -> None:
        self.config, self.layout, self.own = config, layout, own
        self.folder = Path(config.checkpointing.checkpoint_dir).resolve() / "workers"
        self.actors: list[Any] = []
        self.about: list[dict[str, Any]] = []
        self.group: Any = None

    def start(self) -> None:
        """Start the ranks, let them say hello, and let them meet. Raises ClusterError for ranks that do not fit."""
        cluster = self.config.cluster
        gpus = 0 if cluster.cpu_workers_per_node is not None else 1
        each = {"CPU": float(self.layout.per_node)}
        if gpus:
            each["GPU"] = float(self.layout.per_node)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.group = placement_group(
            [dict(each) for _ in range(self.layout.nodes)],
            strategy="STRICT_SPREAD" if self.layout.nodes > 1 else "PACK",
        )
        try:
            ray.get(self.group.ready(), timeout=max(cluster.node_wait_s, 10.0))
        except GetTimeoutError as error:
            raise ClusterError(
                f"the Ray cluster has no room for {self.layout.nodes} x {each}: something else runs on it, or it is "
                f"smaller than that (`ray status` tells). Waited {max(cluster.node_wait_s, 10.0):.0f} s"
            ) from error
        remote = cast(Any, ray).remote(concurrency_groups={"control": 1})(Worker)
        for rank in range(self.layout.world):
            place = PlacementGroupSchedulingStrategy(self.group, rank // self.layout.per_node)
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
            self.about = self.everyone("hello", str(sign), seconds=START_S)
        finally:
            sign.unlink(missing_ok=True)
        self._check_alike()
        address = ray.get(self.actors[0].address.remote(), timeout=START_S)
        # Later than the watch, which says which rank it is that hangs.
        patience = 2 * cluster.worker_timeout_s + 60
        self.everyone("join", address, self.layout, patience, seconds=START_S)

    def _environment(self) -> dict[str, str]:
        threads = self.config.cluster.cpu_threads or max(1, (os.cpu_count() or 1) // self.layout.per_node)
        chosen = os.environ.get("OMP_NUM_THREADS") if self.config.cluster.cpu_threads is None else None
        return {
            "OMP_NUM_THREADS": chosen or str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        }

    def _check_alike(self) -> None:
        ours = {"hone": hone.__version__, "torch": torch.__version__.split("+")[0]}
        for rank, about in enumerate(self.about):
            for name, version in ours.items():
                if about[name] != version:
                    raise ClusterError(
                        f"rank {rank} on {about['host']} has {name} {about[name]}, this process {version}: install "
                        "the same version on every machine"
                    )
            if not about["sees"]:
                raise ClusterError(
                    f"rank {rank} on {about['host']} does not see checkpointing.checkpoint_dir={self.folder.parent}: "
                    "name a folder that all machines share"
                )

    def everyone(self, method: str, *arguments: Any, seconds: float) -> list[Any]:
        """Call a method of every rank and wait for all answers."""
        return asyncio.run_coroutine_threadsafe(
            self._settled(method, arguments, seconds), _side_loop()
        ).result()

    async def ask(self, method: str, *arguments: Any) -> list[Any]:
        """The same from within a running loop."""
        future = asyncio.run_coroutine_threadsafe(
            self._settled(method, arguments, self.config.cluster.worker_timeout_s), _side_loop()
        )
        return await asyncio.wrap_future(future)

    async def _settled(self, method: str, arguments: tuple[Any, ...], seconds: float) -> list[Any]:
        """All answers. Raises what the ranks raised, or WorkerLostError."""
        sent = [ray.put(argument) for argument in arguments]
        refs = [getattr(actor, method).remote(*sent) for actor in self.actors]
        answers = [asyncio.ensure_future(_answer(ref)) for ref in refs]
        watch = _Watch(self, method, seconds)
        while True:
            done, waiting = await asyncio.wait(answers, timeout=LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            if any(answer.exception() is not None for answer in done):
                await asyncio.wait(answers, timeout=GRACE_S)
                raise self._cause(method, answers)
            if not waiting:
                return [answer.result() for answer in answers]
            hung = await watch.hung([rank for rank, answer in enumerate(answers) if not answer.done()])
            if hung is not None:
                for answer in answers:
                    answer.cancel()
                raise WorkerLostError(hung)

    def _cause(self, method: str, answers: Sequence[asyncio.Future[Any]]) -> BaseException:
        """What to raise for what went wrong: what Hone itself raised, else the rank that died, else what is left."""
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
                return WorkerLostError(f"{self.name(rank)} died: {_why(error)}{self._last_lines(rank)}")
        for rank, cause in causes.items():
            if isinstance(cause, RayError) or _is_about_touch(cause):
                text = (str(cause).strip() or repr(cause)).splitlines()[0]
                return WorkerLostError(f"{self.name(rank)} lost touch with the others: {text}")
        return next(iter(errors.values()))

    def name(self, rank: int) -> str:
        """Which rank, where."""
        about = self.about[rank] if rank < len(self.about) else None
        return f"rank {rank} (pid {about['pid']} on {about['host']})" if about else f"rank {rank}"

    def _log(self, rank: int) -> Path:
        return self.folder / f"rank_{rank}.log"

    def _last_lines(self, rank: int, count: int = 5) -> str:
        try:
            lines = self._log(rank).read_text(errors="replace").strip().splitlines()[-count:]
        except OSError:
            return ""
        return (
            f"\nlast lines of {self._log(rank)}:\n" + "\n".join(f"  {line}" for line in lines)
            if lines
            else ""
        )

    def close(self) -> None:
        """Stop the ranks, and Ray if it was started here."""
        for actor in self.actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)
        if self.group is not None and not self.own:
            with contextlib.suppress(RayError):
                remove_placement_group(self.group)
        self.actors = []
        if self.own:
            ray.shutdown()


class _Watch:
    """Tells a long piece of work from a hang, by the ranks' pulses."""

    def __init__(self, workers: Workers, method: str, seconds: float) -> None:
        self.workers, self.method, self.seconds = workers, method, seconds
        self.counts: dict[int, int | None] = {}
        self.moved = time.monotonic()

    async def hung(self, waiting: Sequence[int]) -> str | None:
        """Why this is a hang, once no rank that is waited for has got on for long enough."""
        before, self.counts = self.counts, {}
        for rank in waiting:
            beat = await self._control(rank, "pulse")
            self.counts[rank] = beat[0] if beat is not None else None
        if any(count is not None and count != before.get(rank) for rank, count in self.counts.items()):
            self.moved = time.monotonic()
        if time.monotonic() - self.moved < self.seconds:
            return None
        # Who does not answer, else who is furthest behind: the others wait for it.
        rank = min(waiting, key=lambda rank: -1 if (count := self.counts[rank]) is None else count)
        stack = await self._control(rank, "stacks")
        where = f"; it is here:\n{stack}" if stack else "; it does not answer"
        return f"{self.workers.name(rank)} made no progress for {self.seconds:.0f} s in {self.method}{where}"

    async def _control(self, rank: int, method: str) -> Any:
        actor = self.workers.actors[rank]
        ref = getattr(actor, method).options(concurrency_group="control").remote()
        try:
            return await asyncio.wait_for(_answer(ref), LOOK_S)
        except (TimeoutError, asyncio.TimeoutError, RayError):
            return None


async def _answer(ref: Any) -> Any:
    return await asyncio.wrap_future(ref.future())


def _why(error: BaseException) -> str:
    """The part of Ray's account of a death that says something."""
    text = " ".join(str(error).split())
    for mark in ("Worker exit detail:", "The actor is dead because"):
        if mark in text:
            text = text.split(mark, 1)[1].strip()
    return text.split(" Some common causes")[0].rstrip(".") + " (killed, or out of memory?)"


def _is_about_touch(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(
        word in text
        for word in ("gloo", "nccl", "connection", "distbackend", "distnetwork", "timed out", "store")
    )


_SIDE: list[asyncio.AbstractEventLoop] = []


def _side_loop() -> asyncio.AbstractEventLoop:
    """An event loop on a thread of its own, for waiting on Ray from code that is and that is not async."""
    if not _SIDE:
        import threading

        _SIDE.append(asyncio.new_event_loop())
        threading.Thread(target=_SIDE[0].run_forever, daemon=True, name="ray-answers").start()
    return _SIDE[0]


class ClusterLearner:
    """A model on all ranks: the learner, or the reference."""

    def __init__(self, workers: Workers, part: str) -> None:
        self.workers, self.part = workers, part

    async def forward(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        """As `LocalLearner.forward`."""
        return await self._call("forward", list(samples))

    async def forward_backward(self, samples: Sequence[Sample], loss: LossFn) -> dict[str, float]:
        """As `LocalLearner.forward_backward`."""
        return await self._call("forward_backward", list(samples), loss)

    async def optim_step(self) -> dict[str, float]:
        """As `LocalLearner.optim_step`."""
        return await self._call("optim_step")

    async def save(self, path: Path) -> None:
        """Every rank writes its part below `path`, which all of them see."""
        await self._call("save", path.resolve())

    async def load(self, path: Path) -> None:
        """Every rank reads its part, whatever mesh wrote it."""
        await self._call("load", path.resolve())

    def weights(self) -> Workers:
        """Where they are: they go from the ranks' learners to the ranks' generators, not through here."""
        return self.workers

    async def _call(self, verb: str, *arguments: Any) -> Any:
        return (await self.workers.ask("call", self.part, verb, arguments))[0]


class ClusterGenerator:
    """A generator on every rank, each with all of the weights; prompts are shared out."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        """As `LocalGenerator.generate`: a completion is the same wherever it is sampled."""
        shares = await self.workers.ask("generate", list(prompts), sampling, count)
        return [shares[i % len(shares)][i // len(shares)] for i in range(len(prompts))]

    async def update_weights(self, version: int, weights: Workers) -> None:
        """As `LocalGenerator.update_weights`, on every rank."""
        assert weights is self.workers
        await self.workers.ask("take_weights", version)


@dataclass
class ClusterEngine(Engine):
    """All of it on the ranks of a cluster."""

    workers: Workers = field(kw_only=True)

    def close(self) -> None:
        """Stop the ranks."""
        self.workers.close()

    def can_grow(self) -> bool:
        """Whether machines that are asked for, and were missing, have come."""
        cluster, nodes = self.workers.config.cluster, self.workers.layout.nodes
        return nodes < cluster.num_nodes and len(usable_nodes(cluster)) > nodes

    async def usage(self) -> dict[str, float]:
        """`host_memory_gib` and, on GPUs, `gpu_memory_gib` of the fullest rank, mean `gpu_utilization`."""
        found = [one for one in await self.workers.ask("usage") if one]
        merged: dict[str, float] = {}
        for name in found[0] if found else ():
            values = [one[name] for one in found if name in one]
            merged[name] = max(values) if name.endswith("gib") else sum(values) / len(values)
        return merged
