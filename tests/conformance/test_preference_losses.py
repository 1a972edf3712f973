"""Every preference loss and its gradient, token by token, against TRL's own trainers on the same log-probabilities; and
against the papers' formulas, written out, where TRL has none."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import run
from torch import Tensor
from torch.nn.functional import logsigmoid

from hone.algorithms.dpo import Moments, loss_of
from hone.algorithms.losses.preference_losses import PreferenceLossParams
from hone.algorithms.losses.preference_objective import PreferenceObjective
from hone.config.schema.dpo import DPOSection
from hone.types import Batch, Outputs, Sample, Totals

BETA = 0.3
CHOSEN, REJECTED = [3, 7, 2, 5, 9], [6, 2, 8, 5, 1]
"""Tokens of each side's answer."""
PAIRS = len(CHOSEN)
WIDTH = 12
TRL_LOSSES = [
    *(
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
    ),
    *("apo_zero", "apo_down", "discopop", "sigmoid_norm"),
]
SMOOTHED = {"exo_pair": 0.02, "robust": 0.1, "aot": 0.15, "aot_unpaired": 0.1}


def numbers() -> tuple[Tensor, Tensor]:
    """[2 P, T - 1] log-probabilities of a padded batch, all chosen first, and its mask; [2 P] of the reference."""
    generator = torch.Generator().manual_seed(5)
    values = -2 * torch.rand(2 * PAIRS, WIDTH - 1, generator=generator, dtype=torch.float64)
    reference = torch.tensor([-1.0 * n for n in (*CHOSEN, *REJECTED)], dtype=torch.float64)
    return values, reference + torch.randn(2 * PAIRS, generator=generator, dtype=torch.float64)


def mask_of(lengths: list[int]) -> Tensor:
    """Answers begin after two tokens of prompt."""
    columns = torch.arange(WIDTH)[None]
    return (columns >= 2) & (columns < 2 + torch.tensor(lengths)[:, None])


def trl_dpo(
    name: str, values: Tensor, reference: Tensor, smoothing: float, metrics: Any = None
) -> tuple[float, Tensor]:
    from trl.trainer.dpo_trainer import DPOTrainer

    leaf = values.clone().requires_grad_()
    mask = mask_of([*CHOSEN, *REJECTED])
    zeros = torch.zeros(2 * PAIRS, WIDTH - 1, dtype=torch.float64)

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(
            log_probs=leaf * mask[:, 1:], entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )

    model.training = True  # type: ignore[attr-defined]
    same = lambda value: value  # noqa: E731
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        beta=BETA,
        label_smoothing=smoothing,
        args=SimpleNamespace(discopop_tau=0.05),
        use_weighting=False,
        _metrics={"train": defaultdict(list) if metrics is None else metrics},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros(2 * PAIRS, WIDTH, dtype=torch.long),
        "attention_mask": torch.ones(2 * PAIRS, WIDTH, dtype=torch.long),
        "completion_mask": mask.long(),
        "ref_chosen_logps": reference[:PAIRS],
        "ref_rejected_logps": reference[PAIRS:],
    }
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    loss.backward()
    return loss.item(), targets(leaf.grad)


def targets(padded: Tensor | None) -> Tensor:
    """The entries of a padded batch that are targets, pair by pair: chosen, then rejected."""
    assert padded is not None
    mask = mask_of([*CHOSEN, *REJECTED])[:, 1:]
    rows = [row for pair in range(PAIRS) for row in (pair, PAIRS + pair)]
    return torch.cat([padded[row][mask[row]] for row in rows])


class Answers:
    """A model that says what it was given."""

    def __init__(self, values_N: Tensor) -> None:
        self.values_N = values_N

    async def forward(self, samples: list[Sample]) -> list[Tensor]:
        return list(self.values_N.split([sample.num_targets for sample in samples]))


def samples_of(reference: Tensor) -> list[Sample]:
    """Our side of the same pairs."""
    samples = []
    for pair in range(PAIRS):
        for side, lengths, label, row in (
            ("chosen", CHOSEN, 1.0, pair),
            ("rejected", REJECTED, -1.0, PAIRS + pair),
        ):
            mask = torch.arange(2 + lengths[pair]) >= 2
            columns = {"label": label, "reference_logprob_sum": float(reference[row])}
            sample = Sample(f"{pair}:{side}", torch.zeros(len(mask), dtype=torch.long), mask, {}, columns)
            sample.unit = str(pair)
            samples.append(sample)
    return samples


