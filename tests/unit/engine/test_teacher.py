"""An engine with a teacher: a frozen model of its own, which must read the student's tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import layout, on_ranks, spread_tiny
from tiny import VOCABULARY, make_model, make_samples, make_tokenizer, run

from hone.algorithms import distill
from hone.config.schema.distill import DistillConfig
from hone.engine import build
from hone.engine.local.learner import LocalLearner
from hone.engine.local.local_engine import LocalEngine
from hone.errors import ConfigError
from hone.model.mesh import Mesh
from hone.planning import planner
from hone.planning.auxiliary_models import model_size_of_run
from hone.planning.placement import check_mesh, hardware_of, is_single_process
from hone.types import Group, Prompt, Rollout, Sampling


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model("qwen3").save_pretrained(tmp_path / "student")
    make_model("llama", seed=1, num_hidden_layers=3).save_pretrained(tmp_path / "teacher")
    for name in ("student", "teacher"):
        make_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path


def config_of(
    folder: Path, *, policy: dict[str, Any] | None = None, k: int = 8, **teacher: Any
) -> DistillConfig:
    shared = {"precision": "float32", "max_total_sequence_length": 64, "train_micro_batch_size": 4}
    return DistillConfig(
        policy={
            "model_name": str(folder / "student"),
            "train_global_batch_size": 4,
            **shared,
            **(policy or {}),
        },
        teacher={"model_name": str(folder / "teacher"), **teacher},
        distillation={"topk_logits_k": k},
    )


def engine_of(config: DistillConfig) -> LocalEngine:
    engine = build(config, make_tokenizer())
    assert isinstance(engine, LocalEngine)
    return engine


@pytest.mark.parametrize("lora", [False, True])
def test_the_student_alone_is_trained_and_saved(folder: Path, lora: bool) -> None:
    settings = {"lora": {"enabled": True, "dim": 4, "alpha": 8}} if lora else {}
    engine = engine_of(config := config_of(folder, policy=settings))
    assert engine.teacher is not None
    assert list(engine.trained_models) == ["policy"]
    assert engine.teacher.model.config.num_hidden_layers == 3
    assert not any(parameter.requires_grad for parameter in engine.teacher.model.parameters())
    assert engine.reference is None
    losses = [
        run(distill.step(engine.learner, engine.teacher, make_samples(4), config))["loss"] for _ in range(4)
    ]
    assert losses[-1] < losses[0]
    assert not any("lora" in name for name, _ in engine.teacher.model.named_parameters())


def test_both_are_read_at_the_temperature_of_the_loss(folder: Path) -> None:
    config = config_of(folder, k=VOCABULARY)
    config.loss_fn.temperature = 2.0
    engine = engine_of(config)
    assert engine.teacher is not None
    (sample,) = make_samples(1)
    at = sample.loss_mask_T.nonzero().squeeze(1) - 1
    for learner in (engine.learner, engine.teacher):
        with torch.no_grad():
            logits = learner.model(sample.tokens_T[None]).logits[0][at]
        ((values, tokens),) = run(learner.topk_logprobs([sample], VOCABULARY))
        expected = (logits / 2).log_softmax(-1).gather(1, tokens)
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


def test_other_tokens_are_refused_before_weights_are_read(folder: Path) -> None:
    other = make_tokenizer()
    other.add_tokens(["one more"])
    other.save_pretrained(folder / "teacher")
    for path in (*folder.glob("student/*.safetensors"), *folder.glob("teacher/*.safetensors")):
        path.unlink()
    with pytest.raises(
        ConfigError, match=r"teacher\.tokenizer\.name=.*teacher has another vocabulary than"
    ) as caught:
        engine_of(config_of(folder))
    assert f"policy.tokenizer.name={folder / 'student'}" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 65}, "topk_logits_k=65 is more than the 64 tokens that"),
        ({"hf_config_overrides": {"max_position_embeddings": 32}}, "more than the 32 positions of"),
        ({"hf_config_overrides": {"vocab_size": 32}, "k": 40}, "set it to 32 for all of them"),
    ],
)
def test_what_the_teacher_cannot_do_is_refused_before_weights_are_read(
    folder: Path, settings: dict[str, Any], said: str
) -> None:
    for path in folder.glob("*/*.safetensors"):
        path.unlink()
    with pytest.raises(ConfigError, match=said):
        engine_of(config_of(folder, **settings))


def test_a_teacher_that_cannot_be_spread_is_refused(folder: Path) -> None:
    """Its key/value heads count, too."""
    config = config_of(folder, hf_config_overrides={"num_key_value_heads": 1})
    check_mesh(config_of(folder), layout(tensor=2))
    with pytest.raises(ConfigError, match="does not divide the 4 heads and 1 key/value heads"):
        check_mesh(config, layout(tensor=2))


@pytest.mark.parametrize("zero_outside_topk", [False, True])
def test_a_student_with_more_rows_than_the_teacher_is_taught(folder: Path, zero_outside_topk: bool) -> None:
    """It answers in tokens that the teacher can read, and is taught all of these. The likeliest token is one of the
    student's alone."""
    student = make_model("llama", vocab_size=VOCABULARY + 16)
    with torch.no_grad():
        student.get_output_embeddings().weight[VOCABULARY:] *= 20
    student.save_pretrained(folder / "student")
    config = config_of(folder, k=VOCABULARY)
    config.loss_fn.zero_outside_topk = zero_outside_topk
    engine = engine_of(config)
    assert engine.teacher is not None
    assert engine.generator is not None
    prompt = Prompt("row", (5, 6, 7), "text")
    for temperature in (0.0, 1.0):
        sampling = Sampling(30, temperature=temperature, ignore_eos=True)
        [completions] = run(engine.generator.generate([prompt], sampling, count=8))
        assert max(token for one in completions for token in one.tokens) < VOCABULARY
    groups = [Group("row", [Rollout(prompt, one, "") for one in completions])]
    metrics = run(distill.step(engine.learner, engine.teacher, distill.trainable_samples(groups), config))
    assert metrics["teacher_in_topk"] == pytest.approx(1, abs=1e-4)
    assert 0 < metrics["student_in_topk"] < 0.9  # the rest is on rows that the teacher has not
    assert math.isfinite(metrics["loss"])


