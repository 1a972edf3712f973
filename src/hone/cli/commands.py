"""The commands by name. What a command needs is imported when it is called."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from hone.cli.arguments import ABOUT, RUN_COMMANDS, parser_of
from hone.cli.convert import convert
from hone.cli.failures import reported
from hone.cli.runs import load_any, plan, run
from hone.errors import ConfigError
from hone.lazy import lazy
from hone.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, a HoneError's own, 130 after Ctrl-C.

    Expected failures print one line on stderr. Anything else is a defect of Hone and keeps its traceback.
    """
    return reported(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"hone {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    commands: dict[str, Callable[[list[str]], int]] = {
        **{name: partial(run, name) for name in RUN_COMMANDS},
        "eval": _eval,
        "eval-rm": partial(_lazy, "eval-rm", "hone.evaluation.reward_model:command"),
        "convert": convert,
        "show": _show,
        "tune": partial(_lazy, "tune", "hone.tune.command:command"),
        "plan": plan,
        "doctor": _doctor,
        "config": _config,
        "completion": _completion,
    }
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean `hone {near[0]}`?" if near else f"the commands are {', '.join(commands)}"
        raise ConfigError(f"unknown command {name!r}: {hint}")
    # Tokenizers warn, and may deadlock, when a process that has used them forks (data and reward workers).
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait for each other made a busy two-core machine 5 times slower. Read once, by torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return commands[name](rest)


def _overview() -> str:
    width = max(map(len, ABOUT)) + 2
    commands = "\n".join(f"  {name:<{width}}{about}" for name, about in ABOUT.items())
    return f"""\
usage: hone COMMAND [--config FILE] [key=value ...]

Post-training for language models.

{commands}

`hone COMMAND --help` tells more. Without arguments, {", ".join(RUN_COMMANDS[:-1])}
and {RUN_COMMANDS[-1]} use a small model that comes with Hone."""


def _lazy(name: str, target: str, argv: list[str], *further: object) -> int:
    """Run a command that is a function of a parser and the arguments."""
    command: Callable[..., int] = lazy(target)
    return command(parser_of(name), argv, *further)


def _eval(argv: list[str]) -> int:
    if argv[:1] == ["compare"]:
        return _lazy("eval", "hone.cli.compare:command", argv[1:], load_any)
    return run("eval", argv)


def _show(argv: list[str]) -> int:
    if argv[:1] == ["data"]:
        return _lazy("show", "hone.cli.show_data:command", argv[1:], load_any)
    return _lazy("show", "hone.cli.show:command", argv)


def _doctor(argv: list[str]) -> int:
    parser_of("doctor").parse_args(argv)
    return int(lazy("hone.cli.doctor:main")())


def _config(argv: list[str]) -> int:
    parser = parser_of("config")
    parser.add_argument("command", choices=RUN_COMMANDS, help="the command whose settings to list")
    parser.add_argument("key", nargs="?", help="one setting or section: policy.optimizer")
    options = parser.parse_args(argv)
    print(lazy("hone.config.reference_table:explained")(options.command, options.key))
    return 0


def _completion(argv: list[str]) -> int:
    parser = parser_of("completion")
    parser.epilog = "bash, zsh: source <(hone completion bash); fish: hone completion fish | source"
    parser.add_argument("shell", help="bash, zsh or fish")
    print(lazy("hone.cli.completion:script")(parser.parse_args(argv).shell))
    return 0
