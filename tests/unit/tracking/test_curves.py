"""The pictures have in them what the metrics say."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from hone.tracking import draw_curves, draw_seeds
from hone.tracking.catalogue import PANELS, Panel
from hone.tracking.curves import draw_panel, limits, lines_of, new_figure, panels_of, smoothed
from hone.tracking.metrics_csv import MetricTable


def write(path: Path, kind: str, steps: int = 60, seed: int = 0) -> Path:
    table, draw = MetricTable(path, None), random.Random(seed)
    for step in range(1, steps + 1):
        share = step / steps
        if kind == "sft":
            row = {
                "train_loss": 3 * math.exp(-3 * share) + draw.gauss(0, 0.05),
                "learning_rate": 1e-3 * share,
            }
        else:
            row = {"reward": share, "reward_answer": share, "reward_format": 1.0, "completion_length": 40.0}
        if step % 20 == 0:
            row |= {"val_loss": 3 * math.exp(-3 * share)} if kind == "sft" else {"val_accuracy": 0.9 * share}
        table.add(step, row | {"grad_norm": 1.0 + draw.random()})
    table.close()
    return path


def pixels(png: Path) -> np.ndarray:
    from matplotlib.image import imread

    return (imread(png)[..., :3] * 255).round().astype(int)


def shows(png: Path, *colours: tuple[int, int, int]) -> bool:
    flat = pixels(png) @ np.array([65536, 256, 1])
    return all((flat == red * 65536 + green * 256 + blue).any() for red, green, blue in colours)


LOSS, NORM = PANELS["Loss"], PANELS["Gradient norm"]
BLUE, ORANGE, GREEN = (37, 99, 235), (234, 88, 12), (5, 150, 105)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_run_is_drawn(tmp_path: Path, kind: str) -> None:
    png = tmp_path / "curves.png"
    assert draw_curves(write(tmp_path / "metrics.csv", kind), png, "A run")
    picture = pixels(png)
    assert picture.shape[0] >= 400
    assert picture.shape[1] >= 1500
    assert 0.01 < (picture.min(axis=2) < 250).mean() < 0.5, "neither blank nor full"
    assert shows(png, BLUE, ORANGE, GREEN)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]


def test_nothing_to_draw_makes_no_picture(tmp_path: Path) -> None:
    MetricTable(tmp_path / "metrics.csv", None).close()
    assert not draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", "A run")
    assert not (tmp_path / "curves.png").exists()


def test_one_step_and_values_that_are_not_finite_can_be_drawn(tmp_path: Path) -> None:
    table = MetricTable(tmp_path / "metrics.csv", None)
    table.add(1, {"train_loss": 2.0, "grad_norm": float("nan"), "val_loss": float("inf")})
    table.close()
    assert draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", "A run")


def test_seeds_are_drawn_beside_their_gains(tmp_path: Path) -> None:
    runs = [write(tmp_path / f"{seed}.csv", "grpo", seed=seed) for seed in range(3)]
    png = tmp_path / "seeds.png"
    first = ("SFT", write(tmp_path / "sft.csv", "sft"))
    draw_seeds(runs, png, [(0.3, 0.8), (0.3, 0.7), (0.4, 0.9)], title="GRPO", first_stage=first)
    assert shows(png, BLUE, ORANGE, GREEN)
    assert pixels(png).shape[1] > 1800


def test_panels_follow_the_metrics() -> None:
    assert panels_of(["train_loss"])[0].title == "Loss"
    titles = [panel.title for panel in panels_of(["reward", "reward_a", "reward_b", "completion_length"])]
    assert titles[:3] == ["Reward", "Reward by function", "Completion length"]
    assert "Reward by function" not in [panel.title for panel in panels_of(["reward", "reward_a"])]


def test_smoothing_keeps_a_constant_and_a_slope_and_lags_behind_nothing() -> None:
    assert smoothed([2.0] * 50, 3) == pytest.approx([2.0] * 50)
    line = [float(i) for i in range(50)]
    assert smoothed(line, 2)[10:40] == pytest.approx(line[10:40])


def test_preferences_and_reward_models_show_how_many_pairs_are_ranked_right() -> None:
    columns = ["train_loss", "val_loss", "reward_accuracy", "val_reward_accuracy", "reward_margin"]
    titles = [panel.title for panel in panels_of(columns)]
    assert titles[:2] == ["Loss", "Pairs ranked right"]
    assert "Margin of the chosen answer" in titles


def test_a_spike_that_leaves_the_axes_is_named() -> None:
    """The range is the usual values', and the picture says how far the line goes beyond it."""
    figure = new_figure(4, 3, "run")
    axes = figure.subplots()
    values = [1.0] * 60 + [321.0] + [1.0] * 60
    draw_panel(axes, NORM, {"grad_norm": ([float(i) for i in range(121)], values)})
    assert axes.get_ylim()[1] < 5
    assert [text.get_text() for text in axes.texts] == ["up to 321"]
    draw_panel(axes := figure.subplots(), NORM, {"grad_norm": ([0.0, 1.0], [1.0, 2.0])})
    assert not axes.texts


def test_one_spike_does_not_flatten_the_rest() -> None:
    low, high = limits(NORM, [1.0] * 99 + [500.0])
    assert low == 0.0
    assert high < 5
    assert limits(LOSS, [3.0, 1.0])[1] > 3.0
    assert limits(Panel("Accuracy", (), percent=True), [0.3, 0.99]) == (0.0, 1.09)


def test_reward_functions_are_told_apart_however_many_there_are() -> None:
    few = [line.color for line in lines_of(panels_of(["reward", "reward_a", "reward_b", "reward_c"])[1])]
    assert len(set(few)) == 3
    many = panels_of(["reward", *(f"reward_{number}" for number in range(24))])[1]
    assert len(lines_of(many)) == 24
