"""Evaluation by sampling: `num_tests_per_prompt` answers to every prompt, scored by the reward functions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.chat_template import end_notice
from hone.config import EvalConfig, Loaded
from hone.data import build_eval_prompts
from hone.data.endpoint_prompts import build_endpoint_prompts
from hone.endpoint_completion import length_of
from hone.engine.build import EvalGenerator, open_generator
from hone.engine.endpoint_generator import EndpointGenerator
from hone.engine.local.generator import LocalGenerator
from hone.engine.local.local_engine import tokenizer_of
from hone.engine.vllm.checks import check_evaluation
from hone.evaluation import own_metrics
from hone.evaluation.lm_eval_run import evaluate_lm_eval, task_manager
from hone.evaluation.metrics import answer_of, label_of, score
from hone.evaluation.suite_run import OPENING, SERVED_AT_ONCE, check_suites, evaluate_suites
from hone.export import with_models_of_runs
from hone.files import write_json
from hone.model.model_size import load_model_size
from hone.planning.placement import generator_of, placement_notices
from hone.rollout.environments.episode import EpisodeRunner
from hone.rollout.environments.episode_result import episode_metrics
from hone.rollout.rewards.reward_pool import RewardPool
from hone.rollout.sampler import open_episode_runner, sampling_from, score_episodes
from hone.rollout.scoring import check_answered, is_unanswered, open_reward_pool, score_completions
from hone.tracking import Activity, Progress, working, write_rollouts
from hone.training.process import check_could_write, check_writable, run_async
from hone.types import Group, Prompt, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main(loaded: Loaded) -> dict[str, Any]:
    """Evaluate as configured, print the report, and write it to `eval.save_path`."""
    loaded = with_models_of_runs(loaded)
    for notice in (*loaded.notices, *placement_notices(loaded.config)):
        print(notice, flush=True)
    if (
        loaded.config.eval.lm_eval
    ):  # it has no event loop of its own, and its model class starts one for each call
        return evaluate_lm_eval(loaded.config)
    report = run_async(evaluate(loaded.config))
    if loaded.config.eval.suite:
        return report
    print(
        f"{report['metric']} = {report['score']:.4f} on {report['prompts']} prompts x {report['tests_per_prompt']} "
        f"({report['failed']} failed, {report['truncated']} truncated), {report['seconds']:.1f} s"
    )
    for name, value in report.get("metrics", {}).items():
        print(f"{name} = {value:.4f}")
    return report


@dataclass
class Prepared:
    """What an evaluation needs besides its model."""

    tokenizer: PreTrainedTokenizerBase | None
    """None where an endpoint tokenizes."""
    prompts: list[Prompt]
    pool: RewardPool
    episodes: EpisodeRunner | None
    own: list[own_metrics.Metric]
    """The user's metrics."""
    notices: list[str]
    """About the chat template, and how it changes rows."""


@contextlib.asynccontextmanager
async def prepared(config: EvalConfig, *, load_models: bool = True) -> AsyncIterator[Prepared]:
    """Prepare everything but the model; `load_models`: reward models, too. Raises HoneError for what would stop the
    evaluation."""
    own = own_metrics.load(config.eval.metrics, "eval.metrics")
    if generator_of(config) == "openai":
        await EndpointGenerator(config).check()
    tokenizer = tokenizer_of(config) if config.generation.has_tokens else None
    pool = open_reward_pool(config.rewards, load_models=load_models)
    with contextlib.closing(Activity()) as activity:
        pool.start(activity.begin)
    opened = open_episode_runner(config, tokenizer) if tokenizer is not None else contextlib.nullcontext()
    with contextlib.closing(pool), opened as episodes:
        notices = [text] if tokenizer is not None and (text := end_notice(tokenizer)) else []
        if tokenizer is None:
            pool.check_no_tokens("generation.openai_cfg.api=tokens")
        data = build_eval_prompts(config, tokenizer) if tokenizer else build_endpoint_prompts(config)
        prompts = data.all_prompts(data.training_datasets)
        notices += [*data.dropped_notices(), *data.finding_log.unreported()]
        pool.check_columns(sorted({name for prompt in prompts for name in prompt.row}))
        own_metrics.check(own, [*FOUND, *prompts[0].row], "eval.metrics")
        yield Prepared(tokenizer, prompts, pool, episodes, own, notices)


def check(loaded: Loaded[EvalConfig]) -> None:
    """Raise HoneError for what would stop the evaluation before its first answer. Writes nothing."""
    config = loaded.config
    if config.eval.save_path:
        check_could_write(Path(config.eval.save_path), "eval.save_path")

    async def prepare() -> None:
        if config.eval.lm_eval:
            task_manager(config)
        elif config.eval.suite:
            await check_suites(config)
        else:
            async with prepared(config, load_models=False):
                pass
        if (kind := generator_of(config)) == "openai":
            return
        model = config.generation
        size = load_model_size(model.model_name, trust_remote_code=model.trust_remote_code)
        if kind == "vllm":
            check_evaluation(config, size)

    asyncio.run(prepare())


