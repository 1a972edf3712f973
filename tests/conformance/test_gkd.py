"""The generalised Jensen-Shannon divergence agrees with TRL's GKD trainer, loss and gradient."""

from __future__ import annotations

import pytest
import torch
from tiny import make_batch

from hone.algorithms.distill import DistillLoss
from hone.config.schema.distill import DistillLossConfig
from hone.types import Outputs, Totals

gkd = pytest.importorskip("trl.experimental.gkd.gkd_trainer")


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_gkd(beta: float, temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 7, 11, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.where(torch.rand(2, 7) < 0.6, 1, -100)
    count = int((labels != -100).sum())
    theirs = gkd.GKDTrainer.generalized_jsd_loss(
        student, teacher.detach(), labels, beta=beta, temperature=temperature, reduction="batchmean"
    )
    (their_gradient,) = torch.autograd.grad(theirs, student)
    at = labels != -100
    logprobs = (student / temperature).log_softmax(-1)[at]
    told, tokens = (teacher.detach() / temperature).log_softmax(-1)[at].topk(11)
    loss = DistillLoss(DistillLossConfig(kl_type="jsd", jsd_beta=beta))
    outputs = Outputs(logprobs[:, 0], candidate_logprobs_NK=logprobs.gather(1, tokens))
    ours = loss(outputs, make_batch([count], {"teacher_logprobs": told}), Totals(count, 2.0)).loss
    (our_gradient,) = torch.autograd.grad(ours, student)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-9)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-9)
