"""`hone eval suite=…`: evaluates a model on suites, one after the other.

All suites are read and checked before the model is loaded. Each gets a folder with every sample (`samples.jsonl`) and
its numbers (`report.json`); the folder above has the summary.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hone.config import EvalConfig
from hone.config.schema.data import DatasetEntry
from hone.data.chat import Encoder
from hone.data.sources import load_rows
from hone.endpoint_completion import length_of
from hone.engine.build import EvalGenerator, as_scorer, open_generator
from hone.engine.endpoint_generator import EndpointGenerator
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.local_engine import tokenizer_of
from hone.errors import ConfigError, DataError
from hone.evaluation.choices import PROBLEMS_AT_ONCE, ChoiceProblem, choice_problems, score_choices
from hone.evaluation.contamination import find_contamination
from hone.evaluation.graders import grade, open_graders
from hone.evaluation.statistics import estimate
from hone.evaluation.suite import Suite, load_suite
from hone.evaluation.suite_data import Examples, load_problems, texts_of
from hone.evaluation.suite_prompts import PromptWriter, check_lengths, uses_chat
from hone.evaluation.suite_report import report_line, suite_report
from hone.files import write_json
from hone.planning.placement import generator_of
from hone.rollout.sampler import sampling_from
from hone.rollout.scoring import check_answered, score_completions
from hone.tracking import Progress, working, write_rollouts
from hone.training.process import check_writable
from hone.types import Group, LogprobModel, Prompt, Sampling

OPENING = {"builtin": "loading", "vllm": "starting vLLM with", "openai": "asking the endpoint for"}
"""What the progress line says before the first answer, by generator."""
ENDPOINT_STOPS = 4
"""Stop texts that OpenAI's API takes. Answers are cut at the others, too, before they are graded."""
SERVED_AT_ONCE = 512
"""Answers that a server is asked for at once; it makes batches of them itself."""


@dataclass
class SuiteTask:
    """A suite with its problems for one model."""

    suite: Suite
    chat: bool
    num_fewshot: int
    prompts: list[Prompt]
    choices: list[ChoiceProblem]
    """Of a log-likelihood suite; of the same problems as `prompts`."""
    left_out: int
    contaminated: dict[str, str] | None
    """Ids of problems that are in `eval.contamination_data`, with the n-gram that was found; None without that."""
    ngram: int = 0

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return () if self.chat else self.suite.stop

    def sampling(self, config: EvalConfig) -> Sampling:
        """The configured sampling, with the suite's own limits for plain prompts."""
        sampling = sampling_from(config.generation, config.eval.seed)
        if self.chat:
            return sampling
        longest = min(self.suite.max_new_tokens or sampling.max_new_tokens, sampling.max_new_tokens)
        stop = (*sampling.stop_strings, *self.stop)
        stop = stop[:ENDPOINT_STOPS] if generator_of(config) == "openai" else stop
        return replace(sampling, max_new_tokens=longest, stop_strings=stop)


async def check_suites(config: EvalConfig) -> None:
    """Raise HoneError for what would stop the evaluation before its model is loaded."""
    if generator_of(config) == "openai":
        await EndpointGenerator(config).check()
    prepare_suites(config)


def prepare_suites(config: EvalConfig) -> tuple[Any, list[SuiteTask]]:
    """The tokenizer (None where an endpoint tokenizes), and every suite's problems. Raises HoneError for what would
    stop the evaluation."""
    tokenizer = tokenizer_of(config) if config.generation.has_tokens else None
    kwargs = config.tokenizer.chat_template_kwargs or {}
    encoder = Encoder(tokenizer, add_bos=config.data.add_bos, template_kwargs=kwargs) if tokenizer else None
    return tokenizer, [_prepare(config, load_suite(name), encoder) for name in config.eval.suite]


def _prepare(config: EvalConfig, suite: Suite, encoder: Encoder | None) -> SuiteTask:
    settings, path = config.eval, config.eval.suite_data.get(suite.name)
    if suite.kind == "loglikelihood" and generator_of(config) == "openai":
        raise ConfigError(
            f"suite {suite.name} compares log-likelihoods, which an endpoint does not give: leave it out, or evaluate "
            "the model itself (generation.model_name)"
        )
    rows = load_problems(suite, path, config.data.limit)
    if encoder is not None:
        chat = uses_chat(suite, encoder, settings.apply_chat_template, config.generation.model_name)
    else:
        chat = config.generation.openai_cfg.api == "chat"
    default = suite.fewshot.count if suite.fewshot is not None and not chat else 0
    count = default if settings.num_fewshot is None else settings.num_fewshot
    writer = PromptWriter(suite, encoder, chat, Examples(suite, path, count))
    choices = choice_problems(writer, rows) if suite.kind == "loglikelihood" else []
    every = [problem.prompt for problem in choices] or writer.prompts(rows)
    longest = config.generation.max_model_len - (not choices)
    drop = config.data.overlong_prompts == "drop"
    prompts, left_out = check_lengths(suite, every, longest, drop=drop)
    kept = {prompt.id for prompt in prompts}
    task = SuiteTask(
        suite, chat, count, prompts, [one for one in choices if one.prompt.id in kept], left_out, None
    )
    if settings.contamination_data is not None:
        _check_contamination(task, settings.contamination_data)
    return task


def _check_contamination(task: SuiteTask, dataset: str) -> None:
    problems = [
        "\n".join(text for name in task.suite.data.problem for text in texts_of(prompt.row.get(name)))
        for prompt in task.prompts
    ]
    try:
        training = load_rows(DatasetEntry.model_validate({"dataset_name": dataset}), role="train")
    except DataError as error:
        raise DataError(f"eval.contamination_data={dataset}: {error}") from error
    result = find_contamination(problems, ("\n".join(texts_of(row)) for row in training))
    task.ngram = result.ngram
    task.contaminated = {task.prompts[i].id: gram for i, gram in result.found.items()}