def ours(
    settings: dict[str, Any], values: Tensor, reference: Tensor, moments: Moments | None = None
) -> tuple[float, Tensor, dict[str, Tensor]]:
    section = DPOSection(**{"reference_policy_kl_penalty": BETA, "sft_average_log_probs": False, **settings})
    values_N = targets(values).requires_grad_()
    samples = samples_of(reference)
    loss = run(
        loss_of(Answers(values_N.detach()), samples, section, paired=True, moments=moments or Moments())
    )
    result = loss(Outputs(values_N), *whole(samples))
    result.loss.backward()
    assert values_N.grad is not None
    return result.loss.item(), values_N.grad, result.metrics


def whole(samples: list[Sample]) -> tuple[Batch, Totals]:
    lengths = torch.tensor([sample.num_targets for sample in samples])
    columns = {
        name: torch.tensor([sample.sequence_columns[name] for sample in samples], dtype=torch.float64)
        for name in samples[0].sequence_columns
    }
    batch = Batch(
        [sample.id for sample in samples],
        torch.zeros(int(lengths.sum()), dtype=torch.long),
        torch.repeat_interleave(torch.arange(len(samples)), lengths),
        lengths,
        sequence_columns=columns,
    )
    return batch, Totals(
        float(lengths.sum()), float(len(samples)), {k: float(v.sum()) for k, v in columns.items()}
    )


@pytest.mark.parametrize("name", TRL_LOSSES)
def test_equal_to_trls_dpo_trainer(name: str) -> None:
    values, reference = numbers()
    smoothing = SMOOTHED.get(name)
    expected, gradient = trl_dpo(name, values, reference, smoothing or 0.0)
    loss, grads, _ = ours({"preference_loss": name, "label_smoothing": smoothing}, values, reference)
    assert loss == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(grads, gradient, rtol=0, atol=1e-6)
    assert gradient.abs().max() > 1e-4


def test_weighted_losses_and_the_sft_term_add_up() -> None:
    values, reference = numbers()
    parts = {"sigmoid": 0.7, "apo_zero": 0.2, "aot_unpaired": 1.1}
    loss, grads, metrics = ours(
        {"preference_loss": parts, "preference_loss_weight": 0.5, "sft_loss_weight": 0.25}, values, reference
    )
    theirs = {name: trl_dpo(name, values, reference, 0.0) for name in parts}
    mask = mask_of(CHOSEN)[:, 1:]
    nll = -(values[:PAIRS] * mask).sum() / PAIRS
    expected = 0.5 * sum(w * theirs[name][0] for name, w in parts.items()) + 0.25 * float(nll)
    assert loss == pytest.approx(expected, abs=1e-6)
    flags = torch.tensor([1.0, 0.0]).repeat(PAIRS)
    chosen_T = flags.repeat_interleave(torch.tensor([CHOSEN, REJECTED]).T.flatten())
    gradient = 0.5 * sum(w * theirs[name][1] for name, w in parts.items()) - 0.25 * chosen_T / PAIRS
    torch.testing.assert_close(grads, gradient, rtol=0, atol=1e-6)
    assert float(metrics["sft_loss"]) == pytest.approx(float(nll))


@pytest.mark.parametrize(("name", "smoothing"), [("simpo", 0.0), ("simpo", 0.1), ("cpo", 0.0), ("cpo", 0.2)])
def test_equal_to_trls_cpo_trainer(name: str, smoothing: float) -> None:
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    values, reference = numbers()
    leaf = values.clone().requires_grad_()
    sums = (leaf * mask_of([*CHOSEN, *REJECTED])[:, 1:]).sum(1)
    lengths = torch.tensor([*CHOSEN, *REJECTED])
    logps = sums / lengths if name == "simpo" else sums
    trainer = SimpleNamespace(
        alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
        loss_type="simpo" if name == "simpo" else "sigmoid",
        simpo_gamma=0.4,
        beta=BETA,
        label_smoothing=smoothing,
    )
    losses, _, _ = CPOTrainer.cpo_loss(trainer, logps[:PAIRS], logps[PAIRS:])
    losses.mean().backward()
    gamma = {"simpo_gamma": 0.4} if name == "simpo" else {}
    loss, grads, _ = ours({"preference_loss": name, "label_smoothing": smoothing, **gamma}, values, reference)
    assert loss == pytest.approx(losses.mean().item(), abs=1e-6)
    torch.testing.assert_close(grads, targets(leaf.grad), rtol=0, atol=1e-6)


