"""Weights of rewards that change over training: a run that goes on sees those that it would have seen."""

from __future__ import annotations

import pytest
from processes import GRPO, hone, metric_rows, result, same, succeeded

FUNCTIONS = (
    "rewards.functions=[{name: answer, weight: {0: 1.0, 4: 3.0}}, "
    "{name: length, weight: {0: 0.0, 2: 1.0}, weight_schedule: step, kwargs: {target: 8}}]"
)
RUN = (
    *GRPO,
    FUNCTIONS,
    "grpo.max_num_steps=4",
    "grpo.val_period=0",
    "grpo.val_at_start=false",
    "checkpointing.metric_name=null",
    "checkpointing.save_period=4",
    "checkpointing.keep_top_k=1",
)
STOP = "checkpointing.checkpoint_must_save_by=0:0:0:0"  # of no time: a stop after each step


@pytest.mark.slow
def test_weights_go_on_where_they_were(place):
    succeeded(hone(*RUN, "checkpointing.checkpoint_dir=weights_whole", cwd=place))
    for settings in ((STOP,), (STOP,), ()):
        succeeded(hone(*RUN, *settings, "checkpointing.checkpoint_dir=weights_pieces", cwd=place))
    same(result(place / "weights_pieces"), result(place / "weights_whole"))
    rows = metric_rows(place / "weights_whole")
    assert [float(row["weight_answer"]) for row in rows] == [1.0, 1.5, 2.0, 2.5]
    assert [float(row["weight_length"]) for row in rows] == [0.0, 0.0, 1.0, 1.0]
