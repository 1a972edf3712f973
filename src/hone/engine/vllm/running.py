"""A vLLM server that runs already, found by its URL, and what a run needs of it."""

from __future__ import annotations

import re
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hone.engine.vllm.client import ask, has_route
from hone.engine.vllm.plugin import BACKEND
from hone.engine.vllm.server import LOOPBACK, POLL_S, ServerSettings, is_healthy
from hone.errors import ClusterError, ConfigError, GeneratorError, WorkerLostError
from hone.model.model_size import ModelSize

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_OF_WORKER = re.compile(r"Worker failed with error '(.*)', please check", re.DOTALL)


class RunningServer:
    """A server at a URL, with the methods of VLLMServer. `needed`: what a server that the run started would have.

    `size`: that of the learner's model; None for a server with weights of its own. `wait_s`: how long it may take to
    answer.
    """

    def __init__(
        self, url: str, needed: ServerSettings, size: ModelSize | None = None, *, wait_s: float = 0.0
    ) -> None:
        self.url, self.needed, self.size, self.wait_s = url, needed, size, wait_s
        self.name, self.model = f"vLLM at {url}", ""

    def start(self) -> None:
        """Wait until it answers. Raises ClusterError if it does not, and ConfigError if the run cannot use it."""
        deadline = time.monotonic() + self.wait_s
        while not is_healthy(self.url):
            if time.monotonic() >= deadline:
                waited = f" within {self.wait_s:g} s" if self.wait_s else ""
                raise ClusterError(f"no vLLM server answers at {self.url}{waited}: {self.remedy}")
            time.sleep(POLL_S)
        self.check()

    def stop(self) -> None:
        """It goes on: others may use it, and the run did not start it."""

    @property
    def remedy(self) -> str:
        """How to start a server that the run can use."""
        parts = urlsplit(self.url)
        host = LOOPBACK if are_on_this_machine([self.url]) else "0.0.0.0"
        variables = [f"{name}={value}" for name, value in self.needed.variables().items()]
        command = self.needed.command(parts.port or 80, host)
        return f"start one by `{shlex.join([*variables, 'vllm', *command])}`"

    def check(self) -> None:
        """Raise ConfigError if the server is not what the run needs."""
        info = self._ask_for_interface("GET", "/server_info?config_format=json")["vllm_config"]
        self._check_settings(info)
        self._check_route("/inference/v1/generate", "--enable-scale-out")
        if self.needed.lora_rank is not None:
            self._check_route("/v1/load_lora_adapter", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1")
        models = ask(self.url, "GET", "/v1/models")["data"]
        self.model, path = next((m["id"], m["root"]) for m in models if m["parent"] is None)
        if self.size is not None:
            expected = _expected(self.size)
            self._ask_for_interface(
                "POST", "/init_weight_transfer_engine", {"init_info": {"expected": expected}}
            )
            return
        if path != self.needed.model:
            raise ConfigError(
                f"{self.url} has the model {path}, not {self.needed.model}: evaluate that one, or start another server"
            )
        if (version := ask(self.url, "GET", "/weight_info")["weight_version"]) != "default":
            raise ConfigError(
                f"{self.url} has weights that a run has sent ({version}), not those of {path}: start it again"
            )

    def check_folder(self, folder: Path) -> None:
        """Raise ConfigError if the server does not see `folder`, which weights are published in."""
        sign = folder.resolve() / f".sign_{uuid.uuid4().hex}"
        sign.touch()
        try:
            self._ask_for_interface(
                "POST", "/init_weight_transfer_engine", {"init_info": {"sign": str(sign)}}
            )
        finally:
            sign.unlink()

    def _check_settings(self, info: Mapping[str, Any]) -> None:
        model, needed = info["model_config"], self.needed
        if model["max_model_len"] < needed.context:
            raise ConfigError(
                f"{self.url} was started with --max-model-len {model['max_model_len']}, and rollouts may have "
                f"{needed.context} tokens: start it with {needed.context}, or lower the run's longest sequence to it"
            )
        found: dict[str, tuple[Any, Any]] = {
            "--dtype": (model["dtype"].removeprefix("torch."), needed.dtype),
            "--logprobs-mode": (model["logprobs_mode"], needed.logprobs_mode),
        }
        if needed.trained:
            backend = (info["weight_transfer_config"] or {}).get("backend")
            found["--weight-transfer-config"] = (f'{{"backend": "{backend}"}}', f'{{"backend": "{BACKEND}"}}')
        if (wanted := needed.lora_rank) is not None:
            rank = (info["lora_config"] or {}).get("max_lora_rank", 0)
            found["--enable-lora --max-lora-rank"] = (wanted if rank >= wanted else rank, wanted)
        if info["device_config"]["device"] == "cpu":
            chunked = info["scheduler_config"]["enable_chunked_prefill"]
            found["--no-enable-chunked-prefill"] = (not chunked, True)
        for option, (has, needs) in found.items():
            if has != needs:
                raise ConfigError(
                    f"{self.url} was started with {option} {has}, and the run needs {needs}: {self.remedy}"
                )

    def _check_route(self, path: str, option: str) -> None:
        """Raise ConfigError if the server does not have a route, since it was started without `option`."""
        if not has_route(self.url, path):
            raise ConfigError(f"{self.url} was started without {option}, which the run needs: {self.remedy}")

    def _ask_for_interface(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call a route for reinforcement learning. Raises ConfigError if the server lacks it or refuses."""
        try:
            return ask(self.url, method, path, body)
        except GeneratorError as error:
            raise ConfigError(
                f"{self.url} lacks vLLM's routes for weights ({error}): {self.remedy}"
            ) from error
        except WorkerLostError as error:
            found = _OF_WORKER.search(str(error))
            raise ConfigError(f"{self.url} {found[1] if found else error}") from error


def check_servers(urls: Sequence[str], needed: ServerSettings, size: ModelSize | None) -> None:
    """Raise ClusterError for a server that does not answer, and ConfigError for one that the run cannot use."""
    for url in urls:
        RunningServer(url, needed, size).start()


def are_on_this_machine(urls: Sequence[str]) -> bool:
    """Whether all servers are reached without a network."""
    return all(urlsplit(url).hostname in LOCAL_HOSTS for url in urls)


def _expected(size: ModelSize) -> dict[str, Any]:
    """Sizes that tell models apart, by their names in config.json."""
    return {
        "vocab_size": size.vocabulary,
        "model_type": size.model_type,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
    }
