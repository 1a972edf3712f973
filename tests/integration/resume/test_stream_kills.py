"""async_rollouts=stream: over any kill, every prompt that was drawn is exactly one of trained, dropped, or open."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import Running, hone, metric_rows, start, succeeded

from hone.checkpoint.safe_reader import read_state
from tests.integration.resume.conftest import DYNAMIC_RUN, ENVIRONMENT_RUN, GRPO_RUN

SEED = int(os.environ.get("HONE_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
RANDOM = random.Random(SEED)
STEPS = 24
LONG = (
    f"grpo.max_num_steps={STEPS}",
    "policy.generation.max_new_tokens=48",
    "policy.max_total_sequence_length=128",
)
STREAM = (*LONG, "grpo.async_rollouts=stream", "checkpointing.keep_top_k=null")
KINDS = {
    "one step old": (1, (*GRPO_RUN, *STREAM, "policy.generation_batch_size=1")),
    "four steps old, more in flight than the bound admits": (
        4,
        (*DYNAMIC_RUN, *STREAM, "grpo.max_staleness=4", "grpo.extra_prompts_in_flight=3"),
    ),
    "environment": (2, (*ENVIRONMENT_RUN, *STREAM, "grpo.max_staleness=2", f"grpo.max_num_steps={STEPS}")),
}


def draws(ids: Any) -> Counter[int]:
    """How often each draw of a prompt occurs among groups' ids, which end in its number."""
    return Counter(int(one.rsplit(".", 1)[1]) for one in ids)


def check_tickets(run: Path, age: int) -> Counter[int]:
    """The draws of a run, as its newest checkpoint and the logs of the steps before it tell; each is there once."""
    newest = max((int(path.name[5:]) for path in run.glob("step_*")), default=0)
    if not newest:
        return Counter()
    state = read_state(run / f"step_{newest}" / "state.pt")["data"]["tickets"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for step in range(1, newest + 1):
        for line in (run / "rollouts" / f"step_{step}.jsonl").read_text().split("\n")[:-1]:
            record = json.loads(line)
            groups.setdefault(record["group"], []).append(record)
            if record["excluded"] is None:
                assert record["version"] >= step - 1 - age, "older than the bound"
                assert {span[0] for span in record.get("versions", [])} <= set(range(step))
    assert {len({one["step"] for one in lines}) for lines in groups.values()} == {1}, "a group in two steps"
    excluded = {name: {one["excluded"] for one in lines} for name, lines in groups.items()}
    scored = [one["id"] for one in state["finished"]["groups"] if one["trained"]]
    not_reported = [one["id"] for one in state["finished"]["groups"] if not one["trained"]]
    assert set(scored) == set(state["begun"]) <= set(state["order"])
    closed = Counter("trained" if None in whys else next(iter(whys)) for whys in excluded.values())
    assert closed + Counter(why for why, _ in state["dropped"]) == Counter(state["fates"])
    assert len(not_reported) == len(state["dropped"])
    every = draws(groups) + draws(state["order"]) + draws(not_reported)
    assert set(every.values()) == {1}, "a prompt in two places"
    assert set(every) == set(range(len(every))), "a prompt is lost"
    return every


def kill_somewhere(running: Running) -> str:
    """Kill the command or its generator after a random time."""
    running.poll(RANDOM.uniform(1.0, 6.0))
    with_generator = [
        child
        for child in psutil.Process(running.pid).children()
        if running.poll() is False and any("hone generator" in part for part in child.cmdline())
    ]
    if with_generator and RANDOM.random() < 0.5:
        with_generator[0].kill()
        running.poll(RANDOM.uniform(0.0, 4.0))
        return "generator"
    return "command"


def killed_until_done(argv: tuple[str, ...], age: int, place: Path, run: Path, kills: int) -> None:
    print(f"HONE_KILL_SEED={SEED}")
    argv = (*argv, f"checkpointing.checkpoint_dir={run.name}")
    killed: Counter[str] = Counter()
    while killed.total() < kills:
        running = start(*argv, cwd=place)
        try:
            what = kill_somewhere(running)
        except psutil.NoSuchProcess:
            what = "nothing"
        running.send(signal.SIGKILL)
        ended = running.wait()
        assert ended.code in (0, -signal.SIGKILL), ended.err
        killed[what] += 1
        check_tickets(run, age)
        if ended.code == 0:  # the next kill falls on a new run
            shutil.rmtree(run)
    succeeded(hone(*argv, cwd=place))
    assert max(check_tickets(run, age)) >= 2 * STEPS - 1
    rows = metric_rows(run)
    assert len(rows) >= STEPS
    assert max(float(row["staleness_max"]) for row in rows if row.get("staleness_max")) <= age


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_prompt_is_lost_or_trained_on_twice_over_kills(kind: str, place: Path, run_dir: Path) -> None:
    age, argv = KINDS[kind]
    killed_until_done(argv, age, place, run_dir, 3)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_no_prompt_is_lost_or_trained_on_twice_over_many_kills(kind: str, place: Path, run_dir: Path) -> None:
    age, argv = KINDS[kind]
    killed_until_done(argv, age, place, run_dir, 17)
