"""`hone eval lm_eval=TASK`: tasks of lm-evaluation-harness, answered by Hone's generator and learner.

The harness writes the prompts and computes its own metrics; the results have the form of a suite's, so that `hone show`
and `hone eval compare` read them. It is the extra `eval`.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hone.config import EvalConfig
from hone.engine.build import open_generator
from hone.engine.local.local_engine import tokenizer_of
from hone.errors import ConfigError, DataError
from hone.files import write_json
from hone.lazy import lazy
from hone.planning.placement import generator_of
from hone.tracking import working, write_rollouts
from hone.training.process import check_writable
from hone.types import Completion, Group, Prompt, Rollout


def task_manager(config: EvalConfig) -> Any:
    """The harness's index of tasks. Raises ConfigError without the package, and for a task that it does not have, with
    the nearest."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        manager = lazy("lm_eval.tasks:TaskManager")(include_path=config.eval.lm_eval_path)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"eval.lm_eval needs lm-evaluation-harness ({error}): pip install 'hone[eval]'"
        ) from error
    for name in config.eval.lm_eval:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(
                f"eval.lm_eval: lm-evaluation-harness has no task '{name}'{hint} Tasks of your own are in "
                "eval.lm_eval_path"
            )
    return manager


def evaluate_lm_eval(config: EvalConfig) -> dict[str, Any]:
    """Evaluate, write the results as suites do, and return the summary. Raises HoneError."""
    if generator_of(config) == "openai":
        raise ConfigError(
            "eval.lm_eval needs the model's tokens, which an endpoint does not give: lm-eval has models for endpoints "
            "itself (--model local-completions)"
        )
    folder = Path(config.eval.save_path or Path("results/eval") / Path(config.generation.model_name).name)
    check_writable(folder, "eval.save_path")
    manager = task_manager(config)
    tokenizer = tokenizer_of(config)
    with working(f"loading {config.generation.model_name}"):
        opened = open_generator(config, tokenizer)
    with opened as generator:
        model = lazy("hone.evaluation.lm_eval_model:HoneLM").of(config, tokenizer, generator)
        results = _evaluated(config, model, manager)
    reports = {}
    for name, records in results["samples"].items():
        groups = [_group(name, record) for record in records]
        reports[name] = _report(config, name, results, groups)
        (folder / name).mkdir(exist_ok=True)
        write_rollouts(folder / name / "samples.jsonl", 0, groups)
        write_json(folder / name / "report.json", reports[name])
        print(_line(reports[name]), flush=True)
    summary = {
        "model": config.generation.model_name,
        "dataset": ", ".join(reports),
        "prompts": sum(report["prompts"] for report in reports.values()),
        "tests_per_prompt": 1,
        "seed": config.eval.seed,
        "suites": reports,
        "groups": {name: _numbers(found) for name, found in results.get("groups", {}).items()},
    }
    write_json(folder / "report.json", summary)
    return summary


def _evaluated(config: EvalConfig, model: Any, manager: Any) -> Mapping[str, Any]:
    settings = config.eval
    try:
        return lazy("lm_eval:simple_evaluate")(
            model=model,
            tasks=settings.lm_eval,
            num_fewshot=settings.num_fewshot,
            limit=config.data.limit,
            apply_chat_template=bool(settings.apply_chat_template),
            task_manager=manager,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
            bootstrap_iters=0,
            confirm_run_unsafe_code=False,
        )
    except (FileNotFoundError, ConnectionError, ValueError, OSError) as error:
        raise DataError(f"eval.lm_eval={','.join(settings.lm_eval)}: {error}") from error


def _group(task: str, record: Mapping[str, Any]) -> Group:
    """A record of the harness as a group of one rollout: the prompt, the answers (of log-likelihood tasks those of each
    choice), and its metrics as rewards."""
    arguments = [list(one) for one in _values(record["arguments"])]
    answers = record["filtered_resps"]
    metrics = {
        name: float(record[name]) for name in record["metrics"] if isinstance(record.get(name), int | float)
    }
    prompt = Prompt(
        f"{task}:{record['doc_id']}", (), str(_values(arguments[0])[0]), {"answer": record["target"]}, task
    )
    text = answers[0] if len(answers) == 1 and isinstance(answers[0], str) else ""
    rollout = Rollout(prompt, Completion.of_version((), (), "stop", 0), text, rewards=dict(metrics))
    rollout.reward = next(iter(metrics.values()), None)
    rollout.extra = {"filter": record.get("filter"), "extracted": answers}
    return Group(prompt.id, [rollout])


def _values(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, Mapping) else list(given)


def _report(
    config: EvalConfig, name: str, results: Mapping[str, Any], groups: Sequence[Group]
) -> dict[str, Any]:
    numbers = _numbers(results["results"][name])
    metric = next((key for group in groups for key in group.rollouts[0].rewards), "")
    return {
        "model": config.generation.model_name,
        "suite": name,
        "version": results["versions"].get(name),
        "dataset": name,
        "metric": metric,
        "score": next((value for key, value in numbers.items() if key.split(",")[0] == metric), None),
        "prompts": len({group.id for group in groups}),
        "tests_per_prompt": 1,
        "lm_eval": numbers,
        "num_fewshot": results.get("n-shot", {}).get(name),
        "seed": config.eval.seed,
    }


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}


def _line(report: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name} = {value:.4f}" for name, value in report["lm_eval"].items())
    return (
        f"{report['suite']} (lm-eval, version {report['version']}): {numbers}; {report['prompts']} problems"
    )
