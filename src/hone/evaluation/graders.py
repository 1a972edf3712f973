"""Grades the answers of a suite by each of its extractors. Reward functions are the graders: mathematical equivalence,
programs in the sandbox; they run in their killable workers. IFEval's instructions are checked in this process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hone.config.schema import RewardsConfig
from hone.config.schema.run import RewardFunctionConfig
from hone.errors import DataError
from hone.evaluation import instructions
from hone.evaluation.extraction import answer_text, extractor_of
from hone.evaluation.suite import Suite
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.scoring import columns_of, open_reward_pool
from hone.types import Rollout

FENCE = "`" * 8
"""Longer than any fence in a program, so that a docstring's fence does not end the block."""


def open_graders(suite: Suite, rewards: RewardsConfig) -> RewardPool | None:
    """The pool of a suite's grader, with the limits of `rewards`; None where this process grades."""
    if suite.kind == "loglikelihood" or suite.grader == "instructions":
        return None
    kwargs = {} if suite.grader == "code" else {"column": "gold"}
    function = RewardFunctionConfig(name=suite.grader, kwargs=kwargs)
    return open_reward_pool(rewards.model_copy(update={"functions": [function]}))


async def grade(
    suite: Suite, rollouts: Sequence[Rollout], pool: RewardPool | None, stop: Sequence[str]
) -> None:
    """Set the rewards of rollouts, 1 or 0 for each extractor, and `extra["extracted"]`, what each extracted. An answer
    from which nothing is extracted is wrong. One that cannot be graded is wrong and has a `failure`."""
    texts = [answer_text(rollout.text, stop) for rollout in rollouts]
    for rollout in rollouts:
        rollout.extra["extracted"] = {}
    for name, given in suite.extraction.items():
        extract = extractor_of(given, suite.name)
        for rollout, text in zip(rollouts, texts, strict=True):
            found = extract(text, not isinstance(rollout.prompt.content, str))
            rollout.extra["extracted"][name] = found
    answered = [rollout for rollout in rollouts if rollout.failure is None]
    for rollout in rollouts:
        if rollout.failure is not None:  # an endpoint that did not answer
            rollout.rewards = dict.fromkeys(suite.extraction, 0.0)
    if suite.grader == "instructions":
        for rollout, text in zip(rollouts, texts, strict=True):
            if rollout.failure is None:
                _check_instructions(rollout, text)
    else:
        assert pool is not None
        await _by_reward_function(suite, answered, pool)
    for rollout in rollouts:
        rollout.reward, rollout.judge = rollout.rewards[suite.metric], suite.metric


async def _by_reward_function(suite: Suite, rollouts: Sequence[Rollout], pool: RewardPool) -> None:
    """One call for all extractors; an answer that several extract alike is graded once."""
    asked: dict[tuple[int, str], None] = {
        (i, text): None
        for i, rollout in enumerate(rollouts)
        for text in rollout.extra["extracted"].values()
        if text is not None
    }
    rows = [{**rollouts[i].prompt.row} for i, _ in asked]
    columns: dict[str, list[Any]] = columns_of(rows)
    code = suite.grader == "code"
    scores = await pool.score(
        [str(row.get("prompt") or "") if code else "" for row in rows],
        [
            f"{FENCE}python\n{_preamble(row, text)}{text}\n{FENCE}" if code else f"<answer>{text}</answer>"
            for row, (_, text) in zip(rows, asked, strict=True)
        ],
        columns,
    )
    graded = dict(zip(asked, scores, strict=True))
    for i, rollout in enumerate(rollouts):
        for name, text in rollout.extra["extracted"].items():
            if text is None:
                rollout.rewards[name] = 0.0
                continue
            scored = graded[i, text]
            rollout.rewards[name] = float(scored.reward or 0.0)
            rollout.failure = rollout.failure or scored.failure
            rollout.extra |= {f"{name}_{key}": value for key, value in scored.extra.items()}


def _preamble(row: Mapping[str, Any], program: str) -> str:
    """What a prompt has before the function to complete, imports and helpers, for a program that defines the function
    itself; empty for one that continues the prompt, which the reward function puts before it."""
    begin = re.compile(rf"^(async )?def {re.escape(str(row.get('entry_point') or ''))}\b", re.MULTILINE)
    found = begin.search(str(row.get("prompt") or ""))
    if not row.get("entry_point") or found is None or begin.search(program) is None:
        return ""
    return str(row["prompt"])[: found.start()]


def _check_instructions(rollout: Rollout, text: str) -> None:
    row = rollout.prompt.row
    names = row["instruction_id_list"]
    arguments = [
        {key: value for key, value in (given or {}).items() if value is not None} for given in row["kwargs"]
    ]
    try:
        results = {
            "strict": instructions.followed(text, names, arguments),
            "flexible": instructions.followed_loosely(text, names, arguments),
        }
    except (DataError, KeyError) as error:
        rollout.failure = f"{type(error).__name__}: {error}"
        results = {"strict": [False], "flexible": [False]}
    for name, found in results.items():
        rollout.rewards[name] = float(all(found))
        rollout.rewards[f"{name}_instructions"] = sum(found) / len(found)
        rollout.extra["extracted"][name] = [n for n, ok in zip(names, found, strict=False) if not ok]
