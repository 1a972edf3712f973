"""What the commands are called, and how their arguments are read."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from hone.errors import ConfigError
from hone.registry import specs

ABOUT = {
    **{name: spec.summary for name, spec in specs().items()},
    "eval": "score a model by sampling answers",
    "eval-rm": "measure how well a reward model ranks held-out pairs",
    "convert": "make a Hugging Face folder of a checkpoint",
    "show": "look at a run: its numbers, and what the model said; at its data before it runs",
    "tune": "search for the best settings of a command",
    "plan": "resolve and check a run, and say what it needs, without starting it",
    "doctor": "check this machine and say what to install",
    "config": "list the settings of a command, or explain one",
    "completion": "print a script with which the shell completes commands, keys and values",
}
RUN_COMMANDS = (*specs(), "eval")
"""Commands that take a configuration."""

OVERRIDES = """\
overrides:
  key=value      set a setting:            policy.optimizer.kwargs.lr=1e-4
  +key=value     set one that is not in the file; ++key=value does either
  ~key           remove one
Without --config the embedded model and task are used. `hone config COMMAND` lists all settings.
"""


class Parser(argparse.ArgumentParser):
    """argparse that fails as everything else in Hone does: one message, and exit code 2."""

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