@pytest.mark.parametrize("part", ["policy", "teacher"])
def test_embeddings_with_fewer_rows_than_there_are_tokens_are_refused(folder: Path, part: str) -> None:
    settings = {"hf_config_overrides": {"vocab_size": VOCABULARY - 8}}
    config = config_of(folder, policy=settings) if part == "policy" else config_of(folder, **settings)
    with pytest.raises(
        ConfigError, match=rf"{part}\.model_name=.* has embeddings for 56 tokens, but the tokenizer"
    ):
        engine_of(config)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])  # gemma2: a head that is not a plain matrix
def test_rows_that_the_student_lacks_are_not_taught(folder: Path, kind: str) -> None:
    """Embeddings of one family are padded to different sizes; both read the same tokenizer's tokens."""
    make_model(kind, seed=1, vocab_size=VOCABULARY + 16).save_pretrained(folder / "teacher")
    engine = engine_of(config := config_of(folder, k=VOCABULARY))
    assert engine.teacher is not None
    samples = make_samples(4)
    at = samples[0].loss_mask_T.nonzero().squeeze(1) - 1
    with torch.no_grad():
        logits = engine.teacher.model(samples[0].tokens_T[None]).logits[0][at]
    values, tokens = run(engine.teacher.topk_logprobs(samples, VOCABULARY))[0]
    assert int(tokens.max()) == VOCABULARY - 1
    expected = logits[:, :VOCABULARY].log_softmax(-1).gather(1, tokens)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)
    assert run(distill.step(engine.learner, engine.teacher, samples, config))[
        "teacher_in_topk"
    ] == pytest.approx(1)


def restricted(mesh: Mesh) -> list[Any]:
    scorer = spread_tiny(mesh, make_model, vocabulary=20)  # the second rank has none of them
    learner = LocalLearner(
        scorer, config_of(Path("."), policy={"train_micro_batch_size": 2}).policy, pad_token=0
    )
    return run(learner.topk_logprobs(make_samples(3), 20))


def test_nor_where_the_head_is_spread_over_ranks() -> None:
    model = make_model().eval()
    for found in on_ranks(layout(tensor=2), restricted):
        for sample, (values, tokens) in zip(make_samples(3), found, strict=True):
            with torch.no_grad():
                logits = model(sample.tokens_T[None]).logits[0][sample.loss_mask_T.nonzero().squeeze(1) - 1]
            expected = logits[:, :20].log_softmax(-1).topk(20)
            torch.testing.assert_close(values, expected.values, rtol=0, atol=1e-5)
            assert torch.equal(tokens, expected.indices)


def test_a_teacher_on_devices_of_its_own_is_no_load_of_the_policys(folder: Path) -> None:
    config = config_of(folder)
    shape = model_size_of_run(config)
    beside = planner.choose(shape, config, hardware_of(config.cluster)).taken.memory
    assert beside.teacher > 0
    config.cluster.cpu_workers_per_node, config.cluster.teacher_devices = 1, 2
    assert not is_single_process(config.cluster)
    apart = planner.choose(shape, config, hardware_of(config.cluster)).taken.memory
    assert (apart.teacher, apart.teacher_reading) == (0, 0)
    assert apart.weights == beside.weights


def test_more_gpus_than_there_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = config_of(folder)
    config.cluster.gpus_per_node, config.cluster.teacher_devices = 1, 2
    with pytest.raises(ConfigError, match="teacher_devices=2: this machine has 2 GPUs"):
        hardware_of(config.cluster)
