"""A vLLM server that this run starts, watches and stops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2

from hone.engine.vllm import guardian
from hone.engine.vllm.plugin import BACKEND
from hone.errors import WorkerLostError

LOOPBACK = "127.0.0.1"
TAIL_LINES = 15
POLL_S = 0.2
CPU_BATCH_TOKENS = 4096
NAME = "policy"
"""The name under which a server that Hone started has the policy."""


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with."""

    model: str
    context: int
    dtype: str
    logprobs_mode: str
    tokenizer: str | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    enforce_eager: bool = False
    trust_remote_code: bool = False
    overrides: Mapping[str, Any] | None = None
    """Of the model's config."""
    trained: bool = True
    """Whether weights come from a learner; else they are those of `model`."""
    seed: int = 0
    sleeps: bool = False
    """Whether it can give up its memory for a time."""
    on_cpu: bool = False
    arguments: Sequence[str] = ()
    """Further arguments of `vllm serve`, as they are."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, port: int, host: str = LOOPBACK) -> list[str]:
        """The arguments of `vllm`."""
        options = {
            "host": host,
            "port": port,
            "served-model-name": NAME,
            "max-model-len": self.context,
            "dtype": self.dtype,
            "logprobs-mode": self.logprobs_mode,
            "tensor-parallel-size": self.tensor_parallel_size,
            # vLLM would use Ray where it finds it.
            "distributed-executor-backend": "mp" if self.tensor_parallel_size > 1 else None,
            "max-num-batched-tokens": max(self.context, CPU_BATCH_TOKENS) if self.on_cpu else None,
            "seed": self.seed,
            "tokenizer": self.tokenizer,
            "hf-overrides": json.dumps(dict(self.overrides)) if self.overrides else None,
            # Weights come from the learner: what does not come is noticed at once. Adapters come without their base.
            "load-format": "dummy" if self.trained and "--enable-lora" not in self.arguments else "auto",
            "weight-transfer-config": json.dumps({"backend": BACKEND}) if self.trained else None,
            "gpu-memory-utilization": self.gpu_memory_utilization,
        }
        switches = {
            "enable-scale-out": True,
            "enable-sleep-mode": self.sleeps,
            "enforce-eager": self.enforce_eager or self.on_cpu,
            "trust-remote-code": self.trust_remote_code,
            # vLLM 0.32 fails on a CPU where a prompt of a request with a seed is read in several parts.
            "no-enable-chunked-prefill": self.on_cpu,
        }
        given = [
            text for key, value in options.items() if value is not None for text in (f"--{key}", str(value))
        ]
        given += [f"--{key}" for key, on in switches.items() if on]
        return ["serve", self.model, *given, *self.arguments]

    @property
    def lora_rank(self) -> int | None:
        """The largest rank of an adapter; None without adapters."""
        given = dict(pairwise(self.arguments))
        return int(given["--max-lora-rank"]) if "--max-lora-rank" in given else None

    def variables(self) -> dict[str, str]:
        """The environment: the routes for weights, and on a CPU vLLM's settings for it."""
        own = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        if self.on_cpu:
            own |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        return own


class VLLMServer:
    """A server that this process starts; it ends with this process, however that ends. `log`: where its output goes;
    `host`: the address that it listens on."""

    name = "vLLM"
    model = NAME

    def __init__(
        self, settings: ServerSettings, log: Path, *, start_s: float = 900.0, host: str = LOOPBACK
    ) -> None:
        self.settings, self.log, self.start_s, self.host = settings, log, start_s, host
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Return when it answers. Raises WorkerLostError, with the end of its output, if it ends or takes longer."""
        port = free_port(self.host)
        self.url = f"http://{self.host}:{port}"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        runner = [sys.executable, guardian.__file__]  # as a script: to import this package takes seconds
        vllm = [sys.executable, "-m", "vllm.entrypoints.cli.main"]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*runner, *vllm, *self.settings.command(port, self.host)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self.settings.variables(), **os.environ, **self.settings.environment},
                start_new_session=True,
            )
        deadline = time.monotonic() + self.start_s
        while not is_healthy(self.url):
            self.check()
            if time.monotonic() > deadline:
                raise WorkerLostError(f"the vLLM server was not ready after {self.start_s:g} s{self._tail()}")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raise WorkerLostError, with the end of its output, if the server has ended."""
        if self.process is None or (code := self.process.poll()) is None:
            return
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise WorkerLostError(f"the vLLM server ended ({ending}){self._tail()}")

    def stop(self) -> None:
        """Kill it, with all that it started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = None

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "".join([f". The end of {self.log}:", *(f"\n  {line}" for line in lines)])


def is_healthy(url: str) -> bool:
    """Whether a server answers there."""
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"{url}/health", trust_env=False).status_code == httpx2.codes.OK
    return False


def free_port(host: str) -> int:
    """A port of an address of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
