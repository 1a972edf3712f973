"""The commands. Nothing heavy is imported here: `hone --help` and a mistyped command answer at once."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hone import __version__
from hone.errors import ConfigError, HoneError, Interrupted, disk_full, visible

KINDS = ("sft", "dpo", "rm", "grpo", "ppo", "distill", "eval")

ABOUT = {
    "sft": "supervised fine-tuning",
    "dpo": "learning from comparisons: DPO and its relatives",
    "rm": "reward models: scores learned from comparisons, or from numbers",
    "grpo": "reinforcement learning: GRPO and its relatives",
    "ppo": "reinforcement learning with a value model: PPO",
    "distill": "learning from a teacher's distribution, on the student's own answers or given ones",
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

RUNS = {
    **dict.fromkeys(("sft", "dpo", "rm"), "hone.supervised"),
    **dict.fromkeys(("grpo", "ppo", "distill"), "hone.online"),
    "eval": "hone.evaluation",
}
"""Module whose `main(loaded)` does the work."""

OVERRIDES = """\
overrides:
  key=value      set a setting:            policy.optimizer.kwargs.lr=1e-4
  +key=value     set one that is not in the file; ++key=value does either
  ~key           remove one
Without --config the embedded model and task are used. `hone config KIND` lists all settings.
"""


class Parser(argparse.ArgumentParser):
    """argparse that fails as everything else in Hone does: one message, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split("=")[0].split()
        if unknown and message.startswith("unrecognized"):
            near = difflib.get_close_matches(unknown[0], self._option_string_actions, n=1)
            message = f"unknown option {unknown[0]}" + (f": did you mean {near[0]}?" if near else "")
        raise ConfigError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, a HoneError's own, 130 after Ctrl-C.

    Expected failures print one line on stderr. Anything else is a defect of Hone and keeps its traceback.
    """
    return reported(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def reported(command: Callable[[], int]) -> int:
    """The exit code of a command, whose expected failures are printed."""
    try:
        return command()
    except Interrupted as stopped:  # what was asked for is no error
        sys.stdout.flush()
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except HoneError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # `hone config sft | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if (said := disk_full(error)) is None:
            raise
        return _fail(said, 1)


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {visible(message)}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"hone {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    commands: dict[str, Callable[[list[str]], int]] = {
        **{kind: partial(_run, kind) for kind in KINDS},
        "eval-rm": _eval_rm,
        "convert": _convert,
        "show": _show,
        "tune": _tune,
        "plan": _plan,
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
    lines = [f"  {name:<{width}}{about}" for name, about in ABOUT.items()]
    return "\n".join(
        [
            "usage: hone COMMAND [--config FILE] [key=value ...]",
            "",
            "Post-training for language models.",
            "",
            *lines,
            "",
            f"`hone COMMAND --help` tells more. Without arguments, {', '.join(KINDS[:-1])} and {KINDS[-1]}",
            "use the embedded model.",
        ]
    )


def _parser(name: str) -> Parser:
    return Parser(
        prog=f"hone {name}",
        description=ABOUT[name][0].upper() + ABOUT[name][1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _with_config(parser: Parser) -> Parser:
    parser.epilog = OVERRIDES
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    return parser


def _run(kind: str, argv: list[str]) -> int:
    parser = _with_config(_parser(kind))
    parser.add_argument("--dry-run", action="store_true", help=f"the same as hone plan {kind}")
    options = parser.parse_intermixed_args(argv)
    loaded = load(kind, options.config, options.overrides)
    start = importlib.import_module("hone.launch.start")
    start.log_as_asked(loaded)
    start.spare_the_hub(loaded)
    if options.dry_run:
        return _call("hone.launch.plan", kind, loaded)
    start.announce(kind, loaded)
    if kind != "eval" and loaded.config.cluster.several:
        from hone.launch.guard import guarded

        return guarded(loaded.config, lambda recovering: reported(partial(_work, kind, loaded, recovering)))
    return _work(kind, loaded)


def _work(kind: str, loaded: Any, recovering: bool = False) -> int:
    """What a command is for."""
    arguments = {"recovering": True} if recovering else {}
    result = importlib.import_module(RUNS[kind]).main(loaded, **arguments)
    if isinstance(result, dict) and "folder" in result:
        print(_ending(result))
    return 0


def _ending(summary: Mapping[str, Any]) -> str:
    if summary.get("message"):
        return str(summary["message"])
    why = f" ({summary['stopped']})" if summary.get("stopped") else ""
    return (
        f"{'stopped' if why else 'done'} at step {summary['step']}/{summary['total_steps']}{why} after "
        f"{summary['seconds']:.1f} s: metrics.csv, curves.png and checkpoints are in {summary['folder']}"
    )


def _plan(argv: list[str]) -> int:
    parser = _with_config(_parser("plan"))
    parser.usage = f"hone plan [{'|'.join(KINDS)}] [--gpu KIND] [--config FILE] [key=value ...]"
    parser.add_argument(
        "--gpu",
        metavar="KIND",
        help="plan for GPUs of this kind, here or not: A100-80G, H100-80G, ... or the GiB of one",
    )
    options = parser.parse_intermixed_args(argv)
    loaded = _of_some_kind(options.config, options.overrides)
    return _call("hone.launch.plan", loaded.kind, loaded, options.gpu)


def _of_some_kind(config: str | None, overrides: list[str]) -> Any:
    """Settings of the kind that the first word names, or else of the one that they are for. Raises ConfigError."""
    if overrides and overrides[0] in KINDS:
        kind, *overrides = overrides
    else:
        from hone.launch.kind import infer_kind

        kind = infer_kind(config, overrides)
    loaded = load(kind, config, overrides)
    importlib.import_module("hone.launch.start").spare_the_hub(loaded)
    return loaded


def load(kind: str, config: str | None, overrides: list[str]) -> Any:
    """`hone.config.load`, after a look at what is no override at all. Raises ConfigError."""
    for text in overrides:
        if "=" in text or text.startswith("~"):
            continue
        if text.endswith((".yaml", ".yml")):
            raise ConfigError(f"{text!r} is not an override: a file of settings is given as --config {text}")
        raise ConfigError(f"{text!r} is not an override: write key=value, +key=value, ++key=value or ~key")
    return importlib.import_module("hone.config").load(kind, config, overrides)


def _convert(argv: list[str]) -> int:
    parser = _parser("convert")
    parser.usage = (
        "hone convert [--adapter] RUN_OR_STEP_FOLDER OUT\n"
        "       hone convert [--adapter] --config FILE --dcp-ckpt-path FOLDER --hf-ckpt-path OUT"
    )
    parser.add_argument("folders", nargs="*", help="a run's folder (its newest step) or one step's; then OUT")
    parser.add_argument("--config", metavar="FILE", help="the step's config.yaml")
    parser.add_argument("--dcp-ckpt-path", metavar="FOLDER", help="the step's policy/weights")
    parser.add_argument("--hf-ckpt-path", metavar="OUT", help="folder to write")
    parser.add_argument("--adapter", action="store_true", help="write the adapter alone, as PEFT loads it")
    parser.add_argument("--dtype", default="float32", help="how to store the weights (default: float32)")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that the model's config names"
    )
    options = parser.parse_intermixed_args(argv)
    named = (options.config, options.dcp_ckpt_path, options.hf_ckpt_path)
    if not (all(named) and not options.folders) and not (len(options.folders) == 2 and not any(named)):
        parser.error("give either a folder and OUT, or all of --config, --dcp-ckpt-path and --hf-ckpt-path")
    export = importlib.import_module("hone.export")
    if all(named):
        config, weights, out = map(Path, named)
    else:
        out = Path(options.folders[1])
        config, weights = export.locate(Path(options.folders[0]))
    how = {name: getattr(options, name) for name in ("dtype", "adapter", "trust_remote_code")}
    print(f"wrote {export.convert(config, weights, out, **how)}")
    return 0


def _eval_rm(argv: list[str]) -> int:
    command: Callable[..., int] = importlib.import_module("hone.evaluation.reward_model").command
    return command(_parser("eval-rm"), argv)


def _tune(argv: list[str]) -> int:
    command: Callable[..., int] = importlib.import_module("hone.tune").command
    return command(_parser("tune"), argv)


def _show(argv: list[str]) -> int:
    if argv[:1] == ["data"]:
        look: Callable[..., int] = importlib.import_module("hone.seeing.data_command").command
        return look(_parser("show"), argv[1:], _of_some_kind)
    command: Callable[..., int] = importlib.import_module("hone.seeing.command").command
    return command(_parser("show"), argv)


def _doctor(argv: list[str]) -> int:
    _parser("doctor").parse_args(argv)
    return _call("hone.launch.doctor")


def _config(argv: list[str]) -> int:
    parser = _parser("config")
    parser.add_argument("kind", choices=KINDS, help="the command whose settings to list")
    parser.add_argument("key", nargs="?", help="one setting or section: policy.optimizer")
    options = parser.parse_args(argv)
    print(importlib.import_module("hone.config.explain").explained(options.kind, options.key))
    return 0


def _completion(argv: list[str]) -> int:
    return int(importlib.import_module("hone.completion").command(_parser("completion"), argv, ABOUT))


def _call(module: str, *arguments: Any) -> int:
    code = importlib.import_module(module).main(*arguments)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