def test_equal_to_trls_orpo_trainer() -> None:
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    values, reference = numbers()
    leaf = values.clone().requires_grad_()
    means = (leaf * mask_of([*CHOSEN, *REJECTED])[:, 1:]).sum(1) / torch.tensor([*CHOSEN, *REJECTED])
    trainer = SimpleNamespace(beta=BETA, accelerator=SimpleNamespace(device="cpu"))
    # TRL takes these log-probabilities in fp32, whatever they come in
    losses = ORPOTrainer.odds_ratio_loss(trainer, means[:PAIRS], means[PAIRS:])[0]
    (-losses.mean()).backward()
    loss, grads, _ = ours({"preference_loss": "orpo"}, values, reference)
    assert loss == pytest.approx(-losses.mean().item(), abs=1e-6)
    torch.testing.assert_close(grads, targets(leaf.grad), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.6)])
@pytest.mark.parametrize("shift", [0.8, -0.8], ids=["KL above 0", "KL below 0, taken as 0"])
def test_equal_to_trls_kto_trainer(weights: tuple[float, float], shift: float) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    values, reference = numbers()
    leaf = values.clone().requires_grad_()
    mask = mask_of([*CHOSEN, *REJECTED])
    zeros = torch.zeros(2 * PAIRS, WIDTH - 1, dtype=torch.float64)
    kl_values = torch.linspace(-3, -2, 2 * PAIRS, dtype=torch.float64)
    kl_reference = kl_values - shift

    def model(**given: Any) -> SimpleNamespace:
        if given["labels"].shape[1] == 2:  # the mismatched answers
            return SimpleNamespace(log_probs=kl_values[:, None])
        return SimpleNamespace(log_probs=leaf * mask[:, 1:], entropy=zeros, mean_logits=zeros)

    model.training = True  # type: ignore[attr-defined]
    same = lambda value: value  # noqa: E731
    trainer = SimpleNamespace(
        model=model,
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        beta=BETA,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    trainer._compute_kl_logps = lambda *given: KTOTrainer._compute_kl_logps(trainer, *given)
    inputs = {
        "input_ids": torch.zeros(2 * PAIRS, WIDTH, dtype=torch.long),
        "attention_mask": torch.ones(2 * PAIRS, WIDTH, dtype=torch.long),
        "completion_mask": mask.long(),
        "KL_input_ids": torch.zeros(2 * PAIRS, 2, dtype=torch.long),
        "KL_attention_mask": torch.ones(2 * PAIRS, 2, dtype=torch.long),
        "KL_completion_mask": torch.ones(2 * PAIRS, 2, dtype=torch.long),
        "label": torch.tensor([True] * PAIRS + [False] * PAIRS),
        "ref_logps": reference,
        "ref_KL_logps": kl_reference,
    }
    expected = KTOTrainer._compute_loss(trainer, model, inputs, False)
    expected.backward()
    section = DPOSection(
        reference_policy_kl_penalty=BETA,
        preference_loss="kto",
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        sft_average_log_probs=False,
    )
    mismatched = [
        Sample(
            str(n),
            torch.zeros(2, dtype=torch.long),
            torch.tensor([False, True]),
            {},
            {"reference_logprob_sum": float(value)},
        )
        for n, value in enumerate(kl_reference)
    ]
    loss = run(
        loss_of(
            Answers(kl_values),
            samples_of(reference),
            section,
            paired=True,
            moments=Moments(),
            mismatched=mismatched,
        )
    )
    values_N = targets(values).requires_grad_()
    result = loss(Outputs(values_N), *whole(samples_of(reference)))
    result.loss.backward()
    assert loss.params.kl == pytest.approx(max(shift, 0.0))
    assert result.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(values_N.grad, targets(leaf.grad), rtol=0, atol=1e-6)


def test_cdpo_is_the_mixture_of_both_ways_round() -> None:
    """Mitchell 2023, eq. 3."""
    values, reference = numbers()
    loss, _, _ = ours({"preference_loss": "sigmoid", "label_smoothing": 0.2}, values, reference)
    right, _, _ = ours({"preference_loss": "sigmoid"}, values, reference)
    sums = (values * mask_of([*CHOSEN, *REJECTED])[:, 1:]).sum(1) - reference
    margin = sums[:PAIRS] - sums[PAIRS:]
    assert right == pytest.approx(float(-logsigmoid(BETA * margin).mean()))
    assert loss == pytest.approx(0.8 * right + 0.2 * float(-logsigmoid(-BETA * margin).mean()))


def test_bco_is_the_papers_with_the_running_mean() -> None:
    """arXiv 2404.04656 eq. 8: delta is the mean reward so far, here of one batch of rewards 0.4 and one of -0.2."""
    values, reference = numbers()
    moments = Moments()
    moments.add(0.4, 10)
    moments.add(-0.2, 5)
    assert moments.mean == pytest.approx(0.2)
    loss, _, _ = ours({"preference_loss": "bco_pair"}, values, reference, moments)
    rewards = BETA * ((values * mask_of([*CHOSEN, *REJECTED])[:, 1:]).sum(1) - reference)
    expected = -logsigmoid(rewards[:PAIRS] - 0.2) - logsigmoid(-(rewards[PAIRS:] - 0.2))
    assert loss == pytest.approx(float(expected.mean()))


def test_average_log_probs_divide_policy_and_reference() -> None:
    values, reference = numbers()
    loss, _, metrics = ours(
        {"preference_loss": "sigmoid", "preference_average_log_probs": True}, values, reference
    )
    lengths = torch.tensor([*CHOSEN, *REJECTED])
    ratios = ((values * mask_of([*CHOSEN, *REJECTED])[:, 1:]).sum(1) - reference) / lengths
    margin = BETA * (ratios[:PAIRS] - ratios[PAIRS:])
    assert loss == pytest.approx(float(-logsigmoid(margin).mean()))
    assert float(metrics["reward_margin"]) == pytest.approx(float(margin.mean()))
    assert float(metrics["reward_accuracy"]) == pytest.approx(float((margin > 0).double().mean()))


def test_metrics_are_trls() -> None:
    values, reference = numbers()
    _, _, metrics = ours({"preference_loss": "sigmoid"}, values, reference)
    theirs: dict[str, list[float]] = defaultdict(list)
    trl_dpo("sigmoid", values, reference, 0.0, metrics=theirs)
    for name, their in {
        "rewards_chosen": "rewards/chosen",
        "rewards_rejected": "rewards/rejected",
        "reward_margin": "rewards/margins",
        "reward_accuracy": "rewards/accuracies",
        "logps_chosen": "logps/chosen",
        "logps_rejected": "logps/rejected",
    }.items():
        assert float(metrics[name]) == pytest.approx(theirs[their][0], abs=1e-6), name


def test_nothing_is_infinite_far_out() -> None:
    """Answers of probability 1, or next to 0, under policy and reference."""
    reference = torch.zeros(2 * PAIRS, dtype=torch.float64)
    for fill in (0.0, -1e4):
        values = torch.full((2 * PAIRS, WIDTH - 1), fill, dtype=torch.float64)
        for name in (*TRL_LOSSES, "simpo", "orpo", "cpo"):
            if name == "discopop" and fill < 0:
                continue  # exp(-logit) is the loss
            loss, grads, _ = ours({"preference_loss": name}, values, reference)
            assert torch.isfinite(grads).all(), name
            assert loss == loss, name


def test_a_rank_without_work_adds_nothing() -> None:
    section = DPOSection(
        preference_loss={"sigmoid": 1.0, "orpo": 1.0, "kto": 1.0}, sft_average_log_probs=True
    )
    loss = PreferenceObjective(section, PreferenceLossParams())
    batch = Batch(
        ["a", "b"],
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(2, dtype=torch.long),
        sequence_columns={"label": torch.zeros(2), "reference_logprob_sum": torch.zeros(2)},
    )
    values_N = torch.zeros(0, requires_grad=True)
    result = loss(Outputs(values_N), batch, Totals(10.0, 4.0, {"label": 0.0, "reference_logprob_sum": -8.0}))
    result.loss.backward()
    assert result.loss.item() == 0.0
    assert all(float(value) == 0.0 for value in result.metrics.values())
