"""`hone eval suite=…` with answers that are known: every number of the report by hand, every sample in its folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hone import cli
from hone.config import load
from hone.errors import ConfigError
from hone.evaluation import suite_run
from hone.types import Completion, Prompt, Sampling
from tests.helpers.suite_rows import TEST, write_suite
from tests.helpers.tiny import run
from tests.unit.evaluation.test_suites import encoder

Answers = dict[str, list[str]]
FENCE = "```python\n{}\n```"


class Speaker:
    """A generator that says what it was told, by the prompt's id. An answer that ends in `…` is cut off."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.asked = answers, list[tuple[Prompt, Sampling]]()
        self.tokenizer = encoder(chat=True).tokenizer

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, count: int = 1
    ) -> list[list[Completion]]:
        self.asked += [(prompt, sampling) for prompt in prompts]
        return [[self._say(text) for text in self.answers[prompt.id][:count]] for prompt in prompts]

    def _say(self, text: str) -> Completion:
        tokens = tuple(self.tokenizer(text.removesuffix("…"), add_special_tokens=False)["input_ids"])
        finish = "length" if text.endswith("…") else "stop"
        return Completion.of_version(tokens, (-1.0,) * len(tokens), finish, 0)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Evaluates a suite with given answers and settings; returns its report and the generator."""

    def go(name: str, answers: Answers, *words: str, chat: bool = True) -> tuple[dict[str, Any], Speaker]:
        speaker = Speaker(answers)

        @contextlib.contextmanager
        def opened(config: Any, tokenizer: Any) -> Iterator[Speaker]:
            yield speaker

        monkeypatch.setattr(suite_run, "open_generator", opened)
        monkeypatch.setattr(suite_run, "tokenizer_of", lambda config: encoder(chat=chat).tokenizer)
        data = tmp_path / name
        path = data if data.exists() else write_suite(tmp_path, name)
        given = [
            f"suite={name}",
            f"suite_data.{name}={path}",
            f"save_path={tmp_path / 'out'}",
            "max_length=2048",
        ]
        config = load("eval", None, [*given, "generation.max_new_tokens=300", *words]).config
        return run(suite_run.evaluate_suites(config))["suites"][name], speaker

    return go


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_strict_and_flexible_stand_side_by_side(evaluate: Any, tmp_path: Path) -> None:
    report, _ = evaluate("gsm8k", {"gsm8k:0": ["2 x 6\n#### 12"], "gsm8k:1": ["She has 750 left…"]})
    assert report["metrics"]["strict"]["mean"] == report["score"] == 0.5
    assert report["metrics"]["flexible"]["mean"] == 1.0
    assert report["no_answer"] == {"strict": 1, "flexible": 0}
    assert (report["prompts"], report["truncated"], report["failed"]) == (2, 1, 0)
    assert report["version"] == 1
    first, second = samples(tmp_path / "out/gsm8k")
    assert first["extra"]["extracted"] == {"strict": "12", "flexible": "12"}
    assert second["rewards"] == {"strict": 0.0, "flexible": 1.0}
    assert second["finish"] == "length"


def test_the_interval_of_one_right_answer_in_two_is_wilsons(evaluate: Any) -> None:
    report, _ = evaluate("gsm8k", {"gsm8k:0": ["#### 12"], "gsm8k:1": ["#### 1"]})
    assert report["metrics"]["strict"]["low"] == pytest.approx(0.0945, abs=1e-4)
    assert report["metrics"]["strict"]["high"] == pytest.approx(0.9055, abs=1e-4)


def test_pass_and_consensus_at_several_k_at_once(evaluate: Any) -> None:
    """Problem 0: right, right, wrong, wrong; problem 1: all wrong, without a majority that is right."""
    answers = {
        "gsm8k:0": ["#### 12", "#### 12", "#### 3", "#### 4"],
        "gsm8k:1": ["#### 1", "#### 2", "#### 2", "no"],
    }
    report, _ = evaluate("gsm8k", answers, "num_samples=4", "temperature=0.7")
    found = {name: value["mean"] for name, value in report["samples"]["strict"].items()}
    # pass@2 of 2 right in 4: 1 - C(2, 2) / C(4, 2) = 5/6. cons@2: pairs (12, 12) and (3, 4); cons@4: 12 has 2 votes.
    assert found == pytest.approx(
        {"pass@1": 0.25, "pass@2": 5 / 12, "pass@4": 0.5, "cons@1": 0.25, "cons@2": 0.25, "cons@4": 0.5},
        abs=1e-6,
    )
    assert report["score"] == 0.25


def test_mathematics_is_compared_as_mathematics(evaluate: Any) -> None:
    report, _ = evaluate("math500", {"math500:0": [r"\boxed{0.5}"], "math500:1": ["The answer is $7$."]})
    assert report["metrics"]["strict"]["mean"] == 0.5
    assert report["metrics"]["flexible"]["mean"] == 1.0


def test_numbers_of_chinese_problems(evaluate: Any) -> None:
    report, _ = evaluate("cmath", {"cmath:0": ["3+4=7\n答案：7"], "cmath:1": ["12×3=36元"]})
    assert (report["metrics"]["strict"]["mean"], report["metrics"]["flexible"]["mean"]) == (0.5, 1.0)


def test_programs_run_in_the_sandbox(evaluate: Any, tmp_path: Path) -> None:
    right = FENCE.format(TEST["humaneval"][0]["prompt"] + TEST["humaneval"][0]["canonical_solution"])
    wrong = FENCE.format("def last(items):\n    return items[0]")
    report, _ = evaluate("humaneval", {"humaneval:0": [right], "humaneval:1": [wrong]})
    assert report["metrics"]["strict"]["mean"] == 0.5
    assert samples(tmp_path / "out/humaneval")[0]["extra"]["strict_code_outcome"] == "ok"


def test_imports_and_helpers_of_the_prompt_are_there_for_a_chats_function(evaluate: Any) -> None:
    uses = FENCE.format("def last(items: List[int]) -> int:\n    return head(items[::-1])")
    report, _ = evaluate("humaneval", {"humaneval:0": [FENCE.format("x = 1")], "humaneval:1": [uses]})
    assert report["score"] == 0.5


def test_a_base_model_continues_the_function(evaluate: Any) -> None:
    answers = {
        "humaneval:0": ["    return 2 * x\n\ndef other():\n    return 1"],
        "humaneval:1": ["    return 1\n"],
    }
    report, speaker = evaluate("humaneval", answers, chat=False)
    assert report["score"] == 0.5
    assert report["chat_template"] is False
    prompt, sampling = speaker.asked[0]
    assert prompt.content == TEST["humaneval"][0]["prompt"]
    assert "\ndef " in sampling.stop_strings


def test_short_programs_with_tests(evaluate: Any) -> None:
    report, _ = evaluate("mbpp", {"mbpp:0": [FENCE.format("def add(a, b):\n    return a + b")]})
    assert report["score"] == 1.0


def test_instructions_are_checked_one_by_one(evaluate: Any, tmp_path: Path) -> None:
    report, _ = evaluate("ifeval", {"ifeval:0": ["It flows, on and on."]})
    assert report["metrics"]["strict"]["mean"] == 0.0
    assert report["metrics"]["strict_instructions"]["mean"] == 0.5
    (line,) = samples(tmp_path / "out/ifeval")
    assert line["extra"]["extracted"]["strict"] == ["punctuation:no_comma"]


def test_limits_are_the_suites_for_plain_prompts_and_the_users_for_chats(evaluate: Any) -> None:
    answers = {"gsm8k:0": ["12"], "gsm8k:1": ["750"]}
    words = ("generation.max_new_tokens=1000", "generation.stop_strings=[END]")
    _, plain = evaluate("gsm8k", answers, *words, chat=False)
    assert plain.asked[0][1].max_new_tokens == 400
    assert plain.asked[0][1].stop_strings == ("END", "Question:")
    _, chat = evaluate("gsm8k", answers, *words)
    assert chat.asked[0][1].max_new_tokens == 1000
    assert chat.asked[0][1].stop_strings == ("END",)


def test_contaminated_problems_are_named_and_the_rest_scored(evaluate: Any, tmp_path: Path) -> None:
    leak = {"messages": [{"role": "user", "content": TEST["gsm8k"][0]["question"]}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(leak) + "\n")
    answers = {"gsm8k:0": ["#### 12"], "gsm8k:1": ["#### 1"]}
    report, _ = evaluate("gsm8k", answers, f"contamination_check.data={tmp_path / 'train.jsonl'}")
    found = report["contamination"]
    assert [*found["problems"]] == ["gsm8k:0"]
    assert (report["score"], found["clean_score"]) == (0.5, 0.0)


def test_results_can_be_browsed(evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate("gsm8k", {"gsm8k:0": ["#### 12"], "gsm8k:1": ["#### 1"]})
    assert cli.main(["show", str(tmp_path / "out/gsm8k"), "--best", "1"]) == 0
    shown = capsys.readouterr().out
    assert 'extracted: {"strict": "12"' in shown
    assert cli.main(["show", str(tmp_path / "out")]) == 0


def test_a_plan_counts_the_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_suite(tmp_path, "gsm8k")
    words = ["suite=gsm8k", f"suite_data.gsm8k={path}", "max_length=4096", f"save_path={tmp_path / 'out'}"]
    assert cli.main(["plan", "eval", *words]) == 0
    shown = capsys.readouterr().out
    assert "suite gsm8k (version 1, generation, strict): 2 problems" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["suite=gsm8k,nope"], "there is no suite 'nope'"),
        (["suite=gsm8k", "env.path=own.py:Game"], "answered in one turn"),
        (["suite=gsm8k", "eval.suite_data.mmlu=x"], "does not name mmlu"),
        (["suite=gsm8k", "eval.num_fewshot=-1"], "num_fewshot"),
    ],
)
def test_settings_that_do_not_go_with_a_suite_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("eval", None, words)
    assert says in str(caught.value)


def test_a_data_set_with_the_name_of_a_suite_is_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where a file has the name, or settings say how its rows are scored."""
    monkeypatch.chdir(tmp_path)
    named = load("eval", None, ["generation.model_name=m", "data.dataset_name=math500"])
    assert named.config.eval.suite == ["math500"]
    assert any("the suite of this name" in notice for notice in named.notices)
    own = load(
        "eval",
        None,
        ["generation.model_name=m", "data.dataset_name=math500", "rewards.functions=[{name: math}]"],
    )
    assert own.config.eval.suite == []
    (tmp_path / "math500").mkdir()
    assert (
        load("eval", None, ["generation.model_name=m", "data.dataset_name=math500"]).config.eval.suite == []
    )
