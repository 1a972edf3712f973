"""Divergences from a teacher: by hand, against autograd over all logits, and the step that uses them."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from tiny import (
    VOCABULARY,
    gradients,
    make_batch,
    make_groups,
    make_learner,
    make_model,
    make_samples,
    run,
    sft_config,
)
from torch import Tensor

from hone.algorithms import distill
from hone.algorithms.distill import Compared, DistillLoss, compared
from hone.config.schema.distill import DistillConfig, DistillLossConfig
from hone.types import Outputs, Sample, Totals

LAYOUTS: dict[str, dict[str, Any]] = {
    "one at a time": {"train_micro_batch_size": 1, "logprob_batch_size": 1},
    "four at a time": {"train_micro_batch_size": 4, "logprob_batch_size": 4},
    "packed": {"sequence_packing": {"enabled": True, "train_mb_tokens": 45, "logprob_mb_tokens": 45}},
}
LOSSES: dict[str, dict[str, Any]] = {
    "forward": {"kl_type": "forward"},
    "reverse": {"kl_type": "reverse"},
    "mixed": {"kl_type": "mixed", "mixed_kl_weight": 0.3},
    "jsd": {"kl_type": "jsd", "jsd_beta": 0.2},
}


def log(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def loss_of(settings: dict[str, Any], teacher: Tensor, student: Tensor, tokens: float = 1.0) -> Any:
    """The loss of targets with these log-probabilities [N, K]."""
    batch = make_batch([len(teacher)], {"teacher_logprobs": teacher})
    outputs = Outputs(student[:, 0].detach(), candidate_logprobs_NK=student)
    return DistillLoss(DistillLossConfig(**settings))(outputs, batch, Totals(tokens, 1.0))


# Teacher 0.6 and 0.2 on its two likeliest of four tokens, student 0.3 and 0.3 there and 0.4 elsewhere.
# Made to sum to 1: 3/4 and 1/4 against 1/2 and 1/2.
TEACHER, STUDENT = log(0.6, 0.2), log(0.3, 0.3)
FORWARD = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
REVERSE = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kl_type": "forward"}, FORWARD),
        ({"kl_type": "reverse"}, REVERSE),
        ({"kl_type": "mixed", "mixed_kl_weight": 0.3}, 0.3 * FORWARD + 0.7 * REVERSE),
        # m = 0.2 p + 0.8 q = 0.55, 0.45
        (
            {"kl_type": "jsd", "jsd_beta": 0.2},
            0.2 * (0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45))
            + 0.8 * (0.5 * math.log(0.5 / 0.55) + 0.5 * math.log(0.5 / 0.45)),
        ),
        ({"kl_type": "jsd", "jsd_beta": 0.0}, FORWARD),
        ({"kl_type": "jsd", "jsd_beta": 1.0}, REVERSE),
    ],
)
def test_by_hand_over_the_top_k_alone(settings: dict[str, Any], expected: float) -> None:
    assert float(loss_of(settings, TEACHER, STUDENT).loss) == pytest.approx(expected, abs=1e-9)


def test_by_hand_with_nothing_outside_of_the_teachers_top_k() -> None:
    """p = 3/4, 1/4, 0, 0 and q = 0.3, 0.3, and 0.4 of the rest."""
    forward = 0.75 * math.log(0.75 / 0.3) + 0.25 * math.log(0.25 / 0.3)
    inside = 0.3 * math.log(0.3 / 0.75) + 0.3 * math.log(0.3 / 0.25)
    reverse = inside + 0.4 * (math.log(0.4) + 100)
    whole = {"zero_outside_topk": True}
    assert float(loss_of({"kl_type": "forward", **whole}, TEACHER, STUDENT).loss) == pytest.approx(forward)
    assert float(loss_of({"kl_type": "reverse", **whole}, TEACHER, STUDENT).loss) == pytest.approx(reverse)
    mixed = loss_of({"kl_type": "mixed", "mixed_kl_weight": 0.25, **whole}, TEACHER, STUDENT)
    assert float(mixed.loss) == pytest.approx(0.25 * forward + 0.75 * reverse)
    # With two tokens of 0.2 outside, exactly: each q (log q + 100).
    exact = inside + 2 * 0.2 * (math.log(0.2) + 100)
    assert exact <= reverse <= exact + 0.4 * math.log(2) + 1e-9


def test_the_jsd_is_exact_with_nothing_outside_of_the_teachers_top_k() -> None:
    """As if the teacher's distribution were given for all four tokens."""
    p, q = torch.tensor([0.75, 0.25, 0.0, 0.0]).double(), torch.tensor([0.3, 0.3, 0.25, 0.15]).double()
    m = 0.3 * p + 0.7 * q
    expected = 0.3 * (p[:2] * (p[:2] / m[:2]).log()).sum() + 0.7 * (q * (q / m).log()).sum()
    settings = {"kl_type": "jsd", "jsd_beta": 0.3, "zero_outside_topk": True}
    assert float(loss_of(settings, TEACHER, STUDENT).loss) == pytest.approx(float(expected))


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_no_divergence_from_itself_and_no_gradient(kind: str) -> None:
    logits = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    student = logits.log_softmax(-1)
    value = getattr(distill, kind)(Compared(student.detach(), student)).sum()
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert float(logits.grad.abs().max()) < 1e-12


