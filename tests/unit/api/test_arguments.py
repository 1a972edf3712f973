"""From arguments to settings and files, without a run."""

from __future__ import annotations

import datetime
import functools
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import calls
import numpy as np
import pytest
from calls import importable

import hone
from hone.api.arguments import arguments_of, named, settings_of
from hone.api.in_memory import (
    Rows,
    dataset_of,
    functions_in,
    import_path,
    keep_function,
    keep_rows,
    name_of,
    reward_entries,
    with_functions_kept,
)
from hone.config import load
from hone.config.loading.overrides import Override
from hone.errors import CheckpointError, ConfigError, DataError, RewardError
from hone.user_code import find


def settled(kind: str, given: dict[str, Any]) -> Any:
    return load(kind, None, settings_of(kind, given)).config  # type: ignore[arg-type]


def test_sections_dotted_keys_and_trl_names_are_the_same_settings() -> None:
    lr = [
        {"policy": {"optimizer": {"kwargs": {"lr": 3e-4}}}},
        {"policy.optimizer.kwargs.lr": 3e-4},
        {"learning_rate": 3e-4},
        {"learning_rate": np.float64(3e-4)},
    ]
    assert {settled("grpo", given).policy.optimizer.kwargs["lr"] for given in lr} == {3e-4}
    given = {"epsilon": 0.1, "epsilon_high": 0.3, "beta": 0.05, "num_generations": 4, "max_steps": 7}
    config = settled("grpo", {**given, "grpo": {"num_prompts_per_step": 32}})
    assert (config.loss_fn.ratio_clip_min, config.loss_fn.ratio_clip_max) == (0.1, 0.3)
    assert config.loss_fn.reference_policy_kl_penalty == 0.05
    assert (config.grpo.num_generations_per_prompt, config.grpo.max_num_steps) == (4, 7)
    config = settled("distill", {"max_steps": 3, "seed": 5, "policy.model_name": Path("hone/tiny")})
    assert (config.distillation.max_num_steps, config.distillation.seed) == (3, 5)
    assert settled("dpo", {"beta": 0.3}).dpo.reference_policy_kl_penalty == 0.3
    assert settled("sft", {"data.train.prompt_template": "Human:{x}, a: null"}).data.train[0].prompt_template


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"args": object()}, "args= is not an argument of hone.grpo: write give its settings"),
        ({"per_device_train_batch_size": 8}, "train_global_batch_size"),
        ({"gradient_accumulation_steps": 8}, "train_micro_batch_size"),
        ({"num_prompts_per_step": 8}, "did you mean grpo.num_prompts_per_step"),
        ({"grpo": {"num_prompts_per_stp": 8}}, "did you mean grpo.num_prompts_per_step"),
        ({"policy": {"precision": "float99"}}, "policy.precision"),
    ],
)
def test_what_is_no_argument_is_told_with_what_to_write(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settled("grpo", given)


def test_an_argument_has_one_name_and_a_model_is_a_name() -> None:
    settings = {"train_dataset": "rows.jsonl", "max_steps": 3}
    assert arguments_of(settings, dataset=None, folder=None)["dataset"] == "rows.jsonl"
    assert settings == {"max_steps": 3}
    with pytest.raises(ConfigError, match="output_dir= and folder= are the same"):
        arguments_of({"output_dir": "a"}, folder="b")
    assert named(Path("models/x"), "model") == "models/x"
    with pytest.raises(ConfigError, match="model is a object: give a Hugging Face name or a folder"):
        named(object(), "model")


def test_data_in_every_form() -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]
    columns = {"prompt": ["a", "b"], "answer": ["1", "2"]}
    import datasets
    import pandas

    both = datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows), test=datasets.Dataset.from_list(rows[:1])
    )
    for given in (rows, columns, iter(rows), datasets.Dataset.from_list(rows), pandas.DataFrame(rows)):
        found, _ = dataset_of(given, "dataset")
        assert isinstance(found, Rows)
        assert found.rows == rows
    train, held = dataset_of(both, "dataset")
    assert (train.rows, held.rows) == (rows, rows[:1])
    assert dataset_of("rows.jsonl", "dataset") == ({"dataset_name": "rows.jsonl"}, None)
    entry = {"dataset_name": "rows.jsonl", "split": "train"}
    assert dataset_of(entry, "dataset") == (entry, None)
    assert dataset_of([entry, entry], "dataset") == ([entry, entry], None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (7, "dataset is a int"),
        ([], "dataset has no rows"),
        ([{"prompt": "a"}, "b"], "dataset, row 1: is a str"),
        ({"prompt": ["a"], "answer": []}, "no table"),
        ({"prompt": "a"}, "no table"),
    ],
)
def test_what_is_no_data_is_told(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        dataset_of(given, "dataset")


def test_rows_become_json_and_what_json_does_not_have_is_named(tmp_path: Path) -> None:
    row = {
        "a": np.int64(3),
        "b": np.arange(2),
        "c": datetime.date(2024, 1, 2),
        "d": "é",
        "e": Path("x"),
    }
    path = Path(keep_rows(Rows([row]), tmp_path, "train"))
    assert path == tmp_path / "data" / "train.jsonl"
    assert json.loads(path.read_text()) == {"a": 3, "b": [0, 1], "c": "2024-01-02", "d": "é", "e": "x"}
    with pytest.raises(DataError, match=r"dataset, row 1: a bytes cannot be written as JSON"):
        keep_rows(Rows([{}, {"a": b"x"}]), tmp_path, "train")
    with pytest.raises(DataError, match=r"dataset, row 0: column 'a' contains half of a character \(\\ud83d"):
        keep_rows(Rows([{"a": "x\ud83d"}]), tmp_path, "train")


def test_a_run_goes_on_with_its_own_rows_only(tmp_path: Path) -> None:
    keep_rows(Rows([{"a": 1}]), tmp_path, "train")
    keep_rows(Rows([{"a": 2}]), tmp_path, "train")  # nothing has been trained yet
    (tmp_path / "step_1").mkdir()
    keep_rows(Rows([{"a": 2}]), tmp_path, "train")
    with pytest.raises(CheckpointError, match="is a run on other rows"):
        keep_rows(Rows([{"a": 3}]), tmp_path, "train")
    keep_rows(Rows([{"a": 3}]), tmp_path, "train", may_change=True)


class Judge:
    def __init__(self, worth: float) -> None:
        self.worth = worth

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        return [self.worth for _ in completions]

    def other(self, completions: list[str], **columns: Any) -> list[float]:
        return [2 * self.worth for _ in completions]


def test_functions_reach_another_process_whatever_they_are(tmp_path: Path) -> None:
    worth = 0.25

    def closure(completions: list[str], **columns: Any) -> list[float]:
        return [worth * len(text) for text in completions]

    made = functools.partial(closure, extra=1)
    several = [closure, lambda completions, **columns: [1.0], made, Judge(3.0), Judge(4.0).other]
    names = [name_of(function, place) for place, function in enumerate(several)]
    assert names == ["closure", "function_2", "closure", "Judge", "other"]
    places = [keep_function(function, tmp_path, f"f{place}") for place, function in enumerate(several)]
    code = (
        "import sys; from hone.user_code import find\n"
        "print([find(place)(completions=['abcd']) for place in sys.argv[1:]], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[[1.0], [1.0], [1.0], [3.0], [8.0]] False", done.stderr
    assert "# def closure" in (tmp_path / "functions" / "f0.py").read_text().replace("#     def", "# def")


def test_what_can_be_imported_is_named_not_pickled(tmp_path: Path) -> None:
    place = import_path(importable)
    assert place == f"{calls.__file__}:importable"
    assert keep_function(importable, tmp_path, "importable") == place
    assert not list(tmp_path.iterdir())
    assert find(place).__name__ == "importable"
    assert import_path(hone.load_run) == "hone.api.commands.load_run"
    assert import_path(functools.wraps(importable)(lambda: None)) is None, "a wrapper is not what it wraps"


def test_a_function_that_cannot_leave_is_told_with_what_holds_it(tmp_path: Path) -> None:
    lock = threading.Lock()

    def guarded(completions: list[str], **columns: Any) -> list[float]:
        with lock:
            return [1.0 for _ in completions]

    with pytest.raises(RewardError, match=r"'guarded' cannot be sent .*\(it uses `lock`, a lock\)"):
        keep_function(guarded, tmp_path, "guarded")
    assert not list(tmp_path.iterdir())


def test_reward_funcs_become_entries() -> None:
    entries = reward_entries([importable, "math", "a.py:f", {"name": "length", "weight": 2}], [1, 2, 3, 0.5])
    assert entries == [
        {"name": "importable", "path": importable, "weight": 1.0},
        {"name": "math", "weight": 2.0},
        {"path": "a.py:f", "weight": 3.0},
        {"name": "length", "weight": 0.5},
    ]
    assert reward_entries(importable, None) == [{"name": "importable", "path": importable}]
    with pytest.raises(ConfigError, match=r"reward_weights has 1 numbers for 2 reward_funcs"):
        reward_entries(["math", "format"], [1])
    with pytest.raises(ConfigError, match=r"reward_funcs\[0\] is a int"):
        reward_entries([3], None)


def test_a_function_anywhere_in_the_settings_has_a_place(tmp_path: Path) -> None:
    tool, other = [lambda: 1], [lambda: 2]
    env = {"tools": [importable, *tool, *other], "kwargs": {"a": 1}}
    kept = with_functions_kept(env, tmp_path, {})
    assert kept["kwargs"] == {"a": 1}
    assert kept["tools"][0] == import_path(importable)
    assert [find(place)() for place in kept["tools"][1:]] == [1, 2], "two lambdas, two files"
    assert functions_in(env)
    assert not functions_in(kept)


def test_overrides_may_be_given_as_they_are() -> None:
    config = load("sft", None, [Override(("policy", "precision"), "float32"), "sft.seed=3"]).config
    assert (config.policy.precision, config.sft.seed) == ("float32", 3)


def test_the_package_has_what_it_says_and_nothing_else() -> None:
    assert {"grpo", "sft", "evaluate", "Result"} <= set(dir(hone))
    with pytest.raises(AttributeError, match="no attribute 'grop'"):
        _ = hone.grop  # type: ignore[attr-defined]
    heavy = "{'torch', 'pydantic', 'yaml', 'rich'}"
    code = f"import hone, sys; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
