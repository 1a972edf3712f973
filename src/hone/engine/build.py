"""From a configuration to a Learner, a reference and a Generator."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hone.config import DistillConfig, EvalConfig, OnlineConfig, SFTConfig
from hone.config.schema import ModelConfig
from hone.engine.distributed.sharding import unsharded_copy
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.learner import DTYPES, LocalLearner
from hone.engine.local.model_factory import check_start, make_model, make_scorer, move_to
from hone.engine.local.optimizer import check_optimizer
from hone.engine.local.reference import BaseModelScorer
from hone.engine.local.threads import set_threads
from hone.engine.model_notices import model_notices
from hone.model.loading import context_length, load_model, load_tokenizer, stop_tokens
from hone.model.mesh import Mesh, mesh_of_one
from hone.model.model_size import ModelSize
from hone.planning import planner
from hone.planning.auxiliary_models import (
    check_auxiliary_models,
    check_length,
    model_size_of_run,
    readable_tokens,
    teacher_settings,
    value_settings,
)
from hone.planning.placement import check_distributed, device_of_this_process, hardware_of, is_single_process
from hone.types import Generator, Scorer, Teacher, TrainedModel


@dataclass
class Engine:
    """What a loop works with. `reference`, `generator`, `value`, `teacher` are there when the algorithm needs them.

    A context: on leaving it, what was started elsewhere is stopped.
    """

    tokenizer: PreTrainedTokenizerBase
    learner: TrainedModel
    reference: Scorer | None = None
    generator: Generator | None = None
    value: TrainedModel | None = None
    """A second model that is trained, with a scalar head: what a state is worth."""
    teacher: Teacher | None = None
    """Another model that is never changed, whose distribution the policy learns."""
    ranks: int = 1
    """Devices that the learner is spread over."""
    notices: list[str] = field(default_factory=list)
    """What was chosen or found out, for the run's log."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def parts(self) -> dict[str, TrainedModel]:
        """The models that are trained, by the name that each has in a checkpoint."""
        return {"policy": self.learner} | ({"value": self.value} if self.value is not None else {})

    def close(self) -> None:
        """Nothing was started."""

    def can_grow(self) -> bool:
        """Whether machines that the run asked for, and went on without, have come."""
        return False

    async def usage(self) -> dict[str, float]:
        """Load and memory of the ranks, for the metrics; this process's own are measured elsewhere."""
        return {}


@dataclass
class LocalEngine(Engine):
    """All of it in this process."""

    learner: LocalLearner
    reference: LocalLearner | BaseModelScorer | None = None
    generator: LocalGenerator | None = None
    value: LocalLearner | None = None
    teacher: LocalLearner | None = None


def seed_everything(seed: int) -> None:
    """Seed every global random generator: all of them are part of a checkpoint, so all must be part of the seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def tokenizer_of(config: SFTConfig | OnlineConfig) -> PreTrainedTokenizerBase:
    """The run's tokenizer; the data is checked with it before any weight is loaded."""
    policy = config.policy
    return load_tokenizer(
        policy.tokenizer.name,
        chat_template=policy.tokenizer.chat_template,
        trust_remote_code=policy.trust_remote_code,
    )


