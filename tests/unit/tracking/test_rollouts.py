"""The rollout log."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from hone.tracking import RunFolder, write_rollouts
from hone.types import Completion, Group, Prompt, Rollout


class Tokenizer:
    def decode(self, token_ids: list[int]) -> str:
        return "".join(chr(97 + token) for token in token_ids)


def group() -> Group:
    prompt = Prompt(
        "0:7", (0, 1), [{"role": "user", "content": "2 + 2 = ?"}], {"question": "2 + 2", "answer": 4}
    )
    good = Completion.of_version((2, 3, 4), (-0.1, -0.2, -0.3), "stop", version=5)
    cut = Completion.of_version((2,) * 6, (-0.1,) * 6, "length", version=5)
    return Group(
        "0:7",
        [
            Rollout(
                prompt, good, "vier: 4 ✓", rewards={"answer": 1.0, "format": None}, reward=1.0, advantage=0.7
            ),
            Rollout(prompt, cut, "…", failure="timeout: answer took 10 s", excluded="truncated"),
        ],
    )


def test_a_line_holds_all_that_is_known_of_a_rollout(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).rollout_file(3)
    write_rollouts(path, 3, [group()], Tokenizer())
    assert path == tmp_path / "rollouts" / "step_3.jsonl"
    good, failed = [json.loads(line) for line in path.read_text().splitlines()]
    assert good == {
        "step": 3,
        "group": "0:7",
        "prompt": [{"role": "user", "content": "2 + 2 = ?"}],
        "completion": "vier: 4 ✓",
        "rewards": {"answer": 1.0, "format": None},
        "reward": 1.0,
        "advantage": 0.7,
        "finish": "stop",
        "num_tokens": 3,
        "logprob": pytest.approx(-0.2),
        "version": 5,
        "failure": None,
        "excluded": None,
        "answer": 4,
        "raw_prompt": "ab",
        "raw_completion": "cde",
    }
    assert (failed["reward"], failed["failure"]) == (None, "timeout: answer took 10 s")
    assert failed["excluded"] == "truncated"
    assert "✓" in path.read_text(), "readable, not escaped"


def test_turns_count_what_the_model_said_and_only_its_tokens_have_a_logprob(tmp_path: Path) -> None:
    one = group()
    said = [{"role": "assistant", "content": "2+2"}, {"role": "tool", "content": "4"}]
    said.append({"role": "assistant", "content": "4"})
    mixed = Completion.of_version((1, 2, 3), (-0.5, 0.0, -1.5), "stop", version=1, mask=(True, False, True))
    one.rollouts = [Rollout(one.rollouts[0].prompt, mixed, "4", messages=said)]
    write_rollouts(tmp_path / "step_1.jsonl", 1, [one])
    record = json.loads((tmp_path / "step_1.jsonl").read_text())
    assert (record["turns"], record["num_tokens"], record["num_sampled"]) == (2, 3, 2)
    assert record["messages"] == said
    assert record["logprob"] == -1.0, "the tool's token is left out"


def test_a_text_without_end_is_cut_in_its_middle_and_half_a_surrogate_stops_nothing(tmp_path: Path) -> None:
    one = group()
    one.rollouts[0].text, one.rollouts[1].text = "a" * 60_000 + "b" * 70_000, "half \ud83d"
    write_rollouts(tmp_path / "step_1.jsonl", 1, [one])
    long, half = [json.loads(line) for line in (tmp_path / "step_1.jsonl").read_text().splitlines()]
    assert long["cut"] == 30_000
    assert long["completion"] == "a" * 50_000 + " […] " + "b" * 50_000
    assert half["completion"] == "half ?"
    assert "cut" not in half


def test_written_whole_and_again(tmp_path: Path) -> None:
    path = tmp_path / "step_1.jsonl"
    for _ in range(2):
        write_rollouts(path, 1, [group()])
    assert len(path.read_text().splitlines()) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_logs_may_live_elsewhere_but_the_config_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", logs=tmp_path / "logs")
    folder.write_config("a: 1\n")
    assert (tmp_path / "run" / "config.yaml").read_text() == "a: 1\n"
    assert folder.metrics == tmp_path / "logs" / "run" / "metrics.csv"


def test_what_a_kill_left_aside_is_gone_after_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "step_1.jsonl"
    pid = os.fork()
    if pid == 0:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        write_rollouts(path, 1, [group()], Tokenizer())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert [file.suffix for file in tmp_path.iterdir()] == [".tmp"], "killed between writing and renaming"
    write_rollouts(path, 1, [group()], Tokenizer())
    assert list(tmp_path.iterdir()) == [path]
