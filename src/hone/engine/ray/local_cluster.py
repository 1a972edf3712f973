"""Ray on this machine, for one run alone: nobody else reaches it, and none of its processes outlives a failed start.

Its servers run what they are told to, so they listen on the loopback address alone, and ask for a token that only this
process and its children have.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from typing import Any

import psutil

from hone.errors import ClusterError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported: it would report its use

try:
    import ray
except ImportError:
    ray = None  # type: ignore[assignment]

ATTEMPTS = 3
"""Ray gives its raylet 30 s, which a busy machine may need for that alone."""
LOOPBACK = "127.0.0.1"
TOKEN = secrets.token_hex(32)
_ours: list[str] = []
"""Variables of the environment that this module has set."""


def start(cpus: int) -> None:
    """Start Ray with that many CPUs to give away. Raises ClusterError when it does not start."""
    before = _children()
    for left in reversed(range(ATTEMPTS)):
        try:
            _init(cpus)
            break
        except Exception as error:  # Ray raises no narrower one
            stop()
            _end(_children() - before)
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            if not left:
                raise ClusterError(
                    f"Ray did not start on this machine in {ATTEMPTS} attempts: {reason}. Is it short of memory, or "
                    "busy with something else? One process needs no Ray: cluster.cpu_workers_per_node=null and "
                    "cluster.gpus_per_node=1"
                ) from error
            print(f"Ray did not start ({reason}): once more", file=sys.stderr, flush=True)
    address = ray.util.get_node_ip_address()
    if address != LOOPBACK:
        stop()
        raise ClusterError(
            f"Ray {ray.__version__} listens on {address}, where others may reach it: install the version that "
            "constraints.txt names"
        )


def _init(cpus: int) -> None:
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.append(name)
    _read_environment()
    with _loopback_only():
        ray.init(
            address="local",  # never somebody else's that happens to run here
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="hone",
        )


def stop() -> None:
    """Stop what `start` started; the environment is as it was before."""
    ray.shutdown()
    for name in _ours:
        os.environ.pop(name, None)
    _ours.clear()
    _read_environment()


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Ray listens on the address that it takes for its node's; for the loopback it has a switch, made for other systems
    than Linux, that is read when Ray is imported."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _read_environment() -> None:
    """Have Ray look at RAY_AUTH_MODE again: it does so when it is imported. One without tokens has no such thing."""
    inside: Any = importlib.import_module("ray._raylet")
    with contextlib.suppress(AttributeError):
        inside.Config.initialize("")
        inside.AuthenticationTokenLoader.instance().reset_cache()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    """End what a failed start has left: Ray forgets it."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)
