"""docs/rewards.md says what is so: its settings load, its table is complete, its examples give what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hone.config.schema import RewardsConfig
from hone.rollout.rewards.functions.builtin import BUILTIN
from hone.rollout.rewards.resolve import resolve_all

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "rewards.md").read_text()


def test_every_shipped_function_is_in_the_table() -> None:
    table = PAGE.partition("## Shipped")[2].partition("Gold answers")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(BUILTIN)


def test_options_are_those_that_there_are() -> None:
    import inspect

    table = PAGE.partition("## Shipped")[2].partition("Gold answers")[0]
    for row in re.findall(r"^\| `.*$", table, re.MULTILINE):
        name, _, options = (part.strip() for part in row.strip("|").split(" | "))
        parameters = inspect.signature(BUILTIN[name.strip("`")]).parameters
        for option in re.findall(r"`(\w+)(?:: [^`]*)?`", re.sub(r"\([^)]*\)", "", options)):
            assert option in parameters, (name, option)


def test_the_settings_of_the_page_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("def brief(completions, **kwargs): return []\n")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        rewards = RewardsConfig.model_validate(yaml.safe_load(block)["rewards"])
        assert len(resolve_all(rewards.functions)) == 4


EXAMPLES = {
    "answer": ("<think>…</think><answer>72.0</answer>", {"answer": ["#### 72"]}, {}),
    "exact": ("Paris", {"answer": ["Paris"]}, {}),
    "numeric": ("about 3.14", {"answer": ["3.1416"]}, {"tolerance": 0.01}),
    "math": (r"so \boxed{\frac{1}{2}}", {"answer": ["0.5"]}, {}),
    "format": ("Steps: … Answer: 4", {}, {"pattern": r"Steps:.*Answer: \d"}),
    "regex": ("Dear Ada,", {}, {"pattern": "^dear", "flags": "i"}),
    "json_schema": (
        '{"age": -1}',
        {},
        {"schema": {"properties": {"age": {"minimum": 0}}}, "valid_json": 0.2},
    ),
    "length": ("", {"completion_ids": [[1] * 150]}, {"target": 100}),
    "overlong": ("", {"completion_ids": [[1] * 90]}, {"max_length": 100, "buffer_length": 20}),
    "repetition": ("", {"completion_ids": [[5] * 5]}, {"ngram_size": 2}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_page_hold(name: str) -> None:
    text, columns, options = EXAMPLES[name]
    row = next(
        line for line in PAGE.partition("One example")[2].splitlines() if line.startswith(f"| `{name}` |")
    )
    assert float(row.rstrip("| ").rpartition("|")[2]) == pytest.approx(
        BUILTIN[name]([text], **columns, **options)[0]
    )