def test_certainty_costs_no_nan() -> None:
    """A probability that is 0 in fp32, on both sides, and a student with all of its mass elsewhere."""
    sure = torch.tensor([[100.0, -100.0, 0.0]]).log_softmax(-1)
    for settings in LOSSES.values():
        for whole in (False, True):
            student = sure.roll(1, 1).clone().requires_grad_()
            result = loss_of({**settings, "zero_outside_topk": whole}, sure[:, :2], student[:, :2])
            result.loss.backward()
            assert result.loss.isfinite()
            assert student.grad.isfinite().all()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", list(LOSSES))
def test_the_gradient_by_finite_differences(name: str, whole: bool) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(3, 6, dtype=torch.float64).log_softmax(-1)
    top, tokens = teacher.topk(4)

    def value(logits: Tensor) -> Tensor:
        student = logits.log_softmax(-1).gather(1, tokens)
        return loss_of({**LOSSES[name], "zero_outside_topk": whole}, top, student, tokens=3.0).loss

    assert torch.autograd.gradcheck(value, torch.randn(3, 6, dtype=torch.float64, requires_grad=True))


def test_tokens_of_the_global_batch_weigh_the_same() -> None:
    """The loss is divided by the tokens of the whole batch, and so is every metric."""
    teacher, student = TEACHER.repeat(2, 1), STUDENT.repeat(2, 1)
    result = loss_of({"kl_type": "forward"}, teacher, student, tokens=8.0)
    assert float(result.loss) == pytest.approx(FORWARD / 4)
    expected = {
        "forward_kl": FORWARD / 4,
        "reverse_kl": REVERSE / 4,
        "teacher_in_topk": 0.2,
        "student_in_topk": 0.15,
    }
    for key, number in expected.items():
        assert float(result.metrics[key]) == pytest.approx(number), key


def test_nothing_outside_when_k_is_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    teacher, student = (torch.randn(4, 9).log_softmax(-1) for _ in range(2))
    for settings in LOSSES.values():
        full = loss_of({**settings, "zero_outside_topk": True}, teacher, student).loss
        renormalised = loss_of({**settings, "zero_outside_topk": False}, teacher, student).loss
        torch.testing.assert_close(full, renormalised, rtol=1e-4, atol=2e-4)


def test_it_travels_to_workers() -> None:
    loss = DistillLoss(DistillLossConfig(kl_type="jsd"))
    assert pickle.loads(pickle.dumps(loss)) == loss


# ------------------------------------------------------------------------------------- with models


def config_of(loss: dict[str, Any], *, k: int = 5, size: int = 8) -> DistillConfig:
    return DistillConfig(
        policy={"train_global_batch_size": size, "max_total_sequence_length": 64},
        distillation={"topk_logits_k": k},
        loss_fn=loss,
    )


