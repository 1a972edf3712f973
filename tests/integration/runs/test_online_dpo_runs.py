"""`hone online-dpo` as it is run: what it logs, adapters, dynamic sampling, and that it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import ONLINE_DPO, hone, lines_of, metric_rows, steps_of, succeeded, workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workplace(tmp_path_factory.mktemp("online-dpo"))


def ran(place: Path, name: str, *overrides: str) -> Path:
    run = ("online_dpo.max_num_steps=3", f"checkpointing.checkpoint_dir={name}", *overrides)
    succeeded(hone(*ONLINE_DPO, *run, cwd=place))
    return place / name


@pytest.mark.slow
def test_every_completion_is_in_a_pair_or_counted(place: Path) -> None:
    run = ran(place, "counted")
    for row in metric_rows(run):
        assert float(row["samples"]) == 12
        assert float(row["trained_samples"]) == 2 * (4 - float(row["tied_groups"]))
        assert float(row["trained_samples"]) + float(row["unpaired_samples"]) == 12
        assert float(row["beta"]) == 0.1
    assert list(lines_of(run / "rollouts")) == ["step_1.jsonl", "step_2.jsonl", "step_3.jsonl"]
    assert steps_of(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["policy.lora.enabled=true", "policy.lora.dim=4"], id="adapters"),
        pytest.param(["online_dpo.use_dynamic_sampling=true", "online_dpo.loss_type=ipo"], id="dynamic"),
        pytest.param(
            ["cluster.cpu_workers_per_node=2", "online_dpo.missing_eos_penalty=1.0"], id="two_processes"
        ),
    ],
)
def test_ways_to_run(place: Path, overrides: list[str], request: pytest.FixtureRequest) -> None:
    rows = metric_rows(ran(place, request.node.callspec.id, *overrides))
    assert len(rows) == 3
    assert all(float(row["trained_samples"]) > 0 for row in rows)


@pytest.mark.slow
def test_it_learns_the_embedded_task(tmp_path: Path) -> None:
    succeeded(hone("online-dpo", "checkpointing.checkpoint_dir=run", cwd=tmp_path))
    accuracies = [float(row["val_accuracy"]) for row in metric_rows(tmp_path / "run") if row["val_accuracy"]]
    assert accuracies[0] < 0.4
    assert accuracies[-1] > 0.85
