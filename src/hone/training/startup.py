"""The start of a command: its first line, log levels, and offline mode where the hub cannot be reached.

Imports neither torch nor Hugging Face libraries, which read their environment variables on import.
"""

from __future__ import annotations

import logging
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from hone.config import EvalConfig, Loaded, TrainingConfig
from hone.errors import ConfigError, visible
from hone.user_code import is_code

FILES = (".jsonl", ".json", ".parquet")


def announce(algorithm: str, loaded: Loaded) -> None:
    """Print a run's model, data and folder before the imports, which take seconds."""
    config: TrainingConfig | EvalConfig = loaded.config
    if isinstance(config, EvalConfig):
        data = ", ".join((*config.eval.suite, *config.eval.lm_eval)) or config.data.dataset_name
        print(visible(f"{algorithm}: {config.generation.model_name} on {data}"), flush=True)
        return
    data = ", ".join(str(entry.dataset_name) for entry in config.data.train or [])
    folder = config.checkpointing.checkpoint_dir
    from_teacher = f" from {config.teacher_model.model_name}" if config.teacher_model is not None else ""
    print(
        visible(f"{algorithm}: {config.policy.model_name}{from_teacher} on {data}, into {folder}"), flush=True
    )


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def log_as_asked(loaded: Loaded) -> None:
    """Print the log records of Hone (DEBUG: resolved settings, every step's metrics) and of the libraries from the
    level of the environment variable NEMO_LOG_LEVEL on, as NeMo RL does. Raises ConfigError for an unknown level."""
    level_name = os.environ.get("NEMO_LOG_LEVEL")
    if level_name is None:
        return
    level = level_name.strip().upper()
    if level not in LEVELS:
        raise ConfigError(
            f"environment variable NEMO_LOG_LEVEL={level_name}: choose one of {', '.join(LEVELS)}"
        )
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("TRANSFORMERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", level.lower())
    logging.getLogger(__name__).debug("resolved settings:\n%s", loaded.to_yaml())


def enable_offline_if_hub_unreachable(loaded: Loaded) -> None:
    """Turn Hugging Face's offline mode on if the run names something on the hub and the hub cannot be reached.

    Its libraries would retry five times for each file, for a minute, before they use the local cache. A user's own
    HF_HUB_OFFLINE is kept.
    """
    uses_hub = any(map(_of_the_hub, _names(loaded.config)))
    if "HF_HUB_OFFLINE" not in os.environ and uses_hub and not reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"


def reachable(timeout: float = 5.0) -> bool:
    """Whether the hub accepts a connection. Behind a proxy this is unknown, and taken to be true."""
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if urllib.request.getproxies() or endpoint.hostname is None:
        return True
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname, port), timeout=timeout).close()
    except OSError:
        return False
    return True


def _names(config: TrainingConfig | EvalConfig) -> Iterator[str | None]:
    """Every model, tokenizer and dataset of a run."""
    if isinstance(config, EvalConfig):
        yield from (config.generation.model_name, config.tokenizer.name, config.data.dataset_name)
        yield from (config.eval.suite_data.get(name, name) for name in config.eval.suite)
        return
    for model in filter(None, (config.policy, config.critic, config.teacher_model)):
        yield from (model.model_name, model.tokenizer.name)
    for entry in (*(config.data.train or ()), *(config.data.validation or ())):
        yield entry.dataset_name


def _of_the_hub(name: str | None) -> bool:
    """Whether it is neither embedded nor a path."""
    if not name or name.startswith(("hone/", ".", "/", "~")) or name.endswith(FILES) or is_code(name):
        return False
    return not Path(name).exists()
