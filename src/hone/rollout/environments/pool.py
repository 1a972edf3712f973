"""EnvironmentPool: the environments of a configuration, and the processes that rollouts have them in.

    with EnvironmentPool(config.env, log) as pool:                # a wrong environment stops here
        async with pool.room(name) as seat:                       # a process of one's own for one rollout
            await pool.call(seat, "open", row, prompt)

A rollout keeps its process until it ends; `num_workers` of an environment bounds how many live at once. A process whose
call hangs or that dies is killed and replaced: that call alone fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hone.config.schema import EnvConfig
from hone.rollout.environments.processes import Host, Seat
from hone.rollout.rewards.reward_pool import open_log
from hone.rollout.rewards.worker_process import CallFailed, Died

DEFAULT = ""
"""The environment of prompts that name none."""


class Place:
    """Where one rollout's environment runs: a seat, or, once that is gone, nothing."""

    def __init__(self, host: Host, seat: Seat | None) -> None:
        self.host, self.seat = host, seat
        self.calling = False


class EnvironmentPool:
    """Environments behind processes. Construct, `start`, use `room` and `call`, `close`."""

    def __init__(self, config: EnvConfig, log_path: str | Path | None = None) -> None:
        named = {DEFAULT: config} if config.given else {}
        self.configs = {**named, **config.named}
        self._handler, log = open_log(log_path if self.configs else None)
        self.hosts = {name: Host(name or "default", one, log) for name, one in self.configs.items()}
        self._idle: dict[str, list[Seat]] = {name: [] for name in self.hosts}
        self._seats: set[Seat] = set()
        most = sum(one.num_workers for one in self.configs.values())
        self._threads = ThreadPoolExecutor(max(1, most), thread_name_prefix="hone-environment")
        self._rooms: dict[str, asyncio.Semaphore] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def __bool__(self) -> bool:
        return bool(self.hosts)

    def start(self) -> EnvironmentPool:
        """Import every environment. Raises ConfigError for what is none, or has tools that cannot be described."""
        try:
            for host in self.hosts.values():
                host.start()
        except BaseException:
            self.close()
            raise
        return self

    def name_for(self, env: str) -> str | None:
        """Which environment a prompt's `env` means; None: it has none."""
        if env in self.hosts:
            return env
        return DEFAULT if DEFAULT in self.hosts and env not in EnvConfig.not_entries else None

    def described(self, name: str) -> Mapping[str, Any]:
        """What an environment is: `schemas` of its tools, its `name`, whether it is `stateless`."""
        return self.hosts[name].described

    @contextlib.asynccontextmanager
    async def room(self, name: str) -> AsyncIterator[Place]:
        """A process for one rollout, as soon as one is free."""
        if self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self._rooms = {n: asyncio.Semaphore(one.num_workers) for n, one in self.configs.items()}
        async with self._rooms[name]:
            idle = self._idle[name]
            place = Place(self.hosts[name], idle.pop() if idle else None)
            try:
                yield place
            finally:
                if place.seat is not None and place.calling:
                    place.seat.close()  # the rollout was given up while it was asked
                elif place.seat is not None and place.seat.open:
                    self._idle[name].append(place.seat)

    async def call(self, place: Place, op: str, *arguments: Any) -> Any:
        """One call of a rollout's environment. Raises CallFailed; after TimedOut or Died its process is gone."""
        if place.seat is None or not place.seat.open:
            if op != "open" and not place.host.described["stateless"]:
                raise Died("process died")
            place.seat = await self._run(place.host.fork)
            self._seats = {seat for seat in self._seats if seat.open} | {place.seat}
        place.calling = True
        try:
            found = await self._run(place.seat.call, op, arguments, place.host.config.timeout_s)
        except CallFailed:
            place.calling = False
            raise
        place.calling = False
        return found

    async def _run(self, function: Any, *arguments: Any) -> Any:
        def work() -> Any:  # a CallFailed is handed on as a value: an exception would keep frames alive
            try:
                return function(*arguments)
            except CallFailed as failed:
                return failed

        found = await asyncio.wrap_future(self._threads.submit(work))
        if isinstance(found, CallFailed):
            raise found
        return found

    def pids(self) -> list[int]:
        """Process ids of the rollouts' processes that live now."""
        return [seat.pid for seat in self._seats if seat.open]

    def close(self) -> None:
        """Kill every process."""
        for seat in self._seats:
            seat.close()
        for host in self.hosts.values():
            host.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._handler is not None:
            self._handler.close()

    def __enter__(self) -> EnvironmentPool:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()
