"""Ranges as they are written: what they mean, and what is wrong with those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from hone.config.loading.overrides import parse_override
from hone.errors import ConfigError
from hone.tune.space import Parameter, grid, is_range, override, parameter

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("text", "distribution", "values"),
    [
        ("log(1e-6,1e-3)", "log", (1e-6, 1e-3)),
        ("uniform(0, 0.5)", "uniform", (0.0, 0.5)),
        ("int(1,8)", "int", (1, 8)),
        ("int(8,64,8)", "int", (8, 64, 8)),
        ("logint(8,512)", "logint", (8, 512)),
        ("choice(8,16)", "choice", (8, 16)),
        (
            "choice(torch.optim.AdamW, null, true, '8', [0.9, 0.95])",
            "choice",
            ("torch.optim.AdamW", None, True, "8", [0.9, 0.95]),
        ),
    ],
)
def test_a_range_is_parsed_as_written(text: str, distribution: str, values: tuple[Any, ...]) -> None:
    made = parameter("key", text)
    assert (made.distribution, made.values) == (distribution, values)
    assert [type(value) for value in made.values] == [type(value) for value in values]
    assert parameter("key", str(made)) == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("log(1e-3,1e-6)", "the range is empty"),
        ("uniform(1,1)", "the range is empty"),
        ("log(0,1)", "must be above 0"),
        ("int(1.5,3)", "whole numbers"),
        ("int(1)", "two ends"),
        ("uniform(a,b)", "are numbers"),
        ("choice()", "nothing to choose from"),
        ("choice(1,1)", "twice"),
        ("choice([1,2)", "cannot be read"),
        ("normal(0,1)", "is not a range"),
        ("int(1,8,0)", "step must be at least 1"),
    ],
)
def test_an_error_about_a_range_names_its_key(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parameter("policy.lora.dim", text)
    assert f"policy.lora.dim={text}" in str(caught.value)


def test_other_calls_and_lists_are_not_ranges() -> None:
    assert is_range("log(1,2)")
    assert not is_range("f(x)")
    assert not is_range("[1, 2]")


@pytest.mark.parametrize("value", [1e-5, 3, True, None, "text", "8", "null", [0.9, 0.95], "a: b"])
def test_a_value_survives_the_command_line(value: Any) -> None:
    assert parse_override(override("a.key", value)).value == value


def test_suggestions_lie_within(tmp_path: object) -> None:
    texts = ("log(1e-6,1e-3)", "logint(8,512)", "uniform(0,0.5)", "int(8,64,8)", "choice(a,b,null)")
    parameters = [parameter(f"k{n}", text) for n, text in enumerate(texts)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        values = [p.suggest(trial) for p in parameters]
        assert 1e-6 <= values[0] <= 1e-3
        assert values[1] in range(8, 513)
        assert 0 <= values[2] <= 0.5
        assert values[3] in range(8, 65, 8)
        assert values[4] in ("a", "b", None)
        assert [p.value(trial.params[p.key]) for p in parameters] == values


def test_a_finite_space_is_enumerated() -> None:
    small = [parameter("a", "choice(x,y)"), parameter("b", "int(1,5,2)")]
    rows = grid(small, 6)
    assert rows is not None
    assert [(small[0].value(r["a"]), r["b"]) for r in rows] == [(x, n) for x in "xy" for n in (1, 3, 5)]
    assert grid(small, 5) is None
    assert grid([*small, Parameter("c", "log", (1.0, 2.0))], 100) is None
