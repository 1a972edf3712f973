"""What functions may be, what they receive and return; the tutorials' functions verbatim; defects refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hone.errors import RewardError
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from tests.helpers.pool_helpers import FUNCTIONS, SEEDS, entry, score


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("too_few", r"returned 15 rewards; expected 16"),
        ("scalar", r"returned a float; expected a list of 16 rewards"),
        ("mapping", r"returned a dict; expected a list of 16 rewards"),
        ("unordered", r"returned a set; expected a list of 16 rewards"),
        ("words", r"returned 'good' \(str\) as a reward; expected a number or None"),
    ],
)
def test_a_defective_function_stops_at_once(function: str, problem: str) -> None:
    with pytest.raises(RewardError, match=f"reward '{function}' .*{problem}"):
        score([entry(function)], ["x"] * 16, num_workers=1)


def test_async_numpy_and_callable_object() -> None:
    completions = ["x" * i for i in range(20)]
    lengths = [float(i) for i in range(20)]
    assert [s.reward for s in score([entry("asynchronous")], completions)] == lengths
    assert [s.reward for s in score([entry("numpy_rewards")], completions, timeout_s=10)] == lengths
    assert [s.reward for s in score([entry("instance")], completions)] == [2.0] * 20


def test_columns_are_passed_by_keyword_with_kwargs() -> None:
    columns = {"target": [10, 20], "completion_ids": [[1], [1, 2]], "unused": [object, object]}
    scored = score([entry("by_keyword", kwargs={"scale": 2.0})], ["a", "b"], columns)
    assert [s.reward for s in scored] == [2.0 * (4 + 1 + 10), 2.0 * (4 + 2 + 20)]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(RewardError, match=r"'by_keyword' .*needs the column 'target'.*its columns: label"):
        score([entry("by_keyword")], ["a"], {"label": [1]})
    with pytest.raises(RewardError, match=r"'answer' needs the column 'answer' or 'ground_truth' or"):
        score(["answer"], ["a"], {"label": [1]})


def test_a_gold_column_can_be_named() -> None:
    by_name = {"name": "answer", "kwargs": {"column": "gold"}}
    columns = {"gold": ["1"], "answer": ["2"]}
    assert score([by_name], ["<answer>1</answer>"], columns)[0].reward == 1.0
    with pytest.raises(RewardError, match="'answer' needs the column 'gold', which"):
        score([by_name], ["<answer>1</answer>"], {"answer": ["2"]})


def test_a_column_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(RewardError, match="column 'lock' cannot be pickled"):
        score([entry("length")], ["a"], {"fine": [1], "lock": [lambda: None]})


def test_trl_arguments_are_passed_and_metrics_are_collected() -> None:
    async def run() -> None:
        columns = {"completion_ids": [[1]] * 16}
        with RewardPool(resolve_all([entry("trl_style")]), num_workers=2) as pool:
            await pool.score(["p"] * 16, ["xx"] * 8 + ["xxxx"] * 8, columns)
            metrics = pool.metrics()
            assert metrics["mean_length"] == 3.0
            assert metrics["called"] == 1.0
            assert "mean_length" not in pool.metrics()
            await pool.score(["p"] * 16, ["x"] * 16, columns)
            assert pool.metrics()["mean_length"] == 1.0
            pool.set_progress(7, 100)
            scored = await pool.score(["p"] * 2, ["x", "yyy"], {"completion_ids": [[1]] * 2})
            assert pool.metrics()["at_step"] == 7.0
            assert [s.extra for s in scored] == [{"size": 1}, {"size": 3}]

    asyncio.run(run())


def test_weighted_sum_over_the_functions_that_apply() -> None:
    entries = [
        {"name": "math", "path": f"{SEEDS}:math_reward_func", "weight": 2.0},
        {"name": "code", "path": f"{SEEDS}:coding_reward_func", "weight": 0.5},
        entry("length", weight=0),
    ]
    columns = {"task": ["math", "coding", "math", "neither"]}
    scored = score(entries, ["is 4", "print(1)", "is 5", "what"], columns)
    assert [s.reward for s in scored] == [2.0, 0.5, -2.0, None]
    assert scored[0].rewards == {"math": 1.0, "code": None, "length": 4.0}
    assert "no reward function applies" in str(scored[3].failure)  # `length` has no weight


def test_functions_of_the_tutorials_verbatim() -> None:
    plain = ["so \\boxed{72}", "so \\boxed{7}", "none"]
    scored = score([f"{SEEDS}:accuracy_reward"], plain, {"ground_truth": ["72"] * 3})
    assert [s.reward for s in scored] == [1.0, 0.0, 0.0]
    texts = ["<think>a</think><answer>b</answer>", "<think>a</think>", ""]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    assert [s.reward for s in score([f"{SEEDS}:format_reward"], messages)] == [1.0, 0.0, 0.0]
    assert [s.reward for s in score([f"{SEEDS}:reward_text_length"], ["x" * 90])] == [-10.0]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no_such_package.module.f", "No module named 'no_such_package'"),
        ("os.path.no_such_function", "there is no 'no_such_function' in os.path"),
        ("os.path.exist", "did you mean 'exists'?"),
        ("os.environ", "_Environ, not a function"),
        ("collections.Counter", "is a class, not a function"),
        (f"{FUNCTIONS}:calls", "is a int, not a function"),
        (f"{FUNCTIONS}:shapeless", "takes no `completions`"),
    ],
)
def test_unusable_functions_stop_at_start(path: str, problem: str) -> None:
    with (
        pytest.raises(RewardError, match="reward ") as caught,
        RewardPool(resolve_all([path]), num_workers=1),
    ):
        pass
    assert problem in str(caught.value)


def test_kwargs_that_the_function_does_not_take_stop_at_start() -> None:
    spec = resolve_all([entry("by_keyword", kwargs={"scael": 2})])
    with pytest.raises(RewardError, match="has no argument scael"), RewardPool(spec, num_workers=1):
        pass


def test_modules_that_break_or_hang_on_import_stop_at_start(tmp_path: Path) -> None:
    broken, hanging = tmp_path / "broken.py", tmp_path / "hanging.py"
    broken.write_text("import json\njson.loads('{')\ndef f(completions): return []\n")
    hanging.write_text("while True: pass\n")
    with pytest.raises(RewardError, match=r"cannot be imported: json.*broken.py:2\)"):
        RewardPool(resolve_all([f"{broken}:f"]), num_workers=1).start()
    with pytest.raises(RewardError, match=r"cannot be imported: timeout after 0.5 s"):
        RewardPool(resolve_all([f"{hanging}:f"]), num_workers=1, load_timeout_s=0.5).start()


def test_a_file_may_import_its_neighbours_and_be_called_like_a_library(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("WORTH = 7.0\n")
    (tmp_path / "json.py").write_text(
        "from neighbour import WORTH\ndef f(completions): return [WORTH] * len(completions)\n"
    )
    assert score([f"{tmp_path / 'json.py'}:f"], ["a"])[0].reward == 7.0


def test_a_module_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("def good(completions, **_): return [3.0] * len(completions)\n")
    monkeypatch.chdir(tmp_path)
    assert score(["my_rewards.good"], ["a"])[0].reward == 3.0


def test_completions_in_the_other_form_are_named_as_that(tmp_path: Path) -> None:
    """TRL gives texts for plain prompts and messages for conversations; a function mostly knows one of them."""
    lines = [
        "import re",
        "def messages(completions, **columns): return [float('4' in c[0]['content']) for c in completions]",
        "def texts(completions, **columns): return [float(bool(re.search('4', c))) for c in completions]",
        "def lower(completions, **columns): return [float('4' in c.lower()) for c in completions]",
    ]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    message = [{"role": "assistant", "content": "4"}]
    for name, completions, advice in (
        ("messages", ["4", "4"], "each completion is a string: c, not c[0]['content']"),
        ("texts", [message, message], "a completion's text is c[0]['content']"),
        ("lower", [message, message], "a completion's text is c[0]['content']"),
    ):
        failed = score([f"{tmp_path}/mine.py:{name}"], completions, max_failure_fraction=1.0)
        assert advice in str(failed[0].failure)


@pytest.mark.parametrize("name", ["step", "reward", "reward_x", "val_mine", "seconds_all", "weight_x"])
def test_names_of_the_runs_own_columns_are_refused(name: str) -> None:
    with pytest.raises(
        RewardError, match=f"'named' .*calls log_metric.'{name}', …., but '{name}' is a column"
    ):
        score([entry("named", kwargs={"name": name})], ["a"], {})


def test_extra_columns_of_another_length_are_refused() -> None:
    with pytest.raises(RewardError, match=r"log_extra.'size', ….* got 1 values for 2 completions"):
        score([entry("short_extra")], ["a", "b"], {})
