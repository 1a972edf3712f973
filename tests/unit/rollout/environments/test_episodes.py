"""Rollouts of many turns: their tokens one by one, how they end, what fails with them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import torch

from hone.errors import ConfigError, DataError, RewardError
from hone.rollout.environments.episode_result import (
    EpisodeResult,
    add_rewards,
    check_failures,
    episode_metrics,
)
from hone.types import Completion, Prompt, Rollout, Sampling, sample_of
from tests.helpers.env_helpers import TOOLS, Scripted, here
from tests.unit.rollout.environments.conftest import Play, asking

START = "<|im_start|>"


def test_the_stream_is_what_was_generated_with_the_template_between(play: Play, tokenizer: Any) -> None:
    generator = Scripted(tokenizer, lambda id, before: f"turn of {id}")
    [[played]] = play({"path": here("Counter")}, None, [asking("hello")], generator=generator)
    rollout, completion = played.rollout, played.rollout.completion
    assert tokenizer.decode(rollout.prompt.tokens) == f"{START}user\nhello<|im_end|>\n{START}assistant\n"
    # Token by token: the generator's own, in the order of turns, and nothing else is the model's.
    said = [generator.given[id, 0] for id in ("p", "p/1", "p/2")]
    marked = [t for t, mine in zip(completion.tokens, completion.mask, strict=True) if mine]
    assert marked == [token for turn in said for token in turn]
    assert tokenizer.decode(completion.tokens) == (
        f"turn of p<|im_end|>\n{START}user\n 1<|im_end|>\n{START}assistant\n"
        f"turn of p/1<|im_end|>\n{START}user\n 2<|im_end|>\n{START}assistant\nturn of p/2<|im_end|>"
    )
    assert [lp for lp, mine in zip(completion.logprobs, completion.mask, strict=True) if not mine] == [
        0.0
    ] * (completion.mask.count(False))
    # What the generator was asked for is the stream so far, each time.
    whole = rollout.prompt.tokens + completion.tokens
    for asked in generator.asked:
        assert asked.tokens == whole[: len(asked.tokens)]
    assert played.reward == 3.0
    assert completion.finish == "stop"


def test_only_the_models_tokens_are_targets(play: Play, tokenizer: Any) -> None:
    [[played]] = play({"path": here("Counter")}, lambda id, before: "x", [asking("hello")])
    sample = sample_of(played.rollout)
    targets = sample.tokens_T[sample.loss_mask_T].tolist()
    assert tokenizer.decode(targets) == "x<|im_end|>" * 3
    assert sample.token_columns["generation_logprobs"].tolist() == [-1.0] * len(targets)
    assert sample.num_targets == played.rollout.completion.num_sampled


def test_the_stream_is_the_templates_own_rendering_where_that_keeps_history(
    play: Play, tokenizer: Any
) -> None:
    [[played]] = play({"path": here("Counter")}, lambda id, before: f"say {id}", [asking("hello")])
    rollout = played.rollout
    conversation = [*rollout.prompt.content, *rollout.messages[:-1]]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert tokenizer.decode(rollout.prompt.tokens + rollout.completion.tokens) == rendered.rstrip()


def test_a_turn_that_nothing_ended_is_ended_by_the_template(play: Play, tokenizer: Any) -> None:
    generator = Scripted(tokenizer, lambda id, before: "abc", end=False)  # as a stop string leaves it
    [[played]] = play({"path": here("Counter")}, None, [asking("hello")], generator=generator)
    assert tokenizer.decode(played.rollout.completion.tokens).startswith(f"abc<|im_end|>\n{START}user\n 1")
    ends = [
        t for t, m in zip(played.rollout.completion.tokens, played.rollout.completion.mask, strict=True) if m
    ]
    assert tokenizer.eos_token_id not in ends


@pytest.mark.parametrize(
    ("turns", "context", "max_new", "finish", "spoken"),
    [(2, 1000, 50, "turns", 2), (50, 60, 50, "length", None), (4, 1000, 2, "length", 1)],
)
def test_an_environment_that_never_ends_is_ended(
    play: Play, turns: int, context: int, max_new: int, finish: str, spoken: int | None
) -> None:
    [[played]] = play(
        {"path": here("Endless")}, lambda id, before: "abc", [asking("?")], turns=turns, context=context,
        max_new_tokens=max_new,
    )  # fmt: skip
    completion = played.rollout.completion
    assert completion.finish == finish
    assert len(played.rollout.prompt.tokens) + len(completion.tokens) <= context
    assert played.rollout.stats["turns"] == (spoken or played.rollout.stats["turns"]) > 0
    assert completion.tokens[-1] != completion.mask  # ends with the model's own token
    assert completion.mask is None or completion.mask[-1]
    assert episode_metrics([played.rollout])["out_of_turns"] == (finish == "turns")


def test_what_fails_costs_one_sample_with_its_cause(play: Play) -> None:
    deeds = ["hang", "die", "raise", "nan", "text reward", "wrong", "reply", "ok"]
    prompts = [asking("?", deed, deed=deed) for deed in deeds]
    played = [one for [one] in play({"path": here("Hostile"), "timeout_s": 0.5}, lambda id, b: "x", prompts)]
    causes = [one.rollout.failure for one in played]
    assert causes[:2] == [
        "timeout after 0.5 s in environment 'default'",
        "process died in environment 'default'",
    ]
    assert causes[2].startswith("environment 'default' raised KeyError: 'no such move' (")
    assert "env_helpers.py" in causes[2]
    assert causes[3:] == [
        "environment 'default' gave nan as a reward",
        "environment 'default' gave '1' as a reward; expected a number",
        "environment 'default' step returned 7; expected (observation, reward, done)",
        "a message of 1,152,921,504,606,846,976 bytes exceeds the limit of 67,108,864 "
        "in environment 'default'",
        None,
    ]
    assert [one.reward for one in played] == [None] * 7 + [1.0]
    with pytest.raises(
        RewardError, match=r"7 of 8 rollouts failed .*max_failure_fraction=0.5.* timeout after"
    ):
        check_failures(played, 0.5)
    check_failures(played, 0.9)
    check_failures(played[6:], 0.1)  # one alone stops no run


def test_trl_environments_work_unchanged(play: Play, tokenizer: Any) -> None:
    def say(id: str, before: str) -> str:
        turn = before.count(f"{START}tool")
        call = '<tool_call>{"name": "increment", "arguments": {"step": %d}}</tool_call>'
        return [call % 2, call % -1, call % 3, "done"][turn]

    [[played]] = play({"path": here("Trl")}, say, [asking("Count.", start=10)], turns=8)
    assert played.rollout.prompt.content[-1]["content"] == "Count. Start at 10."
    assert "increment(step)" in tokenizer.decode(played.rollout.prompt.tokens)
    assert [m["content"] for m in played.rollout.messages if m["role"] == "tool"] == [
        "12", "{'error': 'step must not be negative'}", "15",
    ]  # fmt: skip
    assert (played.environment, played.reward) == ("Trl", 15.0)


def test_rollouts_with_other_beginnings_share_no_prefix(play: Play) -> None:
    path = {"path": here("Counter")}
    [same] = play(path, lambda id, before: "x", [asking("?", append=" and so")], count=2)
    assert {one.rollout.prompt.id for one in same} == {"p"}
    assert same[0].rollout.prompt.content[-1]["content"] == "? and so"
    [other] = play({"path": here("Forgetful")}, lambda id, before: "x", [asking("?")], count=2)
    assert {one.rollout.prompt.id for one in other} == {"p#0", "p#1"}


@pytest.mark.slow
def test_environments_run_beside_each_other(play: Play) -> None:
    say = '<tool_call>{"name": "later", "arguments": {"seconds": 0.5}}</tool_call>'

    def says(id: str, before: str) -> str:
        return "done" if f"{START}tool" in before else say

    play({"tools": TOOLS}, says, [asking("?")])  # which starts the processes
    started = time.monotonic()
    played = play({"tools": TOOLS}, says, [asking("?", str(i)) for i in range(16)])
    assert time.monotonic() - started < sum(one.rollout.stats["env_seconds"] for [one] in played)


def test_a_slow_environment_delays_no_other_rollout(play: Play, tokenizer: Any) -> None:
    def say(id: str, before: str) -> str:
        seconds = 0.6 if id.startswith("slow") else 0.0
        call = f'<tool_call>{{"name": "later", "arguments": {{"seconds": {seconds}}}}}</tool_call>'
        return "done" if f"{START}tool" in before else call

    prompts = [asking("?", id) for id in ("slow", "a", "b")]
    batches = {}
    for wait in (0.1, None):
        generator = Scripted(tokenizer, say)
        play({"tools": TOOLS, "max_wait_s": wait}, None, prompts, generator=generator)
        batches[wait] = generator.batches
    assert batches == {0.1: [3, 2, 1], None: [3, 3]}


def test_more_rollouts_than_workers_take_turns(play: Play, tokenizer: Any) -> None:
    generator = Scripted(tokenizer, lambda id, before: "x")
    prompts = [asking("?", str(i)) for i in range(5)]
    played = play({"path": here("Counter"), "num_workers": 2}, None, prompts, generator=generator)
    assert [one.reward for [one] in played] == [3.0] * 5
    assert max(generator.batches) == 2


def test_rewards_of_functions_and_environment_are_added(play: Play) -> None:
    [[played]] = play({"path": here("Counter"), "reward_weight": 0.5}, lambda id, before: "x", [asking("?")])
    played.rollout.rewards, played.rollout.reward = {"answer": 1.0}, 2.0
    add_rewards([played], "")
    assert played.rollout.rewards == {"answer": 1.0, "Counter": 3.0}
    assert played.rollout.reward == 2.0 + 0.5 * 3.0


def test_a_function_named_like_the_environment_is_not_overwritten() -> None:
    rollout = Rollout(
        Prompt("p", (1,), [], {}), Completion.of_version((1,), (0.0,), "stop", 0), "", rewards={"Shop": 0.5}
    )
    with pytest.raises(RewardError, match="are both named 'Shop': give the function another `name`"):
        add_rewards([EpisodeResult(rollout, "Shop", 1.0)], "")
    assert rollout.rewards == {"Shop": 0.5}


def test_text_prompts_are_refused(play: Play) -> None:
    with pytest.raises(DataError, match="prompt t is text"):
        play({"path": here("Counter")}, lambda id, before: "x", [Prompt("t", (1,), "text")])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (here("add"), "missing 2 required"),
        (here("Nothing"), "there is no .Nothing."),
        ("no_such_file.py:Env", "there is no file"),
        (here("asyncio"), "expected a class or a function"),
        (here("Scripted"), "missing 2 required"),
    ],
)
def test_what_is_no_environment_stops_before_anything_runs(play: Play, path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        play({"path": path}, lambda id, before: "x", [asking("?")])


def test_a_real_models_tokens_are_the_same_however_environments_take_their_time(
    tokenizer: Any, play: Play
) -> None:
    from hone.engine.local.generator import LocalGenerator
    from hone.model.loading import load_model, stop_tokens

    torch.manual_seed(0)
    model = load_model("hone/tiny-sft").eval()
    prompts = [asking(f"Tom has {i} apples. How many?", f"p{i}") for i in range(4)]

    def rollouts(path: str, wait: float | None, max_rows: int) -> list[Any]:
        generator = LocalGenerator(
            model, tokenizer, stop_tokens=stop_tokens(model, tokenizer), context=400, max_rows=max_rows
        )
        env = {"path": here(path), "max_wait_s": wait, "num_workers": 16}
        played = play(env, None, prompts, generator=generator, count=2, context=400, max_new_tokens=24)
        return [one.rollout.completion for group in played for one in group]

    plain, again, slow = rollouts("Counter", None, 64), rollouts("Slow", None, 64), rollouts("Slow", 0.0, 3)
    assert plain == again  # to the last bit
    assert [c.tokens for c in slow] == [c.tokens for c in plain]
    assert [c.mask for c in slow] == [c.mask for c in plain]
    for ours, theirs in zip(slow, plain, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    assert len({c.tokens for c in plain}) > 4


def test_one_turn_is_what_the_generator_gives_without_environments(tokenizer: Any, play: Play) -> None:
    from hone.engine.local.generator import LocalGenerator
    from hone.model.loading import load_model, stop_tokens

    model = load_model("hone/tiny-sft").eval()
    generator = LocalGenerator(model, tokenizer, stop_tokens=stop_tokens(model, tokenizer), context=400)
    played = play(
        {"path": here("Counter"), "kwargs": {"turns": 1}}, None, [asking("Tom has 3 apples.")], generator=generator,
        count=4, max_new_tokens=24,
    )  # fmt: skip
    prompt = Prompt("p", played[0][0].rollout.prompt.tokens, "")
    [plain] = asyncio.run(generator.generate([prompt], Sampling(24), count=4))
    assert [one.rollout.completion for one in played[0]] == plain


def test_metrics_count_what_environments_did(play: Play) -> None:
    played: list[EpisodeResult] = [
        o for [o] in play({"path": here("Counter")}, lambda i, b: "x", [asking("?"), asking("!")])
    ]
    found = episode_metrics([one.rollout for one in played])
    assert found["turns"] == 3.0
    assert found["tool_calls"] == 0.0
    assert found["env_seconds"] > 0
    assert episode_metrics([]) == {}
