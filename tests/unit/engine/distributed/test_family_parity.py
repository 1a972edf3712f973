"""What of the GRPO family touches the layout, on several ranks: entropies, their quantile, maxima, ratios."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from parity import ADAMW, UPDATES, Trained, compare
from ranks import layout, on_ranks, spread_tiny
from tiny import PAD, grpo_config, make_groups, make_model, run

from hone.algorithms import grpo
from hone.engine.local.learner import LocalLearner
from hone.model.mesh import Mesh
from hone.planning.parallel_dims import ParallelDims

KINDS: dict[str, dict[str, Any]] = {
    "entropy bonus and quantile": {"entropy_coef": 0.1, "top_entropy_quantile": 0.4},
    "sapo, corrected by sequence": {
        "use_sapo": True,
        "token_level_loss": False,
        "use_importance_sampling_correction": True,
        "truncated_importance_sampling_type": "seq-mask-tis",
        "truncated_importance_sampling_ratio": 20.0,
        "truncated_importance_sampling_ratio_min": 0.05,
    },
}
SHAPES = {"dp2": layout(shard=2), "tp2": layout(tensor=2), "cp2": layout(context=2)}


def train(mesh: Mesh | None, loss_fn: dict[str, Any]) -> Trained:
    """Two updates on each of a few rollouts, the second of which has fewer samples than ranks could share evenly."""
    policy = {"optimizer": ADAMW, "train_global_batch_size": 6, "train_micro_batch_size": 2}
    config = grpo_config(policy=policy, loss_fn={"reference_policy_kl_penalty": 0.0, **loss_fn})
    model = make_model("llama") if mesh is None else spread_tiny(mesh, partial(make_model, "llama"))
    learner = LocalLearner(model, config.policy, pad_token=PAD)
    history = []
    for update in range(UPDATES // 4):
        rewards = [[1.0, 0.0, 0.5, None], [0.0, 1.0, 1.0]]
        history.append(run(grpo.step(learner, None, make_groups(rewards, seed=update), config)))
    return history, {name: tensor.clone() for name, tensor in learner.weights()}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("loss_fn", KINDS.values(), ids=KINDS.keys())
def test_on_ranks(loss_fn: dict[str, Any], mesh: ParallelDims) -> None:
    work = partial(train, loss_fn=loss_fn)
    compare(work(None), on_ranks(mesh, work))
