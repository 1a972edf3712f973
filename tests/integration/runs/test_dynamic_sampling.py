"""Dynamic sampling in runs of the command: full batches, what is counted, where the data end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import GRPO, hone, metric_rows, succeeded, workplace

RUN = (
    *GRPO,
    "grpo.use_dynamic_sampling=true",
    "rewards.functions=[{path: rewards.py:some_vowels, name: vowels}]",
    "grpo.val_period=0",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("dynamic"))


def test_batches_are_filled_and_all_is_written_down(place: Path) -> None:
    succeeded(hone(*RUN, "grpo.max_num_steps=4", "checkpointing.checkpoint_dir=run", cwd=place))
    rows = metric_rows(place / "run")
    assert len(rows) == 4
    drawn = 0
    for row in rows:
        number = {name: float(value) for name, value in row.items() if value}
        trained = 8 - 4 * number["groups_missing"]
        assert number["trained_samples"] == trained > 0
        assert number["groups_missing"] == 0 or number["dynamic_sampling_num_gen_batches"] == 10
        filtered = sum(number[f"groups_{kind}"] for kind in ("all_right", "all_wrong", "all_failed"))
        thrown_away = number["dynamic_sampling_num_discarded_valid_samples"] / 4
        assert number["groups_drawn"] == trained / 4 + filtered + thrown_away
        assert number["samples"] == 4 * number["groups_drawn"]
        path = place / "run" / "rollouts" / f"step_{int(number['step'])}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(records) == number["samples"]
        assert sum(record["excluded"] is None for record in records) == trained
        assert {record["excluded"] for record in records} <= {None, "all_right", "all_wrong", "surplus"}
        drawn += int(number["groups_drawn"])
    assert drawn > 8, "nothing was filtered: the test shows nothing"


@pytest.mark.slow
def test_the_run_ends_with_the_data_and_goes_on_when_there_are_more(place: Path) -> None:
    """64 prompts are 32 steps of 2 groups; filtering takes some, so that the data end sooner."""
    run = (*RUN, "checkpointing.checkpoint_dir=short", "grpo.val_at_end=true")
    first = succeeded(hone(*run, "grpo.max_num_epochs=1", cwd=place))
    rows = metric_rows(place / "short")
    assert len(rows) < 32
    assert sum(float(row["groups_drawn"]) for row in rows) == 64
    assert rows[-1]["val_reward"], first.out
    again = succeeded(hone(*run, "grpo.max_num_epochs=1", cwd=place))
    assert "is a finished run" in again.out
    longer = succeeded(hone(*run, "grpo.max_num_epochs=2", "grpo.max_num_steps=40", cwd=place))
    assert "resumed from" in longer.out
    assert sum(float(row["groups_drawn"]) for row in metric_rows(place / "short")) > 64


@pytest.mark.slow
def test_a_constant_reward_is_no_finished_run(place: Path) -> None:
    """One epoch of prompts, all with the same reward: the data end in the first step, with the weights unchanged."""
    functions = "rewards.functions=[{name: format}, {path: rewards.py:letters, name: letters, weight: 0.0}]"
    place_of = "checkpointing.checkpoint_dir=constant"
    ended = hone(*RUN, functions, "grpo.max_num_epochs=1", "grpo.num_prompts_per_step=8", "grpo.max_num_steps=4",
                 "policy.train_global_batch_size=8", place_of, cwd=place)  # fmt: skip
    assert ended.code == 1
    assert "reward function 'format' is 0 for all 256 completions" in ended.err
    static = hone(*RUN, functions, "grpo.use_dynamic_sampling=false", "grpo.max_num_steps=2",
                  "checkpointing.checkpoint_dir=static", cwd=place)  # fmt: skip
    assert static.code == 0
    said = "step 1 has nothing to learn from: all rewards are equal; reward function 'format' is 0 for all 8"
    assert static.out.count("has nothing to learn from") == static.out.count(said) == 1


def test_nothing_to_learn_stops_with_a_reason(place: Path) -> None:
    functions = "rewards.functions=[{name: format}, {path: rewards.py:letters, name: letters, weight: 0.0}]"
    ended = hone(
        *RUN,
        functions,
        "grpo.dynamic_sampling_max_gen_batches=2",
        "grpo.max_num_steps=4",
        "checkpointing.checkpoint_dir=nothing",
        cwd=place,
    )
    assert ended.code == 1
    assert (
        "no group of 4 in 2 batches has unequal rewards (0 all right, 4 all wrong; reward function"
        in ended.err
    )
