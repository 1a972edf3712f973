"""vLLM servers as the generator of a run, or of an evaluation."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hone.config import EvalConfig, OnlineConfig
from hone.engine.base import Engine, WeightPublisher
from hone.engine.generators import attach_generators
from hone.engine.local.learner import DTYPES, LocalLearner
from hone.engine.vllm.checkpoint_names import CheckpointWeights
from hone.engine.vllm.checks import check_evaluation
from hone.engine.vllm.generator import Server, VLLMGenerator
from hone.engine.vllm.lora import AdapterPublisher
from hone.engine.vllm.running import RunningServer
from hone.engine.vllm.server import VLLMServer
from hone.engine.vllm.settings import evaluation_settings, training_settings
from hone.engine.weight_files import FilePublisher
from hone.engine.weight_probe import WeightProbe
from hone.model.loading import configured, resolve, stop_tokens_of
from hone.model.model_size import ModelSize, load_model_size
from hone.planning.auxiliary_models import readable_tokens
from hone.planning.placement import servers_sleep


def attach_vllm(
    engine: Engine,
    servers: Sequence[Server],
    publisher: WeightPublisher,
    config: OnlineConfig,
    size: ModelSize,
    weights: Path,
) -> None:
    """Make servers the engine's generator, with a probe after every update. Raises ClusterError for one that cannot be
    had."""
    generators = [_generator(server, engine.tokenizer, config, size, weights) for server in servers]
    probe = WeightProbe(
        engine.learner,
        tokens=readable_tokens(config) or len(engine.tokenizer),
        temperature=config.logits_temperature,
        dtype=DTYPES[config.policy.precision],
    )
    attach_generators(engine, generators, publisher, config, weights, batch_size=None, probe=probe)
    if servers_sleep(config):
        engine.sleepers = generators


def servers_of(config: OnlineConfig, size: ModelSize) -> list[Server]:
    """The servers that run already, or else one that this process starts."""
    settings, vllm = training_settings(config), config.policy.generation.vllm_cfg
    if vllm.server_urls:
        wait_s = vllm.server_timeout_s
        return [RunningServer(url, settings, size, wait_s=wait_s) for url in vllm.server_urls]
    log = Path(config.checkpointing.checkpoint_dir).resolve() / "workers" / "vllm.log"
    return [VLLMServer(settings, log, start_s=vllm.start_timeout_s)]


def check_folder(config: OnlineConfig, weights: Path) -> None:
    """Raise ConfigError if a running server does not see the folder of weights."""
    for url in config.policy.generation.vllm_cfg.server_urls:
        RunningServer(url, training_settings(config)).check_folder(weights)


def publisher_for(learner: LocalLearner, config: OnlineConfig, weights: Path) -> WeightPublisher:
    """Publishes the learner's weights, or its adapter alone, as vLLM reads them."""
    if config.policy.lora.enabled:
        return AdapterPublisher(learner.weights, weights)
    ranks, dtype = learner.weights().ranks, DTYPES[config.policy.precision]
    return FilePublisher(lambda: CheckpointWeights(learner.model, ranks), weights, dtype=dtype)


def _generator(
    server: Server,
    tokenizer: PreTrainedTokenizerBase,
    config: OnlineConfig,
    size: ModelSize,
    weights: Path,
) -> VLLMGenerator:
    policy = config.policy
    source, trust = resolve(policy.model_name), policy.trust_remote_code
    model = configured(source, policy.hf_config_overrides, trust_remote_code=trust)
    return VLLMGenerator(
        server,
        weights=weights,
        adapter=policy.lora.enabled,
        stop_tokens=stop_tokens_of(source, model, tokenizer),
        context=policy.max_total_sequence_length,
        vocabulary_limit=readable_tokens(config),
        vocabulary=size.vocabulary,
        timeout_s=config.cluster.worker_timeout_s,
    )


@contextmanager
def open_server(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[VLLMGenerator]:
    """A server of the model that is evaluated. Raises ClusterError if it cannot be had."""
    trust, vllm = config.generation.trust_remote_code, config.generation.vllm_cfg
    check_evaluation(config, load_model_size(config.generation.model_name, trust_remote_code=trust))
    settings = evaluation_settings(config)
    model = configured(settings.model, {}, trust_remote_code=trust)
    stops = stop_tokens_of(settings.model, model, tokenizer)
    # The end of its log is in the message of an error.
    with tempfile.TemporaryDirectory(prefix="hone-vllm-") as folder:
        server: Server = VLLMServer(settings, Path(folder) / "log", start_s=vllm.start_timeout_s)
        if vllm.server_urls:
            server = RunningServer(vllm.server_urls[0], settings, wait_s=vllm.server_timeout_s)
        generator = VLLMGenerator(server, weights=None, stop_tokens=stops, context=settings.context)
        with contextlib.closing(generator):
            generator.start()
            yield generator