def of_all_logits(samples: list[Sample], loss: DistillLossConfig, k: int) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients by autograd through all logits of both models."""
    student, teacher = make_model(), make_model(seed=1).eval()
    total = torch.zeros(())
    for sample in samples:
        at = sample.loss_mask_T.nonzero().squeeze(1) - 1
        q = student(sample.tokens_T[None]).logits[0][at].float().log_softmax(-1)
        with torch.no_grad():
            p = teacher(sample.tokens_T[None]).logits[0][at].float().log_softmax(-1)
        top, tokens = p.topk(k)
        c = compared(top, q.gather(1, tokens), zero_outside_topk=loss.zero_outside_topk)
        total = (
            total
            + {
                "forward": distill.forward_kl(c),
                "reverse": distill.reverse_kl(c),
                "mixed": loss.mixed_kl_weight * distill.forward_kl(c)
                + (1 - loss.mixed_kl_weight) * distill.reverse_kl(c),
                "jsd": distill.jsd(c, loss.jsd_beta),
            }[loss.kl_type].sum()
        )
    total = total / sum(sample.num_targets for sample in samples)
    total.backward()
    return float(total), gradients(student)


@pytest.mark.parametrize("way", list(LAYOUTS))
@pytest.mark.parametrize("name", list(LOSSES))
def test_one_step_is_that_of_all_logits_in_every_layout(name: str, way: str) -> None:
    config = config_of({**LOSSES[name], "zero_outside_topk": name == "mixed"})
    policy = sft_config(**LAYOUTS[way], max_grad_norm=None).policy
    learner = make_learner(make_model(), policy)
    teacher = make_learner(make_model(seed=1), policy, frozen=True)
    expected, grads = of_all_logits(make_samples(7), config.loss_fn, 5)
    samples = make_samples(7)
    run(distill.teach(teacher, samples, 5))
    metrics = run(learner.forward_backward(samples, DistillLoss(config.loss_fn)))
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    for key, grad in gradients(learner.model).items():
        torch.testing.assert_close(grad, grads[key], rtol=1e-3, atol=1e-6)


def test_the_whole_vocabulary_is_learnt() -> None:
    """With k the vocabulary's size the student comes to be the teacher, whichever divergence."""
    policy = sft_config(
        optimizer={"kwargs": {"lr": 3e-3}}, train_micro_batch_size=16, logprob_batch_size=16
    ).policy
    learner = make_learner(make_model(), policy)
    teacher = make_learner(make_model(seed=1), policy, frozen=True)
    config = config_of({"kl_type": "mixed"}, k=VOCABULARY, size=16)
    history = [run(distill.step(learner, teacher, make_samples(16), config)) for _ in range(25)]
    assert history[0]["teacher_in_topk"] == pytest.approx(1, abs=1e-5)
    assert history[-1]["loss"] < history[0]["loss"] / 3
    assert history[-1]["forward_kl"] < history[0]["forward_kl"] / 3


def test_an_update_for_each_global_batch() -> None:
    learner, teacher = make_learner(), make_learner(make_model(seed=1), frozen=True)
    before = teacher.model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    samples = make_samples(7)
    metrics = run(distill.step(learner, teacher, samples, config_of({}, size=3)))
    assert (metrics["updates"], metrics["trained_samples"], learner.updates) == (3, 7, 3)
    assert not any("candidates" in sample.token_columns for sample in samples)
    for name, tensor in teacher.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert run(distill.step(learner, teacher, [], config_of({})))["updates"] == 0


def test_what_is_excluded_or_empty_is_not_learnt_from() -> None:
    groups = make_groups([[None, None, None]])
    groups[0].rollouts[1].excluded = "truncated"
    samples = distill.trainable_samples(groups)
    assert [sample.id for sample in samples] == ["draw0#0", "draw0#2"]
    assert samples[0].prefix == 3


def test_the_share_of_own_answers_is_evenly_spread() -> None:
    def steps(share: float) -> list[int]:
        section = DistillConfig(distillation={"on_policy_fraction": share}).distillation
        return [step for step in range(1, 11) if section.is_on_policy_step(step)]

    assert steps(1.0) == list(range(1, 11))
    assert steps(0.0) == []
    assert steps(0.5) == [2, 4, 6, 8, 10]
    assert len(steps(0.3)) == 3
    assert len(steps(0.7)) == 7
