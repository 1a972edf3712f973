"""Settings that would never end, or end in a traceback: one line, at once. And nothing of them steers a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hone.cli import main
from hone.config import load
from hone.config.loading import files
from hone.errors import ConfigError, visible

NINE = "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
GROWING = "x0: aaaaaaaaaa\n" + "".join(f"x{i + 1}: '{f'${{x{i}}}' * 10}'\n" for i in range(9))
FILES = {
    "an alias bomb": ("a: &a [x, x]\n" + NINE, "aliases expand to more than 100000 values"),
    "a cycle": ("policy: &p\n  lora: *p\n", "*p is inside its own anchor"),
    "a cycle in a list": ("data: {train: &t [*t]}\n", "*t is inside its own anchor"),
    "mappings 1,500 deep": (
        "policy: " + "{a: " * 1500 + "1" + "}" * 1500,
        "nested more than 100 levels deep",
    ),
    "lists 100,000 deep": ("policy: " + "[" * 100_000, "nested more than 100 levels deep"),
    "references that grow": (
        GROWING + "policy: {model_name: '${x9}'}\n",
        "policy.model_name: its value has more than",
    ),
    "references in circles": (
        "sft: {seed: '${sft.val_period}', val_period: '${sft.seed}'}\n",
        "refers to itself",
    ),
    "references 300 deep": (
        "policy: {model_name: '" + "${oc.env:" * 300 + "X" + "}" * 300 + "'}\n",
        "policy.model_name: its value has more than 50 interpolations",
    ),
    "an unknown resolver": (
        "sft: {seed: '${eval:1+1}'}\n",
        "sft.seed: there is no ${eval:…}; there are mul, add",
    ),
    "a number of 6,000 digits": ("sft: {seed: " + "9" * 6000 + "}\n", "a number that is too long"),
    "no UTF-8": (b"\xff\xfe\x00policy", "cannot be read"),
    "a control character": (
        'policy: {model_name: "a\\e[31mred"}\n',
        "policy.model_name=a\\x1b[31mred: the text holds",
    ),
    "a name with one": ('logger: {"wa\\endb": 1}\n', "logger.wa\\x1bndb: the name holds a control character"),
}


@pytest.mark.parametrize("command", ["sft", "plan"])
@pytest.mark.parametrize("case", FILES)
def test_a_file(case: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, said = FILES[case]
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    assert main([command, "--config", str(path)]) == 2
    assert time.process_time() - started < 1.5
    line = capsys.readouterr().err
    assert said in line
    assert len(line) < 1500
    assert "\x1b" not in line


WORDS = [
    (["sft.seed=" + "1" + "0" * 30], "sft.seed=1.000e+30: expected a number below 2^63"),
    (["sft.seed=10**30"], "sft.seed=10**30: expected a whole number, got the text '10**30'"),
    (["lr=1e-5x"], "policy.optimizer.kwargs.lr=1e-5x: expected a number"),
    (["policy.optimizer.kwargs.betas=0.9"], "policy.optimizer.kwargs.betas=0.9: expected a list of numbers"),
    (["cluster.cpu_workers_per_node=10000"], "cluster.cpu_workers_per_node=10000: this machine has"),
    (["policy.model_name=a\x1b[2J"], "policy.model_name=a\\x1b[2J: the text holds a control character"),
    (["policy.model_name=${eval:1}"], "there is no ${eval:…}"),
    (["data.train.dataset_name=a\u202egpj"], "the text holds a control character"),
    (["po\x1blicy=1"], "cannot read the override 'po\\x1blicy=1'"),
]


@pytest.mark.parametrize(
    ("words", "said"), WORDS, ids=lambda part: str(part)[:40].encode("unicode_escape").decode()
)
def test_a_word_of_the_command_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.process_time()
    assert main(["sft", *words]) == 2
    assert time.process_time() - started < 1.5
    line = capsys.readouterr().err
    assert said in line
    assert "\x1b" not in line
    assert "\u202e" not in line


def test_an_argument_that_is_no_text() -> None:
    for word in (b"policy.model_name=\xff", b"\xff=1", b"rewards.functions=[{name: a\xffb}]"):
        done = subprocess.run([sys.executable, "-m", "hone", "grpo", word], capture_output=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert b"Traceback" not in done.stderr


def test_what_is_large_or_repeated_and_sound_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "policy: &p {precision: float32}\nsft: {seed: 9223372036854775807, max_num_steps: 7}\n"
        "checkpointing: {save_period: '${mul:${sft.max_num_steps},${sft.max_num_steps}}'}\n"
        "logger: {wandb: {name: &n run}, mlflow: {run_name: *n}}\n"
    )
    config = load("sft", path, []).config
    assert (config.sft.seed, config.checkpointing.save_period) == (2**63 - 1, 49)
    assert config.logger.mlflow.run_name == "run"
    assert files.parse("a: &a {x: 1}\nb: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
    assert len(files.parse("\n".join(f"k{n}: [1, 2, 3]" for n in range(20_000)))) == 20_000
    with pytest.raises(ConfigError, match="cannot be read"):
        files.read(Path(os.devnull) / "x")


def test_visible_text() -> None:
    assert visible("한국어 ünï\n\ttab …") == "한국어 ünï\n\ttab …"
    assert visible("\x1b]0;t\x07\x7f\x9b\udcff\u202e") == "\\x1b]0;t\\x07\\x7f\\x9b\\udcff\\u202e"
