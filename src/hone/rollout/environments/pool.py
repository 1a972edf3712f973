"""EnvironmentPool: the environments of a configuration, and the processes that run them for rollouts.

    with EnvironmentPool(config.env, log) as pool:          # raises for an unusable environment
        async with pool.acquire(name) as handle:            # a process for one rollout
            await pool.call(handle, "open", row, prompt)

A rollout keeps its process until it ends; `num_workers` of an environment limits the number of processes. A process
that hangs or dies during a call is killed and replaced: only that call fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hone.config import dialects
from hone.config.schema import EnvConfig
from hone.rollout.environments.processes import EnvProcess, EnvServer
from hone.rollout.workers.child_process import CallFailed, Died, open_log

DEFAULT = ""
"""The name of the environment for prompts that name none."""


class EnvHandle:
    """The process of one rollout's environment; None before the first call."""

    def __init__(self, server: EnvServer, process: EnvProcess | None) -> None:
        self.server, self.process = server, process
        self.calling = False


class EnvironmentPool:
    """Environments in processes. Construct, `start`, use `acquire` and `call`, `close`."""

    def __init__(self, config: EnvConfig, log_path: str | Path | None = None) -> None:
        self.configs = {**({DEFAULT: config} if config.is_configured else {}), **config.named}
        self._handler, log = open_log(log_path if self.configs else None)
        self.servers = {name: EnvServer(name or "default", one, log) for name, one in self.configs.items()}
        self._idle: dict[str, list[EnvProcess]] = {name: [] for name in self.servers}
        self._processes: set[EnvProcess] = set()
        capacity = sum(one.num_workers for one in self.configs.values())
        self._threads = ThreadPoolExecutor(max(1, capacity), thread_name_prefix="hone-environment")
        self._capacity: dict[str, asyncio.Semaphore] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def __bool__(self) -> bool:
        return bool(self.servers)

    def start(self) -> EnvironmentPool:
        """Import every environment. Raises ConfigError for one that is unusable, or whose tools cannot be described."""
        try:
            for server in self.servers.values():
                server.start()
        except BaseException:
            self.close()
            raise
        return self

    def name_for(self, env: str) -> str | None:
        """The name of the environment for a prompt's `env`; None without one."""
        if env in self.servers:
            return env
        return DEFAULT if DEFAULT in self.servers and env not in dialects.reward_environments() else None

    def described(self, name: str) -> Mapping[str, Any]:
        """An environment's `schemas` (of its tools), its `name`, whether it is `stateless`, and whether it `steps`."""
        return self.servers[name].described

    @contextlib.asynccontextmanager
    async def acquire(self, name: str) -> AsyncIterator[EnvHandle]:
        """A process for one rollout, once the capacity allows it."""
        if self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self._capacity = {n: asyncio.Semaphore(one.num_workers) for n, one in self.configs.items()}
        async with self._capacity[name]:
            idle = self._idle[name]
            handle = EnvHandle(self.servers[name], idle.pop() if idle else None)
            try:
                yield handle
            finally:
                if handle.process is not None and handle.calling:
                    handle.process.close()  # the rollout was cancelled during a call
                elif handle.process is not None and handle.process.open:
                    self._idle[name].append(handle.process)

    async def call(self, handle: EnvHandle, op: str, *arguments: Any) -> Any:
        """Call a rollout's environment. Raises CallFailed; after TimedOut or Died the process is gone."""
        if handle.process is None or not handle.process.open:
            if op != "open" and not handle.server.described["stateless"]:
                raise Died("process died")
            handle.process = await self._run(handle.server.fork)
            self._processes = {process for process in self._processes if process.open} | {handle.process}
        handle.calling = True  # stays so if the rollout is cancelled during the call
        try:
            reply = await self._run(handle.process.call, op, arguments, handle.server.config.timeout_s)
        except CallFailed:
            handle.calling = False
            raise
        handle.calling = False
        return reply

    async def _run(self, function: Any, *arguments: Any) -> Any:
        def work() -> Any:  # CallFailed is returned: an exception in a future would keep frames alive
            try:
                return function(*arguments)
            except CallFailed as failed:
                return failed

        found = await asyncio.wrap_future(self._threads.submit(work))
        if isinstance(found, CallFailed):
            raise found
        return found

    def pids(self) -> list[int]:
        """Process ids of the rollouts' processes."""
        return [process.pid for process in self._processes if process.open]

    def close(self) -> None:
        """Kill every process."""
        for process in self._processes:
            process.close()
        for server in self.servers.values():
            server.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._handler is not None:
            self._handler.close()

    def __enter__(self) -> EnvironmentPool:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()
