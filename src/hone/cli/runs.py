"""Commands that run or plan a configuration: one for each algorithm, `hone eval`, `hone plan`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hone.cli.arguments import RUN_COMMANDS, parser_of, with_config
from hone.cli.failures import reported
from hone.errors import ConfigError
from hone.lazy import lazy
from hone.registry import main_of


def run(algorithm: str, argv: list[str]) -> int:
    """`hone ALGORITHM` and `hone eval`; on several devices in a child process, which is restarted if Ray ends it."""
    parser = with_config(parser_of(algorithm))
    parser.add_argument("--dry-run", action="store_true", help=f"the same as hone plan {algorithm}")
    options = parser.parse_intermixed_args(argv)
    loaded = _load(algorithm, options.config, options.overrides)
    if options.dry_run:
        return _planned(algorithm, loaded)
    lazy("hone.training.startup:announce")(algorithm, loaded)
    if algorithm != "eval" and loaded.config.cluster.is_distributed:
        from hone.training.child_run import run_in_child

        def work(recovering: bool) -> int:
            return reported(partial(_work, algorithm, loaded, recovering))

        return run_in_child(loaded.config, work)
    return _work(algorithm, loaded)


def _work(algorithm: str, loaded: Any, recovering: bool = False) -> int:
    """Run the command's function and print how it ended."""
    arguments = {"recovering": True} if recovering else {}
    result = lazy(main_of(algorithm))(loaded, **arguments)
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


def plan(argv: list[str]) -> int:
    """`hone plan`."""
    parser = with_config(parser_of("plan"))
    parser.usage = f"hone plan [{'|'.join(RUN_COMMANDS)}] [--gpu KIND] [--config FILE] [key=value ...]"
    about = "plan for GPUs of this kind: A100-80G, H100-80G, ... or the GiB of one; they need not be here"
    parser.add_argument("--gpu", metavar="KIND", help=about)
    options = parser.parse_intermixed_args(argv)
    loaded = load_any(options.config, options.overrides)
    return _planned(loaded.algorithm, loaded, options.gpu)


def _planned(algorithm: str, *arguments: Any) -> int:
    return int(lazy("hone.cli.plan:main")(algorithm, *arguments))


def load_any(config: str | None, overrides: list[str]) -> Any:
    """Settings of the command that the first word names, or else of the one inferred from them. Raises ConfigError."""
    if overrides and overrides[0] in RUN_COMMANDS:
        algorithm, *overrides = overrides
    else:
        from hone.config.infer_algorithm import infer_algorithm

        algorithm = infer_algorithm(config, overrides)
    return _load(algorithm, config, overrides)


def _load(algorithm: str, config: str | None, overrides: list[str]) -> Any:
    """`hone.config.load`, and the process's settings that must precede heavy imports. Raises ConfigError, also for a
    word that is not an override."""
    for text in overrides:
        if "=" in text or text.startswith("~"):
            continue
        if text.endswith((".yaml", ".yml")):
            raise ConfigError(f"{text!r} is not an override: a file of settings is given as --config {text}")
        raise ConfigError(f"{text!r} is not an override: write key=value, +key=value, ++key=value or ~key")
    loaded = lazy("hone.config:load")(algorithm, config, overrides)
    start = lazy("hone.training.startup")
    start.log_as_asked(loaded)
    start.enable_offline_if_hub_unreachable(loaded)
    return loaded
