"""The engine of one process, or one rank's part of it on a mesh."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.config import EvalConfig, OnlineConfig, TrainingConfig
from hone.config.schema import ModelConfig
from hone.engine.base import Engine, WeightPublisher
from hone.engine.distributed.sharding import unsharded_copy
from hone.engine.local.continuous_batching import ContinuousBatching
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.learner import DTYPES, LocalLearner, autocast
from hone.engine.local.model_factory import make_model, make_scorer
from hone.engine.local.threads import set_threads
from hone.engine.local.weight_sync import InProcessTransport
from hone.engine.weight_files import FilePublisher
from hone.model.loading import load_tokenizer, stop_tokens
from hone.model.mesh import Mesh
from hone.planning.auxiliary_models import readable_tokens
from hone.planning.cpu import generator_precision
from hone.planning.placement import device_of_this_process
from hone.types import Sample


class BaseModelScorer:
    """A learner's model without its adapters: the reference of a policy with LoRA, which needs no memory of its own."""

    def __init__(self, learner: LocalLearner) -> None:
        self.learner = learner

    async def forward(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probabilities of each sample's targets under the base model."""
        with self.learner.model.disable_adapter():  # type: ignore[operator]
            return await self.learner.forward(samples)


@dataclass
class LocalEngine(Engine):
    """An engine whose models are in this process."""

    learner: LocalLearner
    reference: LocalLearner | BaseModelScorer | None = None
    generator: LocalGenerator | None = None
    value: LocalLearner | None = None
    teacher: LocalLearner | None = None
    publisher: WeightPublisher | None = None
    """Publishes the learner's weights for generators in other processes."""


def seed_everything(seed: int) -> None:
    """Seed all global random generators, whose states are in a checkpoint."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def tokenizer_of(config: TrainingConfig | EvalConfig) -> PreTrainedTokenizerBase:
    """The run's tokenizer, with which the data is checked before any weight is loaded."""
    settings = config.tokenizer if isinstance(config, EvalConfig) else config.policy.tokenizer
    model = config.generation if isinstance(config, EvalConfig) else config.policy
    trusted = model.trust_remote_code
    return load_tokenizer(settings.name, chat_template=settings.chat_template, trust_remote_code=trusted)


def build_local(
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    mesh: Mesh | None = None,
    weights: Path | None = None,
) -> LocalEngine:
    """Load the run's models and its generator onto `device`; on a mesh, this rank's part of them.

    With `weights`, generators are in other processes and read the weights from this folder; this engine has none.
    """
    policy = config.policy
    seed = config.algorithm.seed
    seed_everything(seed + (mesh.rank("data") if mesh is not None else 0))
    learner_of = partial(_learner, config, tokenizer, device, mesh)
    learner = learner_of(policy)
    if mesh is None:
        set_threads(config.cluster.cpu_threads, learner.scorer)
    engine = LocalEngine(tokenizer, learner)
    if (settings := config.critic) is not None:
        engine.value = learner_of(settings)
    if not isinstance(config, OnlineConfig):
        return engine
    here = mesh is None or not config.cluster.reserved_devices
    if here and (settings := config.teacher_model) is not None:
        vocabulary = learner.model.config.get_text_config().vocab_size
        engine.teacher = learner_of(settings, trained=False, vocabulary=vocabulary)
    if config.uses_reference_model:
        engine.reference = (
            BaseModelScorer(learner)
            if policy.lora.enabled and policy.lora.base_is_initial_model
            else learner_of(policy, trained=False)
        )
    if weights is not None:
        engine.publisher = FilePublisher(learner.weights, weights, dtype=_generator_dtype(config, device))
        return engine
    model = learner.model
    if mesh is not None:
        empty = make_model(policy, tokenizer, seed, True, False, _generator_dtype(config, device))
        model = unsharded_copy(empty, learner.model, device)
    generator = _generator(model, tokenizer, config)
    engine.generator, engine.transport = generator, InProcessTransport(learner, generator)
    return engine


def build_generator(
    config: OnlineConfig,
    tokenizer: PreTrainedTokenizerBase,
    between_tokens: Callable[[], None] = lambda: None,
) -> LocalGenerator:
    """A generator with its own unsharded model, in `policy.precision`, on this process's device."""
    model = make_model(config.policy, tokenizer, config.algorithm.seed, True, True)
    set_threads(config.cluster.cpu_threads, model)
    device = device_of_this_process(config.cluster)
    dtype = _generator_dtype(config, device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    torch.nn.Module.to(model, device)
    return _generator(model.requires_grad_(False).eval(), tokenizer, config, between_tokens)


def _generator_dtype(config: OnlineConfig, device: torch.device) -> torch.dtype:
    """Of the products of a built-in generator, and of the weights of one that does not share the learner's."""
    return DTYPES[generator_precision(config.policy.precision, on_cpu=device.type == "cpu")]


def _generator(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: OnlineConfig,
    between_tokens: Callable[[], None] = lambda: None,
) -> LocalGenerator:
    return LocalGenerator(
        model,
        tokenizer,
        stop_tokens=stop_tokens(model, tokenizer),
        context=config.policy.max_total_sequence_length,
        max_rows=config.policy.generation_batch_size,
        autocast=partial(autocast, model.device.type, _generator_dtype(config, model.device)),
        vocabulary_limit=readable_tokens(config),
        continuous=ContinuousBatching.of(config.policy.generation),
        between_tokens=between_tokens,
    )


def build_teacher(
    config: OnlineConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    mesh: Mesh,
    *,
    vocabulary: int,
) -> LocalLearner:
    """This rank's part of a teacher with separate devices.

    It scores only token ids below `vocabulary`, the student's: models of one family may pad their embeddings to
    different sizes, and a token that the student lacks is not distilled.
    """
    settings = config.teacher_model
    assert settings is not None
    return _learner(config, tokenizer, device, mesh, settings, trained=False, vocabulary=vocabulary)


def _learner(
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    mesh: Mesh | None,
    settings: ModelConfig,
    *,
    trained: bool = True,
    vocabulary: int | None = None,
) -> LocalLearner:
    """A learner for one of the run's models."""
    scorer = make_scorer(
        settings,
        tokenizer,
        config.algorithm.seed,
        device,
        mesh,
        temperature=config.logits_temperature,
        trained=trained,
        vocabulary=vocabulary,
    )
    return LocalLearner(
        scorer,
        settings,
        pad_token=tokenizer.pad_token_id,
        frozen=not trained,
        save_optimizer=config.checkpointing.save_optimizer,
        seed=config.algorithm.seed,
        scores_as_trained=isinstance(config, OnlineConfig),
    )
