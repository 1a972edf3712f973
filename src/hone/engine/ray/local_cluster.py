"""A private Ray cluster on this machine for one run. A failed start leaves no process behind.

Ray's servers execute any request, so they listen only on the loopback address, and require a token that only this
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

os.environ.setdefault(
    "RAY_USAGE_STATS_ENABLED", "0"
)  # read when Ray is imported: it would send usage statistics

try:
    import ray
except ImportError:
    ray = None  # type: ignore[assignment]

ATTEMPTS = 3
"""Ray gives its raylet 30 s to start, which is too short on a busy machine."""
LOOPBACK = "127.0.0.1"
TOKEN = secrets.token_hex(32)
_ours: list[str] = []
"""Environment variables that this module has set."""


def start(cpus: int) -> None:
    """Start Ray with `cpus` logical CPUs. Raises ClusterError if it does not start."""
    before = _children()
    for left in reversed(range(ATTEMPTS)):
        try:
            _init(cpus)
            break
        except Exception as error:  # Ray raises no more specific type
            stop()
            _end(_children() - before)
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            if not left:
                raise ClusterError(
                    f"Ray did not start on this machine in {ATTEMPTS} attempts: {reason}. Is the machine short of "
                    "memory, or busy? One process needs no Ray: cluster.cpu_workers_per_node=null and "
                    "cluster.gpus_per_node=1"
                ) from error
            print(f"Ray did not start ({reason}); trying again", file=sys.stderr, flush=True)
    address = ray.util.get_node_ip_address()
    if address != LOOPBACK:
        stop()
        raise ClusterError(
            f"Ray {ray.__version__} listens on {address}, which other machines may reach: install the version in "
            "constraints.txt"
        )


def _init(cpus: int) -> None:
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.append(name)
    _read_environment()
    with _loopback_only():
        ray.init(
            address="local",  # never another user's cluster on this machine
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="hone",
        )


def stop() -> None:
    """Stop the cluster of `start`, and restore the environment."""
    ray.shutdown()
    for name in _ours:
        os.environ.pop(name, None)
    _ours.clear()
    _read_environment()


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Make Ray listen on the loopback during the block. Ray normally listens on its node's address. It has a switch for
    the loopback, meant for systems other than Linux, which it reads on import."""
    from ray._private import ray_constants

    previous = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = previous


def _read_environment() -> None:
    """Make Ray read RAY_AUTH_MODE again, which it does on import. A version without tokens lacks these classes."""
    inside: Any = importlib.import_module("ray._raylet")
    with contextlib.suppress(AttributeError):
        inside.Config.initialize("")
        inside.AuthenticationTokenLoader.instance().reset_cache()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    """Kill the processes of a failed start, which Ray leaves behind."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)
