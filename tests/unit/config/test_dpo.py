"""The section `dpo`: spellings, derived values, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.config import load
from hone.errors import ConfigError


def test_a_name_or_a_mapping_of_losses() -> None:
    assert load("dpo", None, ["dpo.preference_loss=ipo"]).config.dpo.preference_loss == {"ipo": 1.0}
    mixed = load("dpo", None, ["dpo.preference_loss={sigmoid: 0.8, apo_zero: 0.2}"]).config
    assert mixed.dpo.preference_loss == {"sigmoid": 0.8, "apo_zero": 0.2}
    assert load("dpo", None, ["dpo.preference_loss={ipo: 1.0}"]).config.dpo.preference_loss == {"ipo": 1.0}
    assert load("dpo", None, []).config.dpo.preference_loss == {"sigmoid": 1.0}
    assert load("dpo", None, ["dpo.loss_type=hinge"]).config.dpo.preference_loss == {"hinge": 1.0}


def test_the_resolved_file_loads_to_the_same(tmp_path: Path) -> None:
    loaded = load("dpo", None, ["dpo.preference_loss={simpo: 1.0}", "dpo.simpo_gamma=1.5", "dpo.beta=2.0"])
    (tmp_path / "resolved.yaml").write_text(loaded.to_yaml())
    assert load("dpo", tmp_path / "resolved.yaml", []).config == loaded.config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dpo.preference_loss=sigmod"], ["dpo.preference_loss=sigmod: ", "did you mean sigmoid?"]),
        (["dpo.loss_type=bogus"], ["dpo.loss_type=bogus: expected 'sigmoid', ", "'orpo' or 'cpo'"]),
        (
            ["dpo.preference_loss={ipoo: 1.0}"],
            ["dpo.preference_loss.ipoo: expected 'sig", "did you mean ipo?"],
        ),
        (["dpo.preference_loss={}"], ["names no loss"]),
        (["dpo.preference_loss={sigmoid: 0.0}"], ["above 0"]),
        (["dpo.preference_loss_weight=0"], ["dpo.sft_loss_weight", "nothing to learn"]),
        (["dpo.preference_loss=ipo", "dpo.label_smoothing=0.1"], ["dpo.label_smoothing=0.1", "ipo", "null"]),
        (["dpo.simpo_gamma=1.0", "dpo.preference_loss=sigmoid"], ["dpo.simpo_gamma=1.0", "sigmoid", "simpo"]),
        (["dpo.discopop_tau=0.1", "dpo.preference_loss=ipo"], ["dpo.discopop_tau", "discopop"]),
        (["dpo.desirable_weight=2.0", "dpo.preference_loss=simpo"], ["dpo.desirable_weight", "kto"]),
        (["dpo.preference_loss=exo_pair", "dpo.label_smoothing=0"], ["exo_pair infinite"]),
        (["dpo.preference_loss=ipo", "dpo.preference_average_log_probs=true"], ["always averages"]),
        (
            ["dpo.preference_loss=orpo", "dpo.sft_loss_weight=0"],
            ["dpo.sft_loss_weight=1", "dpo.sft_average_log_probs=true"],
        ),
        (["dpo.preference_loss=cpo", "dpo.sft_loss_weight=0"], ["dpo.sft_loss_weight=1"]),
        (["dpo.beta=0"], ["dpo.beta"]),
        (["dpo.label_smoothing=0.5"], ["dpo.label_smoothing"]),
        (
            [
                "policy.sequence_packing.enabled=true",
                "policy.sequence_packing.train_mb_tokens=128",
                "policy.max_total_sequence_length=128",
            ],
            ["train_mb_tokens=128", "twice", "256"],
        ),
        (["sft.seed=1"], ["sft.seed"]),
    ],
)
def test_contradictions_are_refused_by_name(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load("dpo", None, overrides)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_budgets_of_tokens_are_for_pairs() -> None:
    settings = ["policy.train_micro_batch_size=4", "policy.max_total_sequence_length=128"]
    policy = load("dpo", None, settings).config.policy
    assert policy.sequence_packing.train_mb_tokens == 2 * 4 * 128
    assert policy.dynamic_batching.train_mb_tokens == 2 * 4 * 128


def test_keys_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "data:\n  train: {dataset_name: BinaryPreferenceDataset, data_path: a.jsonl, prompt_key: question,"
        " chosen_key: good, rejected_key: bad}\n  validation: {dataset_name: b.jsonl}\n  default: {limit: 5}\n"
    )
    data = load("dpo", path, []).config.data
    (entry,) = data.train
    keys = (entry.input_key, entry.chosen_key, entry.rejected_key)
    assert (entry.dataset_name, keys) == ("a.jsonl", ("question", "good", "bad"))
    assert (entry.limit, data.validation[0].limit) == (5, 5)
