"""Connect to a Ray cluster, and find the nodes that a run can use."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from typing import Any

from hone.config.schema import ClusterConfig
from hone.engine.ray import local_cluster
from hone.engine.ray.local_cluster import ray
from hone.errors import ClusterError, ConfigError, install_command

if ray is not None:
    from ray.exceptions import RayError


class NodeLost(Exception):
    """A node that Ray listed as alive is gone."""


def connect(cluster: ClusterConfig) -> bool:
    """Connect to a Ray cluster, or start a local one; returns whether it was started here.

    Raises ConfigError if Ray is not installed, ClusterError if the cluster does not answer.
    """
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
    if address is None:
        ranks = (cluster.cpu_workers_per_node or 0) + cluster.reserved_devices
        local_cluster.start(max(os.cpu_count() or 1, ranks, cluster.gpus_per_node))
        return True
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="hone")
        return False
    except (ConnectionError, RayError, RuntimeError, ValueError, TimeoutError) as error:
        how = (
            "start Ray on every machine (`ray start --head` on the first, `ray start --address=FIRST:6379` on the "
            "others) and run this command on one of them, or name the cluster by cluster.ray_address"
        )
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(f"no Ray cluster at {address}: {reason}. To use one, {how}") from error


def wait_for_nodes(cluster: ClusterConfig, *, recovering: bool) -> int:
    """Wait for `cluster.num_nodes` nodes, and return the number of nodes to use.

    Raises ClusterError if too few join within `cluster.node_wait_s`. A `recovering` run continues with fewer nodes.
    """
    deadline = time.monotonic() + cluster.node_wait_s
    reported = False
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
        if not reported:
            print(
                f"waiting for machines: {there} of {cluster.num_nodes} are there", file=sys.stderr, flush=True
            )
            reported = True
        time.sleep(1)
    return cluster.num_nodes


def usable_nodes(cluster: ClusterConfig) -> list[dict[str, Any]]:
    """Nodes of the cluster that are alive and have the devices that the run needs on each node."""
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
