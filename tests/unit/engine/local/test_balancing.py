"""The balancing loss of a mixture of experts: that of the whole global batch, however it is laid out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from families import BY_TOKENS, groups, model_of, weighted
from ranks import layout, on_ranks, spread_tiny
from transformers import PreTrainedModel

from hone.config.schema.lora import LoraConfig
from hone.engine.local.learner import LocalLearner
from hone.errors import ConfigError
from hone.model import balancing
from hone.model.adapters import with_lora
from hone.model.mesh import Mesh

WEIGHT = 0.7
LAYOUTS: dict[str, dict[str, Any]] = {
    "one at a time": {"train_micro_batch_size": 1},
    "prompts shared": {"train_micro_batch_size": 6},
    "by tokens": {"dynamic_batching": BY_TOKENS},
    "packed": {"sequence_packing": BY_TOKENS},
}


def expected(family: str) -> tuple[float, dict[str, torch.Tensor]]:
    """`transformers`' own loss of one padded batch, and the gradient with that of the log-probabilities."""
    samples, model = groups(), model_of(family, "eager")
    width = max(map(len, samples))
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    mask = torch.zeros(len(samples), width, dtype=torch.long)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)], mask[row, : len(sample)] = sample.tokens_T, 1
    out = model(input_ids=ids, attention_mask=mask, output_router_logits=True)
    logprobs = out.logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    total = sum(sample.num_targets for sample in samples)
    loss = WEIGHT * out.aux_loss
    for row, sample in enumerate(samples):
        own = logprobs[row, : len(sample) - 1][sample.loss_mask_T[1:]]
        loss = loss - (sample.token_columns["weight"] * own).sum() / total
    loss.backward()
    return float(out.aux_loss.detach()), tiny.gradients(model)


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_it_is_that_of_the_whole_batch_in_every_layout(family: str) -> None:
    value, gradients = expected(family)
    for way, settings in LAYOUTS.items():
        if way == "packed" and family == "gpt_oss":
            continue
        model = model_of(family, None)
        policy = tiny.sft_config(router_aux_loss_coef=WEIGHT, **settings).policy
        metrics = tiny.run(tiny.make_learner(model, policy).forward_backward(groups(), weighted))
        assert metrics["router_aux_loss"] == pytest.approx(value, rel=1e-5), way
        assert tiny.largest_gap(tiny.gradients(model), gradients) < 1e-4, way


def test_activations_computed_again_change_nothing() -> None:
    value, gradients = expected("qwen3_moe")
    model: PreTrainedModel = model_of("qwen3_moe", None)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = tiny.sft_config(router_aux_loss_coef=WEIGHT, train_micro_batch_size=2).policy
    metrics = tiny.run(tiny.make_learner(model, policy).forward_backward(groups(), weighted))
    assert metrics["router_aux_loss"] == pytest.approx(value, rel=1e-5)
    assert tiny.largest_gap(tiny.gradients(model), gradients) < 1e-4


def test_the_weight_is_the_models_where_its_config_turns_the_loss_on() -> None:
    config = model_of("mixtral", None).config
    config.router_aux_loss_coef = 0.02
    assert balancing.coefficient_of(config, None) == 0
    assert "policy.router_aux_loss_coef=0.02 turns it on" in balancing.notice(config, None, part="policy")[0]
    config.output_router_logits = True
    assert balancing.coefficient_of(config, None) == 0.02
    assert balancing.notice(config, None, part="policy") == []
    assert balancing.coefficient_of(config, 0.0) == 0


@pytest.mark.parametrize("family", ["llama", "deepseek_v3", "llama4_text"])
def test_a_model_without_such_a_loss_refuses_it_by_name(family: str) -> None:
    policy = tiny.sft_config(router_aux_loss_coef=WEIGHT).policy
    with pytest.raises(
        ConfigError, match=rf"policy.router_aux_loss_coef=0.7: {family} models have no balancing loss"
    ):
        tiny.make_learner(model_of(family, None), policy)


def made(family: str, rate: float) -> PreTrainedModel:
    """The model, which drops so much of its attention."""
    model = model_of(family, None)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = rate
    return model


def with_embeddings() -> PreTrainedModel:
    """Adapters, and tied embeddings that are trained as a whole."""
    lora = LoraConfig(enabled=True, dim=2, init_lora_weights="gaussian", modules_to_save=["embed_tokens"])
    return with_lora(model_of("qwen3", None), lora, seed=1)


def on_mesh(
    mesh: Mesh | None, make: Callable[[], PreTrainedModel], coefficient: float
) -> tuple[float, float]:
    """The balancing loss of a batch and the norm of its whole gradient."""
    policy = tiny.sft_config(
        train_micro_batch_size=2, max_grad_norm=None, router_aux_loss_coef=coefficient
    ).policy
    model = make() if mesh is None else spread_tiny(mesh, make)
    learner = LocalLearner(model, policy, pad_token=tiny.PAD, seed=3)
    metrics = tiny.run(learner.forward_backward(groups(), weighted))
    return metrics.get("router_aux_loss", 0.0), tiny.run(learner.optim_step())["grad_norm"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "coefficient"),
    [
        pytest.param(partial(made, "qwen3_moe", 0.0), WEIGHT, id="balance"),
        pytest.param(partial(made, "llama", 0.2), 0.0, id="dropout"),
        pytest.param(partial(made, "gemma2", 0.0), 0.0, id="a head with a cap"),
        pytest.param(with_embeddings, 0.0, id="embeddings"),
    ],
)
def test_two_ranks_have_what_one_process_has(make: Callable[[], PreTrainedModel], coefficient: float) -> None:
    work = partial(on_mesh, make=make, coefficient=coefficient)
    for result in on_ranks(layout(shard=2), work):
        assert result == pytest.approx(work(None), rel=1e-4)
