"""Completions to groups: text decoded once, tokens untouched, causes and exclusions in place."""

from __future__ import annotations

import asyncio

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hone.config.schema.grpo import GRPOConfig
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.scoring import apply_reward_shaping, columns_of, score_completions
from hone.types import Completion, Group, Prompt
from tests.helpers.pool_helpers import FUNCTIONS, SEEDS

WORDS = ["<eos>", "<think>", "</think>", "<answer>", "</answer>", "7", "72", "raise"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def completion(*words: str, finish: str = "stop") -> Completion:
    tokens = tuple(WORDS.index(word) for word in words)
    return Completion.of_version(tokens, (-0.5,) * len(tokens), finish, version=3)  # type: ignore[arg-type]


def run(
    entries: list, prompts: list, completions: list, tokenizer: PreTrainedTokenizerFast, grpo: dict
) -> list[Group]:
    cfg = GRPOConfig.model_validate({"grpo": grpo})
    with RewardPool(resolve_all(entries), num_workers=1) as pool:
        groups = asyncio.run(score_completions(prompts, completions, tokenizer, pool))
    apply_reward_shaping(groups, cfg)
    return groups


def test_groups_get_rewards_and_exclusions(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = [
        Prompt("a", (5,), "2+70?", {"answer": "#### 72", "prompt": "2+70?"}),
        Prompt("b", (5,), "7?", {"ground_truth": 7}),
    ]
    right = completion("<answer>", "72", "</answer>", "<eos>")
    wrong = completion("<answer>", "7", finish="length")
    groups = run(["answer"], prompts, [[right, wrong], [right]], tokenizer, {"overlong_filtering": True})
    assert [group.id for group in groups] == ["a", "b"]
    assert [[r.reward for r in group.rollouts] for group in groups] == [[1.0, 0.0], [0.0]]
    first, second = groups[0].rollouts
    assert first.text == "<answer> 72 </answer>"
    assert first.completion is right
    assert first.rewards == {"answer": 1.0}
    assert (first.excluded, second.excluded) == (None, "truncated")


def test_shaping_changes_the_reward_and_not_the_rewards(tokenizer: PreTrainedTokenizerFast) -> None:
    shaping = {
        "enabled": True,
        "overlong_buffer_length": 2,
        "overlong_buffer_penalty": 1.0,
        "max_response_length": 5,
    }
    prompts = [Prompt("a", (5,), "?", {"answer": "72"})]
    right = completion("<answer>", "72", "</answer>", "<eos>")
    (group,) = run(["answer"], prompts, [[right]], tokenizer, {"reward_shaping": shaping})
    assert (group.rollouts[0].reward, group.rollouts[0].rewards) == (0.5, {"answer": 1.0})
    assert group.rollouts[0].excluded is None


def test_conversational_prompts_give_messages(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = [Prompt("a", (5,), [{"role": "user", "content": "?"}]), Prompt("b", (5,), [])]
    good = completion("<think>", "7", "</think>", "<answer>", "7", "</answer>")
    groups = run([f"{SEEDS}:format_reward"], prompts, [[good], [completion("7")]], tokenizer, {})
    assert [g.rollouts[0].reward for g in groups] == [0.0, 0.0]  # this tokenizer puts blanks between the tags
    groups = run(["format"], prompts, [[good], [completion("7")]], tokenizer, {})
    assert [g.rollouts[0].reward for g in groups] == [1.0, 0.0]


def test_a_failure_has_a_cause_and_is_never_a_zero(tokenizer: PreTrainedTokenizerFast) -> None:
    completions = [[completion("7")] * 3 + [completion("raise")]]
    scaling = {"enabled": True, "target_min": 5.0, "target_max": 6.0}
    (group,) = run(
        [f"{FUNCTIONS}:troubled"],
        [Prompt("a", (5,), "?")],
        completions,
        tokenizer,
        {"reward_scaling": scaling},
    )
    assert [r.reward for r in group.rollouts] == [6.0, 6.0, 6.0, None]
    assert "raised ValueError" in str(group.rollouts[3].failure)


def test_length_counts_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    entry = {"name": "length", "kwargs": {"target": 4}}
    (group,) = run([entry], [Prompt("a", (5,), "?")], [[completion("7", "<eos>")]], tokenizer, {})
    assert group.rollouts[0].reward == -0.5


def test_columns_that_a_dataset_lacks_are_none() -> None:
    rows = [{"answer": 1, "prompt": "x"}, {"task": "code"}]
    assert columns_of(rows) == {"answer": [1, None], "task": [None, "code"]}