def check(config: SFTConfig | OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> ModelSize:
    """The sizes of the run's models. Raises ConfigError and ModelError for what they cannot do, or what does not go
    together: lengths, vocabularies, adapters, optimizers. No weight is read."""
    policy = config.policy
    shape = model_size_of_run(config)
    check_length(policy, shape.context)
    check_auxiliary_models(config, shape, tokenizer)
    for settings in filter(None, (policy, value_settings(config))):
        check_optimizer(settings)
        check_start(settings, tokenizer, config.cluster)
    return shape


def build(
    config: SFTConfig | OnlineConfig, tokenizer: PreTrainedTokenizerBase, *, recovering: bool = False
) -> Engine:
    """All that the run computes with. Raises ConfigError for what this model or machine cannot do (see `check`).

    `recovering`: a run that lost machines may go on with fewer than it asks for.
    """
    engine = _built(config, tokenizer, check(config, tokenizer), recovering)
    engine.notices += model_notices(config, tokenizer)
    return engine


def _built(
    config: SFTConfig | OnlineConfig, tokenizer: PreTrainedTokenizerBase, shape: ModelSize, recovering: bool
) -> Engine:
    """In this process or on a cluster."""
    if is_single_process(config.cluster):
        settled, _ = planner.resolve(config, shape, hardware_of(config.cluster))
        device = device_of_this_process(config.cluster)
        offload = settled.policy.cpu_offload and device.type == "cuda"
        return build_here(settled, tokenizer, device, mesh_of_one(device.type) if offload else None)
    from hone.engine.ray.remote_engine import build_on_cluster

    check_distributed(config)
    hardware_of(config.cluster)  # more GPUs than there are stop the run before Ray starts
    engine = build_on_cluster(config, tokenizer, shape, recovering=recovering)
    # This process's generators are saved, too, and starting Ray draws from them.
    seed_everything(config.loop.seed)
    return engine


def temperature_of(config: SFTConfig | OnlineConfig) -> float:
    """What divides logits before log-probabilities are taken: that of sampling, or of a comparison with a teacher."""
    if isinstance(config, DistillConfig):
        return config.loss_fn.temperature
    return config.policy.generation.temperature if isinstance(config, OnlineConfig) else 1.0


def build_here(
    config: SFTConfig | OnlineConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    mesh: Mesh | None = None,
) -> LocalEngine:
    """In this process: all of it, or on a mesh this rank's part."""
    policy = config.policy
    seed = config.loop.seed
    seed_everything(seed + (mesh.rank("data") if mesh is not None else 0))
    learner_of = partial(_learner, config, tokenizer, device, mesh)
    learner = learner_of(policy)
    learner.save_optimizer = config.checkpointing.save_optimizer
    if mesh is None:
        set_threads(config.cluster.cpu_threads, learner.scorer)
    engine = LocalEngine(tokenizer, learner)
    if (settings := value_settings(config)) is not None:
        engine.value = learner_of(settings)
        engine.value.save_optimizer = learner.save_optimizer
    if not isinstance(config, OnlineConfig):
        return engine
    here = mesh is None or not config.cluster.reserved_devices
    if here and (settings := teacher_settings(config)) is not None:
        engine.teacher = learner_of(settings, trained=False)
        engine.teacher.scorer.tokens = learner.model.config.get_text_config().vocab_size
    if config.uses_reference_model:
        engine.reference = (
            BaseModelScorer(learner)
            if policy.lora.enabled and policy.lora.base_is_initial_model
            else learner_of(policy, trained=False)
        )
    model = learner.model
    if mesh is not None:
        empty = make_model(policy, tokenizer, seed, True, False, DTYPES[policy.precision])
        model = unsharded_copy(empty, learner.model, device)
    engine.generator = LocalGenerator(
        model,
        tokenizer,
        stop_tokens=stop_tokens(model, tokenizer),
        context=config.policy.max_total_sequence_length,
        max_rows=config.policy.generation_batch_size,
        autocast=learner.autocast,
        tokens=readable_tokens(config),
    )
    return engine


def _learner(
    config: SFTConfig | OnlineConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    mesh: Mesh | None,
    settings: ModelConfig,
    *,
    trained: bool = True,
) -> LocalLearner:
    """One of the run's models."""
    scorer = make_scorer(
        settings,
        tokenizer,
        config.loop.seed,
        device,
        mesh,
        temperature=temperature_of(config),
        trained=trained,
    )
    return LocalLearner(
        scorer,
        settings,
        pad_token=tokenizer.pad_token_id,
        frozen=not trained,
        seed=config.loop.seed,
        scores_as_trained=isinstance(config, OnlineConfig),
    )


@dataclass
class LocalTeacher:
    """What a rank has that computes for the teacher alone."""

    teacher: LocalLearner


def build_teacher(
    config: DistillConfig,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    mesh: Mesh,
    *,
    vocabulary: int,
) -> LocalTeacher:
    """This rank's part of a teacher on devices of its own. It says nothing of tokens from `vocabulary` on: embeddings
    of one family may be padded to other sizes, and what the student has no row for is not taught."""
    settings = teacher_settings(config)
    assert settings is not None
    teacher = _learner(config, tokenizer, device, mesh, settings, trained=False)
    teacher.scorer.tokens = vocabulary
    return LocalTeacher(teacher)


def build_generator(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> LocalGenerator:
    """A generator alone, for evaluation."""
    generation = config.generation
    model = load_model(generation.model_name, trust_remote_code=generation.trust_remote_code).eval()
    set_threads(config.cluster.cpu_threads, model)
    move_to(model, device_of_this_process(config.cluster))
    device, dtype = model.device.type, DTYPES[generation.precision]
    limit = context_length(model)
    wanted = generation.max_model_len
    return LocalGenerator(
        model,
        tokenizer,
        stop_tokens=stop_tokens(model, tokenizer),
        context=min(wanted, limit) if limit else wanted,
        max_rows=generation.batch_size,
        autocast=lambda: torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32),
    )
