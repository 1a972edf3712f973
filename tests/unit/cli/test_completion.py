"""`hone completion`: real shells complete commands, keys and values, without starting Python; and the short commands of
examples/aliases.sh."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hone.cli import main
from hone.cli.arguments import ABOUT
from hone.cli.completion import keys_of, script, values

ALIASES = Path(__file__).resolve().parents[3] / "examples" / "aliases.sh"
CASES = [
    ("hone gr", {"grpo"}),
    ("hone sft policy.precision=", {"float32", "bfloat16", "float16"}),
    ("hone sft policy.precision=b", {"bfloat16"}),
    ("hone plan grpo grpo.adv_estimator.na", {"grpo.adv_estimator.name="}),
    ("hone grpo grpo.preset=dr", {"dr_grpo"}),
    ("hone dpo learning_r", {"learning_rate="}),
    ("hone sft --d", {"--dry-run"}),
    ("hone completion z", {"zsh"}),
    ("hone config sft sft.see", {"sft.seed"}),
    ("hone eval generation.model_name=hone/tiny-", {"hone/tiny-sft"}),
]
BASH = """
typed() { COMP_LINE="$1"; COMP_POINT=${#1}; _hone; echo "${COMPREPLY[@]}"; }
"""
ZSH = """
compadd() {
  local all=() suffix='' one
  while (( $# )); do
    case "$1" in -S) suffix=$2; shift ;; -a) all+=(${(P)2}); shift ;; --) ;; *) all+=($1) ;; esac
    shift
  done
  for one in $all; do [[ $one == $PREFIX* ]] && print -n -- "$one$suffix "; done
}
compset() { [[ $PREFIX == ${~2}* ]] || return 1; PREFIX=${PREFIX#${~2}}; }
_describe() { local one; for one in ${(P)2}; do [[ $one == $PREFIX* ]] && print -n -- "${one%%:*} "; done }
_files() { : }
typed() { words=(${(z)1}); [[ $1 == *' ' ]] && words+=(''); CURRENT=$#words; PREFIX=$words[CURRENT]; _hone; print }
"""
"""zsh's own builtins work within its line editor alone; these do what they do."""


def _lines(shell: str, text: str) -> list[str]:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell}")
    arguments = {"zsh": ["-f"], "fish": ["--no-config"], "bash": ["--norc"]}[shell]
    done = subprocess.run([found, *arguments], input=text, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_real_shell_offers(shell: str) -> None:
    if shell == "fish":
        calls = "\n".join(f"echo (complete -C '{typed}' | string split -f 1 \\t)" for typed, _ in CASES)
    else:
        calls = {"bash": BASH, "zsh": ZSH}[shell] + "\n".join(f"typed '{typed}'" for typed, _ in CASES)
    lines = _lines(shell, script(shell) + "\n" + calls)
    found = [
        {word.rpartition("=")[2] if "=" in typed else word for word in line.split()}
        for (typed, _), line in zip(CASES, lines, strict=True)
    ]  # fish offers KEY=VALUE whole
    assert found == [offered for _, offered in CASES]


def test_every_command_and_key_is_offered() -> None:
    (line,) = _lines("bash", script("bash") + BASH + "typed 'hone '")
    assert set(line.split()) == ABOUT.keys()
    (line,) = _lines("bash", script("bash") + BASH + "typed 'hone grpo '")
    assert {word.rstrip("=") for word in line.split()} == set(keys_of("grpo"))
    assert {"policy.generation.temperature", "lr", "rewards.functions"} <= set(keys_of("grpo"))
    assert values()["grpo.reward_shaping.enabled"] == ("true", "false")


def test_it_is_quick_and_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from hone.cli import main; main(['completion', 'bash']);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=60).returncode == 0
    assert main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err == "error: hone completion tcsh: choose one of bash, zsh, fish\n"


def test_the_short_commands_are_hones() -> None:
    text = f'hone() {{ echo hone "$@"; }}\nsource {ALIASES}\n'
    calls = "nemo-sft-1b trainer.max_epochs=1 trainer.limit_train_batches=10\nnemo-grpo lr=1\nnemo-plan sft\n"
    lines = _lines("bash", text + calls)
    assert lines == [
        "hone sft policy.model_name=meta-llama/Llama-3.2-1B-Instruct trainer.max_epochs=1 "
        "trainer.limit_train_batches=10",
        "hone grpo lr=1",
        "hone plan sft",
    ]
    told = "\n".join(_lines("bash", f"source {ALIASES}\nnemo-help\n"))
    for name in (
        "nemo-sft",
        "nemo-sft-1b",
        "nemo-sft-8b",
        "nemo-dpo",
        "nemo-rm",
        "nemo-grpo",
        "nemo-eval",
        "nemo-convert",
    ):
        assert f"{name} " in told
