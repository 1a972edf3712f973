"""`hone distill` as it is run: metrics, given answers, adapters, all of the vocabulary, nothing left to learn from."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import DISTILL, hone, lines_of, metric_rows, steps_of, succeeded, workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("distill"))


def ran(place: Path, name: str, *overrides: str) -> Path:
    run = ("distillation.max_num_steps=4", f"checkpointing.checkpoint_dir={name}", *overrides)
    succeeded(hone(*DISTILL, *run, cwd=place))
    return place / name


def test_own_answers_and_given_ones(place: Path) -> None:
    """Every fourth step is the student's own; what a step was like is written down, whichever it was."""
    run = ran(place, "mixed", "distillation.on_policy_fraction=0.25", "distillation.val_at_end=true")
    rows = metric_rows(run)
    assert [row["samples"] for row in rows] == ["4", "4", "4", "8"]
    assert [row["completion_length"] != "" for row in rows] == [False, False, False, True]
    assert [row["excluded_samples"] for row in rows] == ["0", "0", "0", ""]
    assert [row["updates"] for row in rows] == ["1", "1", "1", "2"]
    for row in rows:
        assert float(row["forward_kl"]) > 0
        assert 0 < float(row["student_in_topk"]) < 1
        assert 8 / 400 < float(row["teacher_in_topk"]) < 1
    assert float(rows[-1]["val_reward"]) >= 0
    assert rows[-1].get("reward", "") == ""  # not learnt from, so not asked for
    assert list(lines_of(run / "rollouts")) == ["step_4.jsonl"]
    assert steps_of(run)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["policy.lora.enabled=true", "policy.lora.dim=4"], id="adapters"),
        pytest.param(["loss_fn.kl_type=jsd", "loss_fn.zero_outside_topk=true"], id="jsd"),
        pytest.param(["policy.sequence_packing.enabled=true", "loss_fn.kl_type=reverse"], id="packed"),
    ],
)
@pytest.mark.slow
def test_the_student_comes_nearer(place: Path, overrides: list[str], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    run = ran(place, name, "distillation.max_num_steps=16", "policy.optimizer.kwargs.lr=1e-2", *overrides)
    losses = [float(row["policy_loss_total"]) for row in metric_rows(run)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.slow
def test_all_of_the_vocabulary(place: Path) -> None:
    ended = hone(
        *DISTILL, "distillation.topk_logits_k=100000", "checkpointing.checkpoint_dir=whole", cwd=place
    )
    assert ended.code == 2
    assert "distillation.topk_logits_k=100000 is more than the" in ended.err
    size = ended.err.split("set it to ")[1].split(" ")[0]
    rows = metric_rows(ran(place, "whole", f"distillation.topk_logits_k={size}"))
    for row in rows:
        assert float(row["teacher_in_topk"]) == pytest.approx(1, abs=1e-4)
        assert float(row["student_in_topk"]) == pytest.approx(1, abs=1e-4)


def test_nothing_is_learnt_where_every_completion_is_left_out(place: Path) -> None:
    run = ran(place, "cut", "distillation.overlong_filtering=true", "policy.generation.max_new_tokens=1")
    rows = metric_rows(run)
    assert [row["excluded"] for row in rows] == ["8"] * 4
    assert [row["updates"] for row in rows] == ["0"] * 4


@pytest.mark.slow
def test_rows_without_answers_stop_a_run_that_needs_them(place: Path) -> None:
    (place / "asked.jsonl").write_text('{"prompt": "What is 1 plus 2?", "answer": "3"}\n' * 8)
    arguments = ("data.train.dataset_name=asked.jsonl", "distillation.max_num_steps=1")
    ended = hone(
        *DISTILL,
        *arguments,
        "distillation.on_policy_fraction=0.5",
        "checkpointing.checkpoint_dir=x",
        cwd=place,
    )
    assert ended.code == 1
    assert "asked.jsonl" in ended.err
    assert "completion" in ended.err
    ran(place, "prompts_alone", *arguments)
