"""`grpo.preset`: a layer below what the user gives, above the recipe; each method's own settings."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any, get_args

import pytest

import hone.config
from hone.config import load
from hone.config.schema.grpo import GRPOConfig, Preset
from hone.errors import ConfigError

FOLDER = Path(hone.config.__file__).parent / "presets"
NAMES = get_args(Preset)


def preset(name: str, *overrides: str, file: Path | None = None) -> GRPOConfig:
    config = load("grpo", file, [f"grpo.preset={name}", *overrides]).config
    assert isinstance(config, GRPOConfig)
    return config


def test_every_name_has_a_file_that_the_package_ships() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)
    project = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    assert '"config/presets/*.yaml"' in project
    assert all(
        fnmatch.fnmatch(f"config/presets/{path.name}", "config/presets/*.yaml") for path in FOLDER.iterdir()
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_its_resolved_form_loads_to_the_same(name: str, tmp_path: Path) -> None:
    loaded = load("grpo", None, [f"grpo.preset={name}"])
    path = tmp_path / "resolved.yaml"
    path.write_text(loaded.to_yaml())
    assert f"preset: {name}" in path.read_text()
    assert load("grpo", path).config == loaded.config


WHAT: dict[str, dict[str, Any]] = {
    "grpo": {"loss_fn.token_level_loss": False, "loss_fn.reference_policy_kl_penalty": 0.04},
    "dr_grpo": {"grpo.normalize_rewards": False, "loss_fn.constant_denominator": 40.0},
    "dapo": {
        "grpo.use_dynamic_sampling": True,
        "loss_fn.ratio_clip_max": 0.28,
        "grpo.reward_shaping.max_response_length": 40,
        "grpo.reward_shaping.overlong_buffer_length": 8,
    },
    "gspo": {"loss_fn.sequence_level_importance_ratios": True, "loss_fn.ratio_clip_max": 4e-4},
    "cispo": {"loss_fn.use_cispo": True, "loss_fn.ratio_clip_min": 1.0},
    "sapo": {"loss_fn.use_sapo": True, "loss_fn.sapo_temperature_neg": 1.05},
    "rloo": {"grpo.adv_estimator.name": "rloo", "loss_fn.use_kl_in_reward": True},
    "reinforce_plus_plus": {"grpo.adv_estimator.minus_baseline": False, "loss_fn.use_kl_in_reward": True},
    "reinforce_plus_plus_baseline": {"loss_fn.reference_policy_kl_type": "k2"},
    "gdpo": {"grpo.adv_estimator.name": "gdpo", "grpo.use_leave_one_out_baseline": False},
    "maxrl": {"grpo.adv_estimator.name": "maxrl"},
}


@pytest.mark.parametrize("name", NAMES)
def test_what_each_sets(name: str) -> None:
    config: Any = preset(name, "policy.generation.max_new_tokens=40")
    for key, expected in WHAT[name].items():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        assert value == expected, key


@pytest.mark.parametrize("name", NAMES)
def test_one_completion_a_prompt_is_for_what_compares_nothing(name: str) -> None:
    if name == "reinforce_plus_plus":
        assert preset(name, "grpo.num_generations_per_prompt=1").grpo.num_generations_per_prompt == 1
        return
    with pytest.raises(
        ConfigError, match=r"num_generations_per_prompt=1, so that every advantage would be 0"
    ):
        preset(name, "grpo.num_generations_per_prompt=1")


def test_what_the_user_gives_wins_wherever_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("grpo: {preset: dapo, normalize_rewards: false}\nloss_fn: {ratio_clip_max: 0.5}\n")
    config = load("grpo", file, ["grpo.use_dynamic_sampling=false"]).config
    assert (config.grpo.normalize_rewards, config.grpo.use_dynamic_sampling) == (False, False)
    assert config.loss_fn.ratio_clip_max == 0.5
    assert config.grpo.reward_shaping.enabled  # what is not given is the preset's
    other = load("grpo", file, ["grpo.preset=gspo"]).config
    assert (other.loss_fn.ratio_clip_min, other.loss_fn.ratio_clip_max) == (3e-4, 0.5)
    assert other.grpo.use_dynamic_sampling is False


def test_another_spelling_of_a_key_wins_too() -> None:
    config = preset("grpo", "grpo.adv_estimator.normalize_rewards=false", "optimization.kl_coefficient=0.5")
    assert (config.grpo.normalize_rewards, config.loss_fn.reference_policy_kl_penalty) == (False, 0.5)


def test_it_says_what_it_set() -> None:
    notices = load("grpo", None, ["grpo.preset=dapo", "loss_fn.ratio_clip_max=0.3"]).notices
    said = next(notice for notice in notices if notice.startswith("grpo.preset=dapo: "))
    assert "grpo.use_dynamic_sampling=true" in said
    assert "ratio_clip_max" not in said
    assert "$" not in said  # resolved


@pytest.mark.parametrize(
    ("name", "near"), [("dap", "dapo"), ("drgrpo", "dr_grpo"), ("reinforce++", "reinforce_plus_plus")]
)
def test_an_unknown_name_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {near}"):
        preset(name)


CLASHES = [
    (
        ["loss_fn.reference_policy_kl_type=k1", "loss_fn.use_bias_correction_kl=false"],
        r"reference_policy_kl_type=k1 .* has an expected gradient of 0",
    ),
    (
        ["loss_fn.use_kl_in_reward=true", "loss_fn.reference_policy_kl_type=k3"],
        r"reference_policy_kl_type=k3 in the reward .* set it to k1",
    ),
    (["loss_fn.use_kl_in_reward=true", "loss_fn.use_bias_correction_kl=true"], "is for KL in the loss"),
    (
        ["loss_fn.use_kl_in_reward=true", "loss_fn.use_on_policy_kl_approximation=true"],
        "is for KL in the loss",
    ),
    (["loss_fn.use_cispo=true", "loss_fn.use_sapo=true"], "are two losses"),
    (["grpo.preset=cispo", "loss_fn.ratio_clip_c=3.0"], "is for the clipped loss"),
    (["grpo.preset=gdpo", "grpo.reward_shaping.enabled=true"], "gdpo learns from each of them"),
    (["grpo.preset=gdpo", "grpo.adv_estimator.reward_weights=[1.0, 2.0, 3.0]"], "has 3 numbers"),
    (["grpo.adv_estimator.reward_weights=[1.0]", "grpo.adv_estimator.name=grpo"], "is for gdpo"),
    (["grpo.preset=maxrl", "grpo.reward_shaping.enabled=true"], "no reward may be negative"),
    (
        ["grpo.use_dynamic_sampling=true", "grpo.num_generations_per_prompt=1"],
        "each group is one",
    ),
    (["grpo.batch_multiplier=2.0", "grpo.use_dynamic_sampling=false"], "is for dynamic sampling"),
    (
        [
            "loss_fn.use_importance_sampling_correction=true",
            "loss_fn.truncated_importance_sampling_ratio=2.0",
            "loss_fn.truncated_importance_sampling_ratio_min=3.0",
        ],
        "is not below",
    ),
    (
        [
            "loss_fn.truncated_importance_sampling_level=token",
            "loss_fn.use_importance_sampling_correction=false",
        ],
        "limits weights that are not used",
    ),
    (["loss_fn.top_entropy_quantile=0.0"], "expected more than 0"),
]


@pytest.mark.parametrize(("overrides", "said"), CLASHES)
def test_settings_that_contradict_each_other(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load("grpo", None, overrides)
