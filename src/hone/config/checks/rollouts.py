"""Settings of rollouts and evaluations that cannot work together: sizes, sampling, environments, rewards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from hone.config import dialects
from hone.config.checks.models import not_a_multiple
from hone.config.checks.run import validates
from hone.config.schema import EnvironmentConfig, EvalConfig, OnlineConfig, RLConfig
from hone.config.schema.model import SamplingConfig
from hone.config.schema.roots import own_section
from hone.config.suite_names import unknown_suite


def environment_names(config: OnlineConfig | EvalConfig) -> list[str]:
    """All `env_name` values of the data."""
    if isinstance(config, EvalConfig):
        return [config.data.env_name] if config.data.env_name is not None else []
    entries = [*(config.data.train or []), *(config.data.validation or [])]
    return sorted({entry.env_name for entry in entries if entry.env_name is not None})


def lacks_rewards(config: OnlineConfig | EvalConfig) -> bool:
    """Whether no reward function scores completions and no environment could."""
    names = set(environment_names(config))
    return not config.rewards.functions and names <= dialects.reward_environments().keys()


def validation_needs_rewards(config: OnlineConfig) -> Iterator[str]:
    """Validation without anything that scores completions."""
    if validates(config) and lacks_rewards(config):
        yield (
            "rewards.functions is empty, so validation cannot score completions: list functions, such as "
            "rewards.functions='[{name: math}]', or set data.validation to null"
        )


def environments(config: OnlineConfig | EvalConfig) -> Iterator[str]:
    """Environments that the data name but `env` does not have, and settings of turns."""
    known = config.env.named if isinstance(config, RLConfig | EvalConfig) else {}
    for name in environment_names(config):
        if name not in dialects.reward_environments() and name not in known:
            there = f"; there are {', '.join(known)}" if known else ""
            yield (
                f"env_name={name}: no environment is defined by env.{name}.path or env.{name}.tools{there}. To score "
                "completions without an environment, use rewards.functions"
            )
    if isinstance(config, RLConfig | EvalConfig):
        yield from _turns(config)


def _turns(config: RLConfig | EvalConfig) -> Iterator[str]:
    key, env = f"{own_section(config)}.max_rollout_turns", config.env
    count = (config.eval if isinstance(config, EvalConfig) else config.algorithm).max_rollout_turns
    if count > 1 and not (env.is_configured or env.named):
        yield (
            f"{key}={count} needs an environment that answers between turns: give env.tools or env.path, or set it to 1"
        )
    if env.is_configured and count == 1:
        yield (
            f"{key}=1 leaves the environment no turn to answer: set it to the number of turns of the model, such as 4"
        )
    yield from _environment("env", env, named=False)
    for name, entry in env.named.items():
        yield from _environment(f"env.{name}", entry, named=True)


def _environment(key: str, config: EnvironmentConfig, *, named: bool) -> Iterator[str]:
    if named and not (config.path or config.tools):
        yield f"{key} is no environment: give {key}.path or {key}.tools"
    if (config.action is None) != (config.observation is None):
        yield f"{key}.action and {key}.observation go together: both are for a client of OpenEnv"
    elif config.action is not None and config.path is None:
        yield f"{key}.action is for a client of OpenEnv: name it in {key}.path"


def rollouts(config: OnlineConfig) -> Iterator[str]:
    """Sizes, turns and the stopping threshold."""
    settings, policy, section = config.algorithm, config.policy, own_section(config)
    rollout = settings.num_prompts_per_step * settings.samples_per_prompt
    if rollout % policy.train_global_batch_size and settings.trains_on_pairs:
        yield not_a_multiple(
            f"{section}.num_prompts_per_step",
            rollout,
            "policy.train_global_batch_size",
            policy.train_global_batch_size,
        )
    elif rollout % policy.train_global_batch_size:
        yield (
            f"{section}.num_prompts_per_step={settings.num_prompts_per_step} × {section}.num_generations_per_prompt="
            f"{settings.num_generations_per_prompt} = {rollout} completions cannot be divided into optimizer steps of "
            f"policy.train_global_batch_size={policy.train_global_batch_size}: set it to {rollout} or a divisor of it"
        )
    if settings.max_rollout_turns != 1 and not isinstance(config, RLConfig):
        yield f"{section}.max_rollout_turns={settings.max_rollout_turns}: there are no environments here; set it to 1"
    metric, threshold = f"{section}.stop_at_validation_metric", f"{section}.stop_at_validation_threshold"
    if (settings.stop_at_validation_metric is None) != (settings.stop_at_validation_threshold is None):
        yield f"{metric} and {threshold} go together: set both"
    elif settings.stop_at_validation_metric is not None and not validates(config):
        yield (
            f"{metric}={settings.stop_at_validation_metric} needs validation, but there is none: give "
            f"data.validation.dataset_name and {section}.val_period"
        )


def generators(config: OnlineConfig) -> Iterator[str]:
    """Devices of generators in a group of their own, out of those of several."""
    generation, cluster = config.policy.generation, config.cluster
    colocated, elsewhere = (
        generation.colocated,
        generation.backend == "vllm" and generation.vllm_cfg.server_urls,
    )
    if colocated.enabled or elsewhere or not cluster.is_distributed:
        return
    head, per_node = "policy.generation.colocated", cluster.cpu_workers_per_node or cluster.gpus_per_node
    kind = "cpu_workers_per_node" if cluster.cpu_workers_per_node else "gpus_per_node"
    for key, wanted, there, total in (
        ("num_nodes", colocated.resources.num_nodes, cluster.num_nodes, "num_nodes"),
        ("gpus_per_node", colocated.resources.gpus_per_node, per_node, kind),
    ):
        divided = (key == "num_nodes") == (cluster.num_nodes > 1)
        if divided and (wanted is None or wanted >= there):
            yield (
                f"{head}.enabled=false and cluster.{total}={there}: set {head}.resources.{key} to how many of them "
                f"generate, fewer than all (it is {'null' if wanted is None else wanted})"
            )
        elif not divided and wanted not in (None, there):
            yield f"{head}.resources.{key}={wanted}: set it to null, which is all {there} of cluster.{total}"


def vllm(config: OnlineConfig) -> Iterator[str]:
    """What vLLM cannot do."""
    generation = config.policy.generation
    if generation.backend == "vllm" and generation.vllm_cfg.sleep_level == 2:
        yield (
            "policy.generation.vllm_cfg.sleep_level=2: after it vLLM computes with wrong weights. Set it to 1, which "
            "keeps the weights in host memory, or to 0"
        )


def asynchronous(config: RLConfig) -> Iterator[str]:
    """Rollouts that are sampled while the learner trains."""
    section, settings = own_section(config), config.algorithm
    key = f"{section}.async_rollouts"
    if settings.async_rollouts is None:
        return
    if config.policy.generation.colocated.enabled:
        yield (
            f"{key}={settings.async_rollouts}: the learner's processes cannot sample while they train. Set "
            "policy.generation.colocated.enabled to false"
        )
    if settings.async_rollouts == "stream" and settings.max_staleness < 1:
        yield (
            f"{key}=stream and {section}.max_staleness=0: while a step trains, its weights become old. Set "
            f"{section}.max_staleness to 1 or more, or {key} to null, which samples by the newest weights alone"
        )


def rewards(config: RLConfig) -> Iterator[str]:
    """Rewards that are trained on."""
    settings, policy, section = config.algorithm, config.policy, own_section(config)
    scale, shape = settings.reward_scaling, settings.reward_shaping
    if scale.enabled and scale.source_min >= scale.source_max:
        yield (
            f"{section}.reward_scaling.source_min={scale.source_min} is not below "
            f"{section}.reward_scaling.source_max={scale.source_max}"
        )
    yield from _dynamic_sampling(config)
    if shape.enabled and shape.overlong_buffer_length > shape.max_response_length:
        yield (
            f"{section}.reward_shaping.overlong_buffer_length={shape.overlong_buffer_length} is more than "
            f"{section}.reward_shaping.max_response_length={shape.max_response_length}: lower it"
        )
    yield from _function_scopes(config)
    rewarded = config.env.path or any(entry.path for entry in config.env.named.values())
    if not rewarded and lacks_rewards(config):
        yield (
            "rewards.functions is empty, so completions get no reward: list functions, such as "
            "rewards.functions='[{name: math}]'"
        )
    if policy.generation.temperature == 0:
        yield (
            "policy.generation.temperature=0 makes all completions of a group equal, so there is nothing to learn "
            "from: set it to 1.0 (policy.generation.val_temperature=0 is for validation)"
        )
    if policy.generation.repetition_penalty != 1:
        yield (
            f"policy.generation.repetition_penalty={policy.generation.repetition_penalty:g} samples from another "
            "distribution than the learner's, so the gradient would be wrong: set it to 1.0 "
            "(policy.generation.val_repetition_penalty is for validation)"
        )


def _dynamic_sampling(config: RLConfig) -> Iterator[str]:
    """What dynamic sampling needs, and what needs dynamic sampling."""
    settings, section = config.algorithm, own_section(config)
    if settings.use_dynamic_sampling and settings.num_generations_per_prompt == 1:
        yield (
            f"{section}.use_dynamic_sampling=true drops groups whose rewards are equal, but each group is one "
            f"completion: set {section}.num_generations_per_prompt to 2 or more"
        )
    if settings.batch_multiplier != 1 and not settings.use_dynamic_sampling:
        yield (
            f"{section}.batch_multiplier={settings.batch_multiplier:g} is for dynamic sampling: set it to 1, or "
            f"{section}.use_dynamic_sampling to true"
        )


def _function_scopes(config: RLConfig) -> Iterator[str]:
    """Reward functions that would never be called: they are for datasets or environments that the data do not have."""
    entries = [*(config.data.train or []), *(config.data.validation or [])]
    names = {entry.dataset_name for entry in entries if entry.dataset_name is not None}
    files = {PurePath(name) for name in names if PurePath(name).suffix or name.startswith("/")}
    datasets = names | {path.name.split(".")[0] for path in files}
    for number, function in enumerate(config.rewards.functions):
        for key, given, known in (
            ("datasets", function.datasets, sorted(datasets)),
            ("envs", function.envs, environment_names(config)),
        ):
            for name in given or ():
                if name not in known:
                    yield (
                        f"rewards.functions.{number}.{key} names '{name}', which the data does not have; it has "
                        f"{', '.join(known) or 'none'}"
                    )


def policy_sampling(config: OnlineConfig) -> Iterator[str]:
    """How completions are sampled in training."""
    policy = config.policy
    length = policy.max_total_sequence_length
    yield from _sampling(policy.generation, "policy.generation")
    yield from _cache(policy.generation, "policy.generation", "policy.max_total_sequence_length", length)


def _sampling(generation: SamplingConfig, head: str) -> Iterator[str]:
    if any(not text for text in generation.stop_strings or ()):
        yield f"{head}.stop_strings has an empty text, which every completion contains: remove it"
    if any(token < 0 for token in generation.stop_token_ids or ()):
        yield f"{head}.stop_token_ids={generation.stop_token_ids}: ids of tokens are not negative"
    if generation.min_new_tokens > generation.max_new_tokens:
        yield (
            f"{head}.min_new_tokens={generation.min_new_tokens} is more than {head}.max_new_tokens="
            f"{generation.max_new_tokens}: lower it"
        )


def _cache(generation: SamplingConfig, head: str, key: str, length: int) -> Iterator[str]:
    tokens = generation.kv_cache_tokens
    if generation.continuous_batching and tokens is not None and tokens < length:
        yield (
            f"{head}.kv_cache_tokens={tokens} does not hold one sequence of {key}={length}: raise it to {length} or "
            f"more, or lower {key}"
        )


def evaluation(config: EvalConfig) -> Iterator[str]:
    """The metric, and how answers are sampled."""
    settings, generation = config.eval, config.generation
    count, k = settings.num_tests_per_prompt, settings.k_value
    yield from _sampling(generation, "generation")
    if settings.has_own_data and (config.env.is_configured or config.env.named):
        yield "env with eval.suite or eval.lm_eval: their problems are answered in one turn. Remove env"
    if settings.suite and settings.lm_eval:
        yield "eval.suite and eval.lm_eval are both given: evaluate on one of them at a time"
    yield from (f"eval.suite: {problem}" for problem in map(unknown_suite, settings.suite) if problem)
    if others := sorted({*settings.suite_data} - {PurePath(name).stem for name in settings.suite}):
        yield f"eval.suite_data.{others[0]} is set, but eval.suite={','.join(settings.suite)} does not name {others[0]}"
    yield from _cache(generation, "generation", "generation.max_model_len", generation.max_model_len)
    if k > count:
        yield (
            f"eval.k_value={k} is more than eval.num_tests_per_prompt={count}: sample at least k answers to each "
            "problem"
        )
    elif settings.metric == "cons@k" and count % k:
        yield not_a_multiple("eval.num_tests_per_prompt", count, "eval.k_value", k)
    if count > 1 and generation.temperature == 0:
        yield (
            f"eval.num_tests_per_prompt={count} with generation.temperature=0 gives the same answer every time: set a "
            "temperature such as 0.6, or num_tests_per_prompt to 1"
        )
