"""`env`: one environment for all prompts, or named ones; what is wrong with them is said before anything loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.config import load
from hone.errors import ConfigError

TURNS = "grpo.max_rollout_turns=4"


def test_tools_for_all_prompts() -> None:
    config = load("grpo", None, ["env.tools=[my.py:f]", TURNS]).config
    assert config.env.is_configured
    assert config.env.named == {}


def test_named_environments_are_sections_of_their_own(tmp_path) -> None:
    given = ["env.puzzle.path=a.py:B", "env.puzzle.kwargs={size: 3}", "data.train.env_name=puzzle", TURNS]
    loaded = load("grpo", None, given)
    puzzle = loaded.config.env.named["puzzle"]
    assert (puzzle.path, puzzle.kwargs, puzzle.timeout_s) == ("a.py:B", {"size": 3}, 10.0)
    assert not loaded.config.env.is_configured
    (tmp_path / "again.yaml").write_text(loaded.to_yaml())
    assert load("grpo", tmp_path / "again.yaml").config == loaded.config


def test_upstreams_math_stays_what_it_was() -> None:
    assert load("grpo", None, ["env.math.num_workers=3"]).config.rewards.num_workers == 3


def test_an_environment_may_reward_alone() -> None:
    config = load("grpo", None, ["env.path=a.py:B", "rewards.functions=[]", TURNS]).config
    assert config.rewards.functions == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["env.tols=[a.py:b]"], "did you mean env.tools"),
        (["env.puzzle.pth=a.py:B"], "unknown key env.puzzle.pth"),
        (["env.puzzle.timeout_s=5.0"], "env.puzzle is no environment: give env.puzzle.path"),
        (["env.puzzle.path=a.py:B", "env.puzzle.timeout_s=x"], "expected a number"),
        (
            ["env.tools=[a.py:b]", "grpo.max_rollout_turns=1"],
            "max_rollout_turns=1 leaves the environment no turn",
        ),
        ([TURNS], "needs an environment that answers"),
        (["data.train.env_name=maze"], "no environment is defined by env.maze.path"),
        (["env.path=a.py:B", "env.action=a.py:c", TURNS], "go together"),
        (["env.tools=[a.py:b]", "rewards.functions=[]", TURNS], "rewards.functions is empty"),
    ],
)
def test_what_is_wrong_is_said(given: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load("grpo", None, given)


@pytest.mark.parametrize(("kind", "name"), [(k, n) for n in ("calculator", "guess") for k in ("sft", "grpo")])
def test_the_examples_load(kind: str, name: str) -> None:
    folder = Path(__file__).resolve().parents[3] / "examples" / "environments"
    config = load(kind, folder / (f"{name}_sft.yaml" if kind == "sft" else f"{name}.yaml")).config
    assert config.algorithm.max_num_steps <= 400
