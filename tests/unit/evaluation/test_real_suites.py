"""The real data of GSM8K and HumanEval: its own answers are right by every extractor, and it has the columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hone.config.schema import RewardsConfig
from hone.evaluation.extraction import extractor_of
from hone.evaluation.graders import grade, open_graders
from hone.evaluation.suite import load_suite
from hone.evaluation.suite_data import Examples, load_problems
from hone.evaluation.suite_prompts import PromptWriter
from hone.rollout.rewards.text import same_answer
from hone.types import Completion, Rollout
from tests.helpers.tiny import run
from tests.unit.evaluation.test_suites import encoder

DATA = Path(__file__).parents[4] / "shared" / "data"


def folder(name: str) -> str:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there")
    return str(DATA / name)


def test_every_solution_of_gsm8k_has_its_answer_in_both_extractors() -> None:
    suite = load_suite("gsm8k")
    rows = load_problems(suite, folder("gsm8k"), None)
    assert len(rows) == 1319
    extractors = [extractor_of(given, suite.name) for given in suite.extraction.values()]
    wrong = [
        row["question"]
        for row in rows
        for extract in extractors
        if not same_answer(extract(row["answer"], False) or "", suite.render(suite.gold, row))
    ]
    assert wrong == []


def test_examples_of_gsm8k_are_training_problems() -> None:
    suite = load_suite("gsm8k")
    examples = Examples(suite, folder("gsm8k"), 5).of({})
    questions = {row["question"] for row in load_problems(suite, folder("gsm8k"), None)}
    assert len(examples) == 5
    assert not questions & {row["question"] for row in examples}


def humaneval(answer: Any, *, chat: bool, limit: int) -> list[Rollout]:
    """Graded answers to the first problems; `answer` makes one of a row."""
    suite = load_suite("humaneval")
    path = folder("humaneval")
    rows = load_problems(suite, path, limit)
    writer = PromptWriter(suite, encoder(chat=chat), chat, Examples(suite, path, 0))
    empty = Completion.of_version((), (), "stop", 0)
    rollouts = [
        Rollout(prompt, empty, answer(row)) for prompt, row in zip(writer.prompts(rows), rows, strict=True)
    ]
    pool = open_graders(suite, RewardsConfig())
    assert pool is not None
    try:
        pool.start()
        run(grade(suite, rollouts, pool, () if chat else suite.stop))
    finally:
        pool.close()
    return rollouts


@pytest.mark.slow
def test_humanevals_own_solutions_pass_as_a_continuation_and_as_a_chats_answer() -> None:
    plain = humaneval(
        lambda row: row["canonical_solution"] + "\n\ndef next_one():\n    pass", chat=False, limit=164
    )
    failed = [rollout.prompt.id for rollout in plain if rollout.rewards["strict"] != 1.0]
    assert failed == []
    chat = humaneval(
        lambda row: f"Sure:\n```python\n{row['prompt']}{row['canonical_solution']}```", chat=True, limit=20
    )
    assert [rollout.rewards for rollout in chat] == [{"strict": 1.0, "flexible": 1.0}] * 20


def test_a_wrong_program_of_humaneval_fails() -> None:
    rollouts = humaneval(lambda row: "    return None\n", chat=False, limit=3)
    assert [rollout.rewards["strict"] for rollout in rollouts] == [0.0] * 3
    assert all(rollout.failure is None for rollout in rollouts)
