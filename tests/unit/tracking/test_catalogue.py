"""Every metric is described once, and what draws metrics reads its entry."""

from __future__ import annotations

from collections import Counter

import pytest

from hone.tracking import catalogue
from hone.tracking.curves import ONLINE, SUPERVISED


def test_a_metric_has_one_entry() -> None:
    listed = [m.name for panel in catalogue.PANELS.values() for m in panel.metrics]
    listed += [metric.name for metric in (*catalogue.HIDDEN, *catalogue.FURTHER)]
    assert [name for name, count in Counter(listed).items() if count > 1] == []
    assert all(metric.meaning for metric in catalogue.METRICS.values())


def test_columns_that_every_file_has_and_the_curves_panels_are_in_the_catalogue() -> None:
    assert set(catalogue.ALWAYS) <= catalogue.METRICS.keys()
    assert {*ONLINE, *SUPERVISED} - {"Reward by function"} <= catalogue.PANELS.keys()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val_reward", "mean over the step's completions"),
        ("reward_vowels", "mean of one reward function"),
        ("val_failed_timeout", "rollouts that failed from one cause"),
        ("my_own", None),
    ],
)
def test_a_metric_has_a_meaning_unless_it_is_the_users_own(name: str, text: str | None) -> None:
    assert catalogue.meaning(name) == text


@pytest.mark.parametrize(
    ("name", "sign"), [("val_loss", -1), ("val_accuracy", 1), ("reward_margin", 1), ("kl", 0), ("my_own", 0)]
)
def test_the_catalogue_says_which_way_is_better(name: str, sign: int) -> None:
    assert catalogue.better(name) == sign


def test_a_panel_has_the_lines_that_a_run_has() -> None:
    rewards = catalogue.PANELS["Reward"]
    both, one = rewards.restricted(["reward", "val_reward"]), rewards.restricted(["reward"])
    assert both is not None
    assert both.lines == (("reward", "training"), ("val_reward", "held out"))
    assert one is not None
    assert one.lines == (("reward", ""),)
    assert one.about == both.about == "mean over the step's completions"
    assert rewards.restricted(["train_loss"]) is None