async def evaluate_suites(config: EvalConfig) -> dict[str, Any]:
    """Evaluate, write the results, and return the summary: `suites` has each suite's report."""
    folder = Path(config.eval.save_path or Path("results/eval") / Path(config.generation.model_name).name)
    check_writable(folder, "eval.save_path")
    if generator_of(config) == "openai":
        await EndpointGenerator(config).check()
    tokenizer, tasks = prepare_suites(config)
    reports: dict[str, Any] = {}
    with contextlib.ExitStack() as opened:
        if all(task.choices for task in tasks):  # log-likelihoods need no server
            config = config.model_copy(deep=True)
            config.generation.backend = "builtin"
        with working(f"{OPENING[generator_of(config)]} {config.generation.model_name}"):
            generator = opened.enter_context(open_generator(config, tokenizer))
        for task in tasks:
            started = time.perf_counter()
            groups = await _run(config, task, tokenizer, generator)
            report = _finished(config, task, groups) | {"seconds": round(time.perf_counter() - started, 2)}
            reports[task.suite.name] = report
            path = folder / task.suite.name
            path.mkdir(exist_ok=True)
            write_rollouts(path / "samples.jsonl", 0, groups)
            write_json(path / "report.json", report)
            print(report_line(report), flush=True)
    summary = _summary(config, reports)
    if isinstance(generator, EndpointGenerator):
        summary["endpoint"] = {"api": generator.settings.api, "models": sorted(generator.answered_by)}
    write_json(folder / "report.json", summary)
    print(f"every answer is in {folder}: hone show {folder / next(iter(reports))}")
    return summary


def _summary(config: EvalConfig, reports: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": config.generation.model_name,
        "dataset": ", ".join(reports),
        "prompts": sum(report["prompts"] for report in reports.values()),
        "tests_per_prompt": config.eval.num_tests_per_prompt,
        "seed": config.eval.seed,
        "failed": sum(report["failed"] for report in reports.values()),
        "truncated": sum(report["truncated"] for report in reports.values()),
        **{name: report["score"] for name, report in reports.items()},
        "suites": reports,
    }


async def _run(config: EvalConfig, task: SuiteTask, tokenizer: Any, generator: EvalGenerator) -> list[Group]:
    if task.choices:
        return await _score(config, task, as_scorer(config, tokenizer, generator))
    return await _sample(config, task, tokenizer, generator)


async def _score(config: EvalConfig, task: SuiteTask, model: LogprobModel) -> list[Group]:
    groups: list[Group] = []
    with Progress(len(task.choices), "eval", 0) as progress:
        for start in range(0, len(task.choices), PROBLEMS_AT_ONCE):
            new = await score_choices(task.choices[start : start + PROBLEMS_AT_ONCE], model)
            for rollout in (rollout for group in new for rollout in group.rollouts):
                rollout.reward, rollout.judge = rollout.rewards[task.suite.metric], task.suite.metric
            groups += new
            tokens = sum(len(group.rollouts[0].prompt.tokens) for group in new)
            progress.update(len(groups), {"accuracy": _mean(groups)}, tokens)
    return groups


async def _sample(
    config: EvalConfig, task: SuiteTask, tokenizer: Any, generator: EvalGenerator
) -> list[Group]:
    tests, sampling = config.eval.num_tests_per_prompt, task.sampling(config)
    at_once = generator.at_once if isinstance(generator, LocalGenerator) else SERVED_AT_ONCE
    size = config.generation.num_prompts_per_step or max(1, at_once // tests)
    groups: list[Group] = []
    pool = open_graders(task.suite, config.rewards)
    with contextlib.ExitStack() as opened, Progress(len(task.prompts), "eval", 0) as progress:
        if pool is not None:
            opened.enter_context(contextlib.closing(pool.start()))
        for start in range(0, len(task.prompts), size):
            chunk = task.prompts[start : start + size]
            completions = await generator.generate(chunk, sampling, count=tests)
            check_answered(completions, config.rewards.max_failure_fraction)
            new = await score_completions(chunk, completions, tokenizer, None)
            rollouts = [rollout for group in new for rollout in group.rollouts]
            await grade(task.suite, rollouts, pool, task.stop)
            groups += new
            tokens = sum(length_of(rollout.completion) or 0 for rollout in rollouts)
            progress.update(len(groups), {"accuracy": _mean(groups)}, tokens)
    return groups


def _mean(groups: Sequence[Group]) -> float:
    rewards = [rollout.reward or 0.0 for group in groups for rollout in group.rollouts]
    return sum(rewards) / len(rewards)


def _finished(config: EvalConfig, task: SuiteTask, groups: Sequence[Group]) -> dict[str, Any]:
    """The suite's report, with the settings that decided it and the result of the contamination check."""
    report = {"model": config.generation.model_name} | suite_report(task.suite, groups, config.eval.k_value)
    report |= {
        "num_fewshot": task.num_fewshot,
        "chat_template": task.chat,
        "left_out": task.left_out,
        "seed": config.eval.seed,
        "temperature": config.generation.temperature,
        "backend": "builtin" if task.choices else generator_of(config),
    }
    if task.contaminated is not None:
        clean = [group for group in groups if group.id not in task.contaminated]
        scores = [[rollout.reward or 0.0 for rollout in group.rollouts] for group in clean]
        report["contamination"] = {
            "data": config.eval.contamination_data,
            "ngram": task.ngram,
            "contaminated": len(task.contaminated),
            "problems": task.contaminated,
            "clean_score": estimate(scores).mean if clean else None,
        }
    return report
