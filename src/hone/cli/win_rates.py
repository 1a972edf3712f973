"""`hone eval compare … --judge URL` and `--reward_model MODEL`: which answers are preferred."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hone.errors import ConfigError
from hone.evaluation import pairwise_judge
from hone.evaluation.comparison import Scores
from hone.evaluation.pairwise_judge import Pair, Verdict
from hone.evaluation.win_rate import win_rate
from hone.files import write_atomically
from hone.lazy import lazy
from hone.report.formatting import clean
from hone.report.terminal import plain_table

Ask = Callable[[Sequence[Pair]], list[Verdict]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose a judge."""
    given = parser.add_argument
    given("--judge", metavar="URL", help="endpoint of a judge, which compares answers in both orders")
    given("--judge_model", "--judge-model", metavar="NAME", help="the judge's model")
    given("--judge_key_env", "--judge-key-env", metavar="NAME", help="environment variable with its key")
    about = "file with the judge's prompt: {prompt}, {first}, {second}; its reply ends in `Verdict: 1|2|tie`"
    given("--judge_template", "--judge-template", metavar="FILE", help=about)
    given("--reward_model", "--reward-model", metavar="MODEL", help="a reward model that compares answers")


def asker(options: argparse.Namespace) -> Ask | None:
    """Asks the judge or the reward model of the options; None without one. Raises ConfigError."""
    if options.reward_model is not None:
        if options.judge is not None:
            raise ConfigError("--judge and --reward_model: give one of them")
        model = lazy("hone.rollout.rewards.reward_model:RewardModel")(options.reward_model)
        return lambda pairs: pairwise_judge.ask_reward_model(pairs, model)
    if options.judge is None:
        return None
    if options.judge_model is None or not options.judge.startswith(("http://", "https://")):
        raise ConfigError(
            "--judge takes the URL of an endpoint (http://host:8000/v1), and --judge_model its model"
        )
    key = options.judge_key_env
    if key is not None and not os.environ.get(key):
        raise ConfigError(f"--judge_key_env {key}: there is no environment variable of this name")
    template = pairwise_judge.TEMPLATE
    if options.judge_template is not None:
        try:
            template = Path(options.judge_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--judge_template {options.judge_template}: {error}") from error
    endpoint = lazy("hone.endpoint:Endpoint")(options.judge, name="judge", api_key_env=key)
    return lambda pairs: pairwise_judge.ask_judge(pairs, endpoint, options.judge_model, template)


def report(
    console: Console, ask: Ask, results: Mapping[str, Mapping[str, Scores]], out: Path
) -> list[dict[str, Any]]:
    """Print the win rates against the first model; write every verdict to `verdicts_SUITE_MODEL.jsonl`. Returns the
    numbers for JSON."""
    (baseline, before), *others = results.items()
    table = plain_table(
        "model", "suite", ">pairs", ">win rate", ">at equal length", ">ties", ">by position", ">failed"
    )
    found = []
    for name, after in others:
        for suite in (suite for suite in before if suite in after):
            pairs = _pairs(before[suite], after[suite])
            verdicts = ask(pairs)
            lines = [pairwise_judge.as_record(*one) for one in zip(pairs, verdicts, strict=True)]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            file = out / f"verdicts_{suite}_{name}.jsonl".replace("/", "_")
            write_atomically(file, text.encode("utf-8", "replace"))
            lengths = [(len(pair.a), len(pair.b)) for pair in pairs]
            rate = win_rate([v.preference for v in verdicts], lengths, sum(v.inconsistent for v in verdicts))
            interval = f"{rate.rate.mean:.1%} [{rate.rate.low:.1%}, {rate.rate.high:.1%}]"
            cells = (interval, f"{rate.length_controlled:.1%}", rate.ties, rate.inconsistent, rate.failed)
            table.add_row(clean(name), clean(suite), str(rate.rate.problems), *map(str, cells))
            found.append({"model": name, "suite": suite, "file": str(file), **rate.as_dict()})
    console.print(f"\npreferred to {clean(baseline)}", style="bold")
    console.print(table)
    return found


def _pairs(a: Scores, b: Scores) -> list[Pair]:
    return [
        Pair(key, prompt, text, b.answers[key][1])
        for key, (prompt, text) in a.answers.items()
        if key in b.answers
    ]
