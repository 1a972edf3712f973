"""Functions written for TRL run unchanged: its own by dotted path, and every shape that it documents."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from hone.errors import RewardError
from hone.rollout.rewards.resolve import resolve_all
from hone.rollout.rewards.reward_pool import RewardPool, Scored
from tests.helpers.pool_helpers import SEEDS, score

TRL = SEEDS.with_name("trl_functions.py")


def own(function: str, **more: object) -> dict:
    return {"path": f"{TRL}:{function}", **more}


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def rewards(scored: list[Scored]) -> list[float | None]:
    return [one.reward for one in scored]


@pytest.mark.slow  # TRL takes seconds to be imported
def test_functions_that_trl_ships_run_by_dotted_path() -> None:
    import trl.rewards

    texts = [r"<think>a</think> \boxed{\frac{1}{3}}", r"\boxed{\frac12}", "nothing", "a a a a a a"]
    completions = [message(text) for text in texts]
    columns = {"solution": [r"\frac{1}{3}"] * 4, "completion_ids": [[1] * 50, [1, 2, 3], [4] * 95, [5] * 200]}
    plain: list[tuple[str, dict]] = [
        ("accuracy_reward", {}),
        ("reasoning_accuracy_reward", {"reasoning_delimiters": ["</think>"]}),
        ("think_format_reward", {}),
    ]
    made: list[tuple[str, dict]] = [
        ("get_soft_overlong_punishment", {"max_completion_len": 100, "soft_punish_cache": 20}),
        ("get_repetition_penalty_reward", {"ngram_size": 2}),
        ("get_cosine_scaled_reward", {"max_len": 100}),
    ]
    entries = [
        {"name": name, "path": f"trl.rewards.{name}", "kwargs": kwargs} for name, kwargs in plain + made
    ]
    scored = score(entries, completions, columns, timeout_s=60, load_timeout_s=120, num_workers=1)
    for name, kwargs in plain:
        wanted = getattr(trl.rewards, name)(completions=completions, **columns, **kwargs)
        assert [one.rewards[name] for one in scored] == wanted, name
    for name, kwargs in made:
        wanted = getattr(trl.rewards, name)(**kwargs)(completions=completions, **columns)
        assert [one.rewards[name] for one in scored] == pytest.approx(wanted), name
    assert scored[0].extra["solution"] == r"\frac{1}{3}"


def test_plain_functions_are_reward_functions() -> None:
    columns = {"completion_ids": [[1], [1, 2]]}
    assert rewards(score([own("by_tokens")], ["abc", "d"], columns)) == [1.0, 2.0]
    assert rewards(score([own("by_characters")], ["abc", "d"], columns)) == [3.0, 1.0]


def test_what_is_logged_comes_with_the_rollout_and_in_the_metrics() -> None:
    async def run() -> None:
        with RewardPool(resolve_all([own("with_logs")]), num_workers=1) as pool:
            scored = await pool.score(["p"] * 2, [r"\boxed{1}", "2"], {"ground_truth": ["1", "2"]})
            assert [one.extra for one in scored] == [
                {"truth": "1", "found": "1"},
                {"truth": "2", "found": "[none]"},
            ]
            assert pool.metrics()["accuracy_with_logs"] == 0.5

    asyncio.run(run())


def test_a_function_knows_the_step() -> None:
    async def run() -> None:
        with RewardPool(resolve_all([own("harder_over_time")]), num_workers=1) as pool:
            pool.set_progress(30, 100)
            scored = await pool.score(["p"], ["x"], {"completion_ids": [[1] * 10]})
            assert scored[0].reward == 3.0

    asyncio.run(run())


def test_async_functions_wait_at_the_same_time() -> None:
    entries = [own("after_a_wait"), own("after_another_wait"), own("after_a_third_wait"), own("blocking")]
    with RewardPool(resolve_all(entries), num_workers=1) as pool:
        for _ in range(2):  # the first round starts the workers
            begin = time.monotonic()
            scored = asyncio.run(pool.score(["p"] * 40, ["x"] * 40, {}))
            took = time.monotonic() - begin
    assert rewards(scored) == [1.75] * 40
    assert took < 1.5  # 2.0 one after another


def test_classes_and_functions_that_make_functions() -> None:
    for entry, wanted in (
        (own("Longer", kwargs={"than": 2}), [1.0, 0.0]),
        (own("Longer", kwargs={"than": 2, "worth": 3.0}), [3.0, 0.0]),
        (own("LongerAsync", kwargs={"than": 0}), [1.0, 1.0]),
        (own("get_longer", kwargs={"than": 2}), [1.0, 0.0]),
    ):
        assert rewards(score([entry], ["abc", "d"])) == wanted


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            own("Longer"),
            "is called with kwargs to create the reward function, but missing a required argument: 'than'",
        ),
        (own("Longer", kwargs={"then": 1}), "is called with kwargs to create the reward function"),
        (own("not_callable", kwargs={"than": 1}), "returned a int for its kwargs, not a reward function"),
        (own("needs_environments"), "needs `environments`, which run in another process"),
        (own("get_longer"), "takes no `completions`"),
    ],
)
def test_what_makes_no_function_stops_at_start(entry: dict, problem: str) -> None:
    with pytest.raises(RewardError) as caught, RewardPool(resolve_all([entry]), num_workers=1):
        pass
    assert problem in str(caught.value)


def test_an_exception_in_a_rewards_place_fails_that_completion() -> None:
    scored = score([own("partly")], ["good", "bad", "good"])
    assert rewards(scored) == [1.0, None, 1.0]
    assert scored[1].failure == "reward 'partly': nobody answered"
    with pytest.raises(RewardError, match=r"2 x reward 'partly': TimeoutError.*nobody answered"):
        score([own("partly")], ["good", "bad", "bad"])


def test_the_seeds_functions_are_all_there() -> None:
    """Every reward function in the reference documents is in seed_functions.py, word for word."""
    folder = Path(__file__).resolve().parents[5] / "shared" / "seeds"
    if not folder.is_dir():
        pytest.skip("the reference documents are not here")
    kept = SEEDS.read_text()
    found = 0
    for document in sorted(folder.iterdir()):
        blocks = document.read_text().split("\ndef ")[1:]
        for block in blocks:
            head = block.splitlines()[0]
            if "completions" in head:
                body = "def " + block.split("\n```")[0].split("\n# ")[0].rstrip()
                assert body in kept, head
                found += 1
    assert found == 5