async def evaluate(config: EvalConfig) -> dict[str, Any]:
    """Evaluate; returns the report. Failed samples count as wrong answers; `failed` is their number."""
    if config.eval.suite:
        return await evaluate_suites(config)
    started = time.perf_counter()
    if config.eval.save_path:
        check_writable(Path(config.eval.save_path), "eval.save_path")
    async with prepared(config) as ready:
        episode_notices = ready.episodes.notices if ready.episodes is not None else []
        for notice in (*ready.pool.notes, *ready.notices, *episode_notices):
            print(notice, flush=True)
        with contextlib.ExitStack() as opened:
            with working(f"{OPENING[generator_of(config)]} {config.generation.model_name}"):
                generator = opened.enter_context(open_generator(config, ready.tokenizer))
            groups = await _sample_and_score(config, ready, generator)
    report = report_of(groups, config) | {"seconds": time.perf_counter() - started}
    if isinstance(generator, EndpointGenerator):
        report["endpoint"] = {"api": generator.settings.api, "models": sorted(generator.answered_by)}
    if ready.own:
        report["metrics"] = own_metrics.measure(ready.own, lists_of(groups, config.data.output_key))
    if config.eval.save_path:
        save(Path(config.eval.save_path), report, groups)
    return report


async def _sample_and_score(config: EvalConfig, ready: Prepared, generator: EvalGenerator) -> list[Group]:
    """Every prompt's group of scored answers, some prompts at a time."""
    groups: list[Group] = []
    prompts, episodes = ready.prompts, ready.episodes
    tests, sampling = config.eval.num_tests_per_prompt, sampling_from(config.generation, config.eval.seed)
    at_once = generator.at_once if isinstance(generator, LocalGenerator) else SERVED_AT_ONCE
    size = config.generation.num_prompts_per_step or max(1, at_once // tests)
    if episodes is not None:
        assert not isinstance(generator, EndpointGenerator)
        episodes.context = min(episodes.context, generator.context)
    with Progress(len(prompts), "eval", 0) as progress:
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            if episodes is not None:
                results = await episodes.run(chunk, generator, sampling, tests)
                new = await score_episodes(chunk, results, ready.pool, config.rewards)
            else:
                completions = await generator.generate(chunk, sampling, count=tests)
                check_answered(completions, config.rewards.max_failure_fraction)
                new = await score_completions(chunk, completions, ready.tokenizer, ready.pool)
            groups += new
            tokens = sum(length_of(rollout.completion) or 0 for group in new for rollout in group.rollouts)
            done = {"accuracy": score(groups, "pass@k", 1)}
            progress.update(start + len(chunk), done, tokens)
    return groups


def report_of(groups: Sequence[Group], config: EvalConfig) -> dict[str, Any]:
    """The numbers of an evaluation."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    k = config.eval.k_value
    return {
        "model": config.generation.model_name,
        "dataset": config.data.dataset_name,
        "metric": config.eval.metric.replace("@k", f"@{k}"),
        "score": score(groups, config.eval.metric, k),
        "prompts": len(groups),
        "tests_per_prompt": config.eval.num_tests_per_prompt,
        "failed": sum(rollout.failure is not None for rollout in rollouts),
        "truncated": sum(rollout.completion.finish == "length" for rollout in rollouts),
        "mean_completion_length": _mean_length(rollouts),
        **episode_metrics(rollouts),
    }


def _mean_length(rollouts: Sequence[Rollout]) -> float | None:
    """In tokens; None where an endpoint does not give them for every answer."""
    lengths = [length_of(r.completion) for r in rollouts if not is_unanswered(r.completion)]
    known = [length for length in lengths if length is not None]
    return sum(known) / len(known) if known and len(known) == len(lengths) else None


FOUND = ("predictions", "labels", "completions", "prompts", "rewards")
"""Arguments of a user's metric, besides columns of the data."""
LABELS = ("answer", "label", "labels", "target", "solution", "output")
"""Columns that may hold the right answer, if `data.output_key` is not set."""


def lists_of(groups: Sequence[Group], output_key: str | None) -> dict[str, list[Any]]:
    """A list for each name in FOUND and each column, an item for each sample. `predictions` and `labels` are in one
    form: numbers as numbers, other answers in lower case with single spaces, None without one."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rows = [rollout.prompt.row for rollout in rollouts]
    label = output_key or next((name for name in LABELS if name in rows[0]), "")
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    return columns | {
        "predictions": [answer_of(rollout.text) for rollout in rollouts],
        "labels": [label_of(row.get(label)) for row in rows],
        "completions": [rollout.text for rollout in rollouts],
        "prompts": [rollout.prompt.content for rollout in rollouts],
        "rewards": [next(iter(rollout.rewards.values()), None) for rollout in rollouts],
    }


def save(path: Path, report: dict[str, Any], groups: Sequence[Group]) -> None:
    """`report.json` and every sample in `samples.jsonl`."""
    path.mkdir(parents=True, exist_ok=True)
    write_rollouts(path / "samples.jsonl", 0, groups)
    write_json(path / "report.json", report)
