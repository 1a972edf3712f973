"""KL to the reference model (the initial policy), in the loss or in the reward.

    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d, with d = log pi - log reference of a token        `ops.kl_estimate`
    in the loss: times pi / pi_old with its gradient for k1 and k3, or where use_bias_correction_kl says so  `weight`
    in the reward: of the weights before the first update; `policy_loss.add_logprobs` computes it, `advantages` and
    `ppo` subtract it                                                           its metric: `kl_penalty_metric`

All of these have the gradient of KL(pi || reference) given what precedes a token, in expectation. Without the ratio k1
would have none and k3 that of KL(reference || pi); k2 needs no ratio (arXiv 2506.09477). Only the KL in the reward
accounts for a token's effect on the KL of later ones. Shapes: `_N` target tokens, `_T` targets of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hone.algorithms import ops
from hone.config.schema import LossConfig


def estimate(
    logprobs_N: Tensor, reference_N: Tensor, config: LossConfig, weight_N: Tensor | None = None
) -> Tensor:
    """Per-token KL(policy || reference), estimated as configured, times the weights."""
    return ops.kl_estimate(
        logprobs_N,
        reference_N,
        config.reference_policy_kl_type,
        input_clamp=config.kl_input_clamp_value,
        output_clamp=config.kl_output_clamp_value,
        weight_N=weight_N,
    )


def weight(logprobs_N: Tensor, old_N: Tensor, generated_N: Tensor, config: LossConfig) -> Tensor | None:
    """The ratio of the policy to the distribution that sampled, by which the estimate is unbiased under the policy.
    With the ratio's gradient, the estimate's expected gradient is the KL's (arXiv 2506.09477; DeepSeek-V3.2, arXiv
    2512.02556)."""
    if not (config.use_on_policy_kl_approximation or config.corrects_kl):
        return None
    gap_N = logprobs_N - (generated_N if config.use_on_policy_kl_approximation else old_N)
    if config.kl_input_clamp_value is not None:
        gap_N = gap_N.clamp(max=config.kl_input_clamp_value)
    return (gap_N if config.corrects_kl else gap_N.detach()).exp()


def kl_penalty_metric(kl_penalties: Sequence[Tensor | None], config: LossConfig) -> dict[str, float]:
    """The metric `kl` if the KL is in the reward: the mean estimate per token, before the first update."""
    every = [kl_penalty_T for kl_penalty_T in kl_penalties if kl_penalty_T is not None]
    tokens = sum(len(kl_penalty_T) for kl_penalty_T in every)
    total = sum(float(kl_penalty_T.sum()) for kl_penalty_T in every)
    return {"kl": total / (config.reference_policy_kl_penalty * tokens)} if tokens else {}
