"""`hone online-dpo` as it is run: its metrics, what changes nothing, adapters, environments, reward models."""

from __future__ import annotations

import json
from pathlib import Path

import env_helpers
import pytest
from processes import ONLINE_DPO, RM, hone, lines_of, metric_rows, steps_of, succeeded, tensors, workplace


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
def test_equal_rewards_are_reported_only_if_the_penalty_makes_no_pair(place: Path) -> None:
    """hone/tiny-sft answers in 10 tokens or writes the steps, which takes more than the 11 that it is given."""
    (place / "constant.py").write_text("def zero(completions, **_):\n    return [0.0] * len(completions)\n")
    run = [
        "online-dpo",
        "rewards.functions=[{path: constant.py:zero}]",
        "policy.generation.max_new_tokens=11",
    ]
    run += ["online_dpo.max_num_steps=1", "online_dpo.val_period=0", "online_dpo.val_at_start=false"]
    notice = "has nothing to learn from: all rewards are equal"
    assert notice in succeeded(hone(*run, "checkpointing.checkpoint_dir=no_penalty", cwd=place)).out
    penalty = ["online_dpo.missing_eos_penalty=1.0", "checkpointing.checkpoint_dir=penalty"]
    assert notice not in succeeded(hone(*run, *penalty, cwd=place)).out
    assert float(metric_rows(place / "penalty")[0]["trained_samples"]) > 0


def close(run: Path, other: Path) -> bool:
    """Whether two runs sampled the same completions, and ended with the same weights but for rounding."""
    texts = [
        [[json.loads(line)["completion"] for line in text.splitlines()] for text in files.values()]
        for files in (lines_of(run / "rollouts"), lines_of(other / "rollouts"))
    ]
    ours, theirs = tensors(run), tensors(other)
    gaps = [float((ours[name] - tensor).abs().max()) for name, tensor in theirs.items()]
    return texts[0] == texts[1] and ours.keys() == theirs.keys() and max(gaps) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["policy.train_micro_batch_size=2"], id="micro_batch"),
        pytest.param(["policy.sequence_packing.enabled=true"], id="packing"),
        pytest.param(["policy.dynamic_batching.enabled=true"], id="dynamic_batching"),
        pytest.param(["cluster.cpu_workers_per_node=2"], id="two_ranks"),
    ],
)
def test_what_must_change_nothing_changes_nothing(
    place: Path, overrides: list[str], request: pytest.FixtureRequest
) -> None:
    settings = ["policy.optimizer.kwargs.eps=1e-4", "online_dpo.missing_eos_penalty=1.0"]
    if not (place / "plain").is_dir():
        ran(place, "plain", *settings)
    other = ran(place, request.node.callspec.id, *settings, *overrides)
    assert close(other, place / "plain")


@pytest.mark.slow
def test_the_sampled_completions_change_with_the_seed(place: Path) -> None:
    assert not close(ran(place, "seed_1", "online_dpo.seed=1"), ran(place, "seed_2", "online_dpo.seed=2"))


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_the_reference_is_the_model_without_its_adapter(place: Path, packed: bool) -> None:
    """An adapter begins as no change, so that the first pairs have implicit rewards of 0; then it moves away."""
    name = f"adapter_{packed}"
    adapter = ["policy.lora.enabled=true", "policy.lora.dim=4", "policy.train_global_batch_size=4"]
    rows = metric_rows(ran(place, name, *adapter, f"policy.sequence_packing.enabled={str(packed).lower()}"))
    first, last = (
        {side: float(row[f"rewards_{side}"]) for side in ("chosen", "rejected")} for row in rows[::2]
    )
    assert first == pytest.approx({"chosen": 0.0, "rejected": 0.0}, abs=1e-6)
    assert max(map(abs, last.values())) > 1e-5
    succeeded(hone("convert", name, f"{name}_whole", cwd=place))


@pytest.mark.slow
def test_an_environment_of_several_turns(place: Path) -> None:
    helpers = env_helpers.__file__
    run = ran(
        place,
        "turns",
        "policy.model_name=hone/tiny-sft",
        f"env.path={helpers}:Slow",
        f"data.train.dataset_name={helpers}:conversations",
        f"data.validation.dataset_name={helpers}:conversations",
        "env.max_wait_s=null",
        "rewards.functions=[{name: length, weight: 0.1, kwargs: {target: 50}}]",
        "online_dpo.max_rollout_turns=3",
        "policy.max_total_sequence_length=128",
        "policy.generation.max_new_tokens=32",
        "policy.optimizer.kwargs.lr=1e-5",
    )
    for row in metric_rows(run):
        assert 2 < float(row["turns"]) <= 3
        assert float(row["trained_samples"]) > 0


@pytest.mark.slow
def test_dynamic_sampling_draws_until_no_group_ties(place: Path) -> None:
    settings = [
        "online_dpo.use_dynamic_sampling=true",
        "online_dpo.loss_type=ipo",
        "online_dpo.batch_multiplier=2.0",
    ]
    for row in metric_rows(ran(place, "drawn", *settings)):
        assert (float(row["tied_groups"]), float(row["trained_samples"])) == (0, 8)


@pytest.mark.slow
def test_a_model_of_hone_rm_ranks_the_completions(place: Path) -> None:
    succeeded(hone(*RM, "rm.max_num_steps=2", "checkpointing.checkpoint_dir=rm", cwd=place))
    succeeded(hone("convert", "rm", "rm_model", cwd=place))
    run = ran(place, "ranked", "rewards.functions=[{name: reward_model, kwargs: {model: rm_model}}]")
    for text in lines_of(run / "rollouts").values():
        rollouts = [json.loads(line) for line in text.splitlines()]
        assert all(rollout["rewards"]["reward_model"] == rollout["reward"] for rollout in rollouts)
        assert len({rollout["reward"] for rollout in rollouts}) > 6
    assert all(float(row["pair_reward_gap"]) > 0 for row in metric_rows(run))


@pytest.mark.slow
def test_it_learns_the_embedded_task(tmp_path: Path) -> None:
    learns(tmp_path, seed=42)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_learns_the_embedded_task_with_other_seeds(seed: int, tmp_path: Path) -> None:
    learns(tmp_path, seed)


def learns(folder: Path, seed: int) -> None:
    run = ["checkpointing.checkpoint_dir=run", f"online_dpo.seed={seed}"]
    succeeded(hone("online-dpo", *run, cwd=folder, timeout=600.0))
    accuracies = [float(row["val_accuracy"]) for row in metric_rows(folder / "run") if row["val_accuracy"]]
    assert accuracies[0] < 0.4
    assert accuracies[-1] > 0.85
