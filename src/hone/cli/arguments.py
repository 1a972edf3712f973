"""Names and summaries of the commands, and the parser of their arguments."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from hone.errors import ConfigError
from hone.registry import specs

ABOUT = {
    **{name: spec.summary for name, spec in specs().items()},
    "eval": "score a model on suites or your own file; `hone eval compare` compares models",
    "eval-rm": "measure how well a reward model ranks held-out pairs",
    "convert": "write a checkpoint as a Hugging Face folder",
    "show": "show a run's metrics and samples, or its data before it runs",
    "tune": "search for the best settings of a command",
    "plan": "check a run's settings and estimate what it needs, without starting it",
    "doctor": "check this machine and say what to install",
    "config": "list the settings of a command, or explain one",
    "completion": "print a completion script for bash, zsh or fish",
}
RUN_COMMANDS = (*specs(), "eval")
"""Commands that take a configuration."""

OVERRIDES = """\
overrides:
  key=value      set a setting:            policy.optimizer.kwargs.lr=1e-4
  +key=value     add one that is not in the file; ++key=value does either
  ~key           remove one
Without --config, the model and task that come with Hone are used. `hone config COMMAND` lists all settings.
"""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ConfigErrors: one message, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split("=")[0].split()
        if unknown and message.startswith("unrecognized"):
            near = difflib.get_close_matches(unknown[0], self._option_string_actions, n=1)
            message = f"unknown option {unknown[0]}" + (f": did you mean {near[0]}?" if near else "")
        raise ConfigError(f"{message} (see {self.prog} --help)")


def parser_of(name: str) -> Parser:
    return Parser(
        prog=f"hone {name}",
        description=ABOUT[name][0].upper() + ABOUT[name][1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def with_config(parser: Parser) -> Parser:
    parser.epilog = OVERRIDES
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    return parser
