"""`PolicyLoss` against numbers worked out by hand: values and gradients, one setting at a time.

`surrogate` feeds the loss chosen ratios, so that what the paper's equation says can be written beside each case. All
gradients are by the policy's log-probabilities; d ratio / d log pi = ratio.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass

import pytest
import torch
from tiny import make_batch, make_groups
from torch import Tensor

from hone.algorithms import policy_loss as surrogate_of
from hone.algorithms.policy_loss import PolicyLoss
from hone.algorithms.sft import sft_loss
from hone.config.schema import LossConfig
from hone.errors import TrainingError
from hone.types import LossOutput, Outputs, Totals

LN2 = math.log(2.0)


@dataclass
class Result:
    output: LossOutput
    gradient: list[float]

    @property
    def loss(self) -> float:
        return self.output.loss.item()


def evaluate(
    logprobs: list[float],
    advantages: list[float],
    lengths: list[int],
    columns: dict[str, list[float]] | None = None,
    right: dict[str, list[float]] | None = None,
    **settings: object,
) -> Result:
    """The loss of one batch that is the whole global batch. No clipping of the KL unless asked for."""
    settings = {"kl_input_clamp_value": None, "kl_output_clamp_value": None, **settings}
    values = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    tensors = {name: torch.tensor(column, dtype=torch.float64) for name, column in (columns or {}).items()}
    tensors.setdefault("generation_logprobs", values.detach())
    batch = make_batch(lengths, tensors, {"advantage": advantages, **(right or {})})
    sums = {name: sum(values) for name, values in (right or {}).items()}
    totals = Totals(tokens=sum(lengths), sequences=len(lengths), sums=sums)
    output = PolicyLoss(LossConfig(**settings), on_policy=True)(Outputs(values), batch, totals)  # type: ignore[arg-type]
    output.loss.backward()
    assert isinstance(values.grad, Tensor)
    return Result(output, values.grad.tolist())


def surrogate(ratios: list[float], advantages: list[float], lengths: list[int], **settings: object) -> Result:
    """With old log-probabilities of -1, so that token t has `ratios[t]`."""
    logprobs = [math.log(ratio) - 1 for ratio in ratios]
    return evaluate(logprobs, advantages, lengths, {"old_logprobs": [-1.0] * len(ratios)}, **settings)


def test_clipping_low_and_high() -> None:
    # A = 1:  ratio 1.5 -> min(1.5, 1.2) = 1.2, clipped; 0.5 -> min(0.5, 0.8) = 0.5
    # A = -1: ratio 1.5 -> min(-1.5, -1.2) = -1.5;        0.5 -> min(-0.5, -0.8) = -0.8, clipped
    # loss = -(1.2 + 0.5 - 1.5 - 0.8) / 4 = 0.15; gradients -A ratio / 4 where not clipped
    result = surrogate([1.5, 0.5, 1.5, 0.5], [1.0, -1.0], [2, 2], ratio_clip_min=0.2, ratio_clip_max=0.2)
    assert result.loss == pytest.approx(0.15)
    assert result.gradient == pytest.approx([0, -0.125, 0.375, 0])
    metrics = {name: value.item() for name, value in result.output.metrics.items()}
    assert metrics["ratio"] == pytest.approx(1.0)
    assert metrics["clip_high"] == pytest.approx(0.25)  # the first token
    assert metrics["clip_low"] == pytest.approx(0.25)  # the last


def test_clip_metrics_are_there_where_something_is_clipped() -> None:
    ratios, advantages = [1.5, 0.5, 1.5, 0.5], [1.0, -1.0]
    for settings in ({"use_sapo": True}, {"disable_ppo_ratio": True}):
        assert not {"clip_low", "clip_high"} & set(
            surrogate(ratios, advantages, [2, 2], **settings).output.metrics
        )
    weights = surrogate(
        ratios, advantages, [2, 2], use_cispo=True
    ).output.metrics  # cut whatever the advantage
    assert (weights["clip_low"].item(), weights["clip_high"].item()) == (0.5, 0.5)


def test_clipping_higher_than_low() -> None:
    # DAPO: 1.5 -> 1.28 with A = 1; 0.5 -> 0.9 with A = -1: -(1.28 - 0.9) / 2
    result = surrogate([1.5, 0.5], [1.0, -1.0], [1, 1], ratio_clip_min=0.1, ratio_clip_max=0.28)
    assert result.loss == pytest.approx(-0.19)
    assert result.gradient == [0, 0]


def test_dual_clip_bounds_the_loss_of_bad_tokens() -> None:
    # A = -1, c = 3: ratio 5 -> 3 (no gradient); 2 -> 2. A = 1: ratio 5 -> 1.2 as ever. Sum 3 + 2 - 1.2
    result = surrogate([5, 2, 5], [-1.0, 1.0], [2, 1], ratio_clip_c=3.0)
    assert result.loss == pytest.approx(3.8 / 3)
    assert result.gradient == pytest.approx([0, 2 / 3, 0])


# Ratios (1.1, 0.9, 1) with A = 1 and (1.1) with A = 2: token losses -1.1, -0.9, -1, -2.2 (nothing clipped)
@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"token_level_loss": True}, [1 / 4] * 4),
        ({"token_level_loss": False}, [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ({"constant_denominator": 8.0}, [1 / 16] * 4),
    ],
)
def test_denominators(settings: dict[str, object], weights: list[float]) -> None:
    result = surrogate([1.1, 0.9, 1.0, 1.1], [1.0, 2.0], [3, 1], **settings)
    terms = [-1.1, -0.9, -1.0, -2.2]
    assert result.loss == pytest.approx(sum(w * t for w, t in zip(weights, terms, strict=True)))
    assert result.gradient == pytest.approx([w * t for w, t in zip(weights, terms, strict=True)])


def test_gspo_against_a_plain_version() -> None:
    """arXiv 2507.18071 eq. 5 and 7, written out; the gradient of the plain version by autograd."""
    logprobs, old = [-0.5, -1.0, -0.2, -3.0, -0.7], [-0.6, -0.7, -0.9, -2.0, -0.7]
    advantages, low, high = [1.5, -0.5], 0.05, 0.1
    theta = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    terms = []
    for rows, advantage in ((slice(0, 3), advantages[0]), (slice(3, 5), advantages[1])):
        s = ((theta[rows] - torch.tensor(old, dtype=torch.float64)[rows]).sum() / len(logprobs[rows])).exp()
        terms.append(torch.min(s * advantage, s.clamp(1 - low, 1 + high) * advantage))
    plain = -torch.stack(terms).mean()
    plain.backward()
    result = evaluate(
        logprobs,
        advantages,
        [3, 2],
        {"old_logprobs": old},
        sequence_level_importance_ratios=True,
        token_level_loss=False,
        ratio_clip_min=low,
        ratio_clip_max=high,
    )
    # s of the first sequence: exp((0.1 - 0.3 + 0.7) / 3) = exp(1/6) = 1.1814, clipped to 1.1 -> -1.65
    # s of the second: exp(-1/2) = 0.6065, clipped to 0.95 by its negative advantage -> 0.475. Mean -0.5875
    assert result.loss == pytest.approx(-0.5875)
    assert result.loss == pytest.approx(plain.item(), rel=1e-12)
    assert theta.grad is not None
    assert result.gradient == pytest.approx(theta.grad.tolist(), abs=1e-15)


def test_gspo_gradient_where_nothing_is_clipped() -> None:
    # s = exp(mean(0.2, 0)) = exp(0.1); d loss / d log pi_t = -A s / length, over one sequence: -2 exp(0.1) / 2
    result = surrogate(
        [math.exp(0.2), 1.0], [2.0], [2], sequence_level_importance_ratios=True, token_level_loss=False
    )
    assert result.loss == pytest.approx(-2 * math.exp(0.1))
    assert result.gradient == pytest.approx([-math.exp(0.1)] * 2)


def test_cispo_clips_the_weight_and_keeps_every_gradient() -> None:
    # log pi = log ratio - 1. Weights 1.2 (of 1.5), 0.8 (of 0.5), 1: loss = -sum w A log pi / 3
    result = surrogate([1.5, 0.5, 1.0], [1.0, -1.0], [1, 2], use_cispo=True)
    terms = [1.2 * (math.log(1.5) - 1), -0.8 * (math.log(0.5) - 1), -1.0 * -1.0]
    assert result.loss == pytest.approx(-sum(terms) / 3)
    assert result.gradient == pytest.approx([-1.2 / 3, 0.8 / 3, 1 / 3])


def test_reinforce() -> None:
    # -A log pi, whatever the ratio
    result = surrogate([5.0, 0.1], [1.0, -2.0], [1, 1], disable_ppo_ratio=True)
    assert result.loss == pytest.approx(-(1 * (math.log(5.0) - 1) - 2 * (math.log(0.1) - 1)) / 2)
    assert result.gradient == pytest.approx([-0.5, 1.0])


def test_a_forced_on_policy_ratio_is_one_with_the_gradient_of_log_pi() -> None:
    result = surrogate([5.0, 0.1], [1.0, -2.0], [1, 1], force_on_policy_ratio=True)
    assert result.loss == pytest.approx(0.5)  # -(1 - 2) / 2
    assert result.gradient == pytest.approx([-0.5, 1.0])


def test_without_old_logprobs_the_ratio_is_one() -> None:
    implicit = evaluate([-0.3, -2.0], [1.0, -2.0], [1, 1])
    explicit = evaluate([-0.3, -2.0], [1.0, -2.0], [1, 1], {"old_logprobs": [-0.3, -2.0]})
    assert implicit.loss == explicit.loss == pytest.approx(0.5)
    assert implicit.gradient == explicit.gradient == pytest.approx([-0.5, 1.0])


# log pi = log(1/2), reference log(1/4): k3 = ln 2 - 1/2 = 0.1931 with gradient 1/2; k1 = ln 2; k2 = (ln 2)^2 / 2.
# The ratio's gradient, for k1 and k3, adds the estimate itself: k3's is then ln 2, that of the KL for this token.
@pytest.mark.parametrize(
    ("kind", "kl", "gradient"), [("k1", LN2, 1 + LN2), ("k2", LN2**2 / 2, LN2), ("k3", LN2 - 0.5, LN2)]
)
def test_the_kl_penalty_is_added(kind: str, kl: float, gradient: float) -> None:
    result = evaluate(
        [-LN2],
        [2.0],
        [1],
        {"reference_logprobs": [-2 * LN2]},
        reference_policy_kl_penalty=0.1,
        reference_policy_kl_type=kind,
    )
    assert result.loss == pytest.approx(-2.0 + 0.1 * kl)
    assert result.gradient == pytest.approx([-2.0 + 0.1 * gradient])
    assert result.output.metrics["kl"].item() == pytest.approx(kl)
    assert result.output.metrics["policy_loss"].item() == pytest.approx(-2.0)


def test_the_on_policy_kl_approximation_weighs_by_learner_over_generator() -> None:
    # log pi - log generator = ln 2: the estimate counts twice, and the weight has no gradient of its own
    columns = {"reference_logprobs": [-2 * LN2], "generation_logprobs": [-2 * LN2]}
    result = evaluate(
        [-LN2],
        [0.0],
        [1],
        columns,
        reference_policy_kl_penalty=0.1,
        reference_policy_kl_type="k3",
        use_on_policy_kl_approximation=True,
        use_bias_correction_kl=False,
    )
    assert result.loss == pytest.approx(0.1 * 2 * (LN2 - 0.5))
    assert result.gradient == pytest.approx([0.1 * 2 * 0.5])


@pytest.mark.parametrize(("high", "weight"), [(None, 4.0), (3.0, 3.0)])
def test_the_generator_correction_multiplies_the_surrogate_alone(high: float | None, weight: float) -> None:
    # learner 1/2, generator 1/8: weight 4, cut at 3. The KL term is not weighted.
    columns = {"reference_logprobs": [-2 * LN2], "generation_logprobs": [-3 * LN2]}
    result = evaluate(
        [-LN2],
        [2.0],
        [1],
        columns,
        reference_policy_kl_penalty=0.1,
        reference_policy_kl_type="k1",
        use_importance_sampling_correction=True,
        truncated_importance_sampling_ratio=high,
    )
    assert result.loss == pytest.approx(-2.0 * weight + 0.1 * LN2)
    assert result.gradient == pytest.approx([-2.0 * weight + 0.1 * (1 + LN2)])
    assert result.output.metrics["generation_mismatch"].item() == pytest.approx(2 * LN2)


def test_the_correction_compares_the_old_policy_with_the_generator() -> None:
    # old 1/2, generator 1/4: weight 2. The policy now (3/5 of it: ratio 1.2) does not enter the weight.
    columns = {"old_logprobs": [-LN2], "generation_logprobs": [-2 * LN2]}
    result = evaluate(
        [math.log(0.6)], [1.0], [1], columns, use_importance_sampling_correction=True, ratio_clip_max=0.5
    )
    assert result.loss == pytest.approx(-2 * 1.2)
    assert result.gradient == pytest.approx([-2 * 1.2])


@pytest.mark.parametrize("level", [{"token_level_loss": True}, {"token_level_loss": False}])
def test_right_answers_get_cross_entropy_over_their_own_tokens(level: dict[str, bool]) -> None:
    """VAPO eq. 10: the mean over the tokens of right answers, whatever the advantages, and the policy loss's mean.

    Two right answers, of two tokens (log pi -1, -2, A = 1) and one (-4, A = -1: right, and worse than expected), and a
    wrong one of three tokens with A = 1. Cross-entropy (1 + 2 + 4) / 3, gradient -1/3 on each of the three.
    """
    logprobs, advantages, lengths = [-1.0, -2.0, -4.0, -8.0, -8.0, -8.0], [1.0, -1.0, 1.0], [2, 1, 3]
    right = {"right_tokens": [2.0, 1.0, 0.0]}
    plain = evaluate(logprobs, advantages, lengths, **level)
    result = evaluate(logprobs, advantages, lengths, right=right, positive_example_nll_weight=0.5, **level)
    assert result.loss - plain.loss == pytest.approx(0.5 * 7 / 3)
    gained = [a - b for a, b in zip(result.gradient, plain.gradient, strict=True)]
    assert gained == pytest.approx([-0.5 / 3] * 3 + [0.0] * 3)
    assert result.output.metrics["positive_nll_loss"].item() == pytest.approx(7 / 3)


def test_without_a_right_answer_there_is_no_cross_entropy() -> None:
    right = {"right_tokens": [0.0, 0.0]}
    result = evaluate([-1.0, -2.0], [1.0, -1.0], [1, 1], right=right, positive_example_nll_weight=0.5)
    assert result.loss == evaluate([-1.0, -2.0], [1.0, -1.0], [1, 1]).loss


def test_which_answers_are_right() -> None:
    groups = make_groups([[1.0, -0.5, 2.0, 0.25]])
    for rollout, said in zip(groups[0].rollouts, (0.0, 1.0, -1.0, 7.5), strict=True):
        rollout.rewards, rollout.judge = {"format": 1.0, "answer": said}, "answer"
    samples = surrogate_of.samples_per_rollout(groups)
    found = [sample.sequence_columns["right_tokens"] for sample in samples if sample is not None]
    lengths = [float(len(rollout.completion.tokens)) for rollout in groups[0].rollouts]
    # no verdict in 7.5: a reward above 0 counts
    assert found == [0.0, lengths[1], 0.0, lengths[3]]


def test_parts_of_a_split_batch_add_up() -> None:
    """Denominators are global: two micro-batches give together what one gives (rule 1)."""
    loss = PolicyLoss(LossConfig(token_level_loss=False))
    totals = Totals(tokens=5, sequences=2)
    logprobs = torch.tensor([-1.0, -2.0, -0.5, -0.1, -3.0])
    columns = {
        "old_logprobs": logprobs - 0.1,
        "generation_logprobs": logprobs,
        "reference_logprobs": logprobs + 0.3,
    }
    whole = loss(Outputs(logprobs), make_batch([2, 3], columns, {"advantage": [1.0, -2.0]}), totals)
    parts = [
        loss(
            Outputs(logprobs[rows]),
            make_batch([length], {n: c[rows] for n, c in columns.items()}, {"advantage": [advantage]}),
            totals,
        )
        for rows, length, advantage in ((slice(0, 2), 2, 1.0), (slice(2, 5), 3, -2.0))
    ]
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), rel=1e-6)
    for name, value in whole.metrics.items():
        assert sum(part.metrics[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-6), name


def test_samples_of_older_weights_need_their_old_log_probabilities() -> None:
    batch = make_batch([2], {"generation_logprobs": [-1.0, -2.0]}, {"advantage": [1.0]})
    outputs, totals = Outputs(torch.tensor([-1.0, -2.0])), Totals(tokens=2, sequences=1)
    with pytest.raises(TrainingError, match="samples row0 have no old_logprobs"):
        PolicyLoss(LossConfig())(outputs, batch, totals)
    for loss in (
        PolicyLoss(LossConfig(), on_policy=True),
        PolicyLoss(LossConfig(force_on_policy_ratio=True)),
    ):
        assert loss(outputs, batch, totals).metrics["ratio"].item() == 1


def test_the_loss_is_picklable() -> None:
    loss = PolicyLoss(LossConfig(ratio_clip_c=3.0))
    assert pickle.loads(pickle.dumps(loss)) == loss


def test_sft_loss_is_the_mean_over_the_global_batch() -> None:
    # -(-1 - 2) / 6 targets in the global batch
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    output = sft_loss(Outputs(logprobs), make_batch([2]), Totals(tokens=6, sequences=3))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.5)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1 / 6, -1 / 6])
