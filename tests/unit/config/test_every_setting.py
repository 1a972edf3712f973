"""No setting without effect: each is read by what runs, refused, or told to be ignored and why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hone.config import load
from hone.config.checks.conditions import ConditionalSettings
from hone.config.checks.unused_table import conditional_settings
from hone.config.keys import all_keys, find
from hone.config.loading import files, notices
from hone.config.nested import leaves as paths_of
from hone.config.nested import split_path
from hone.config.reference_table import description
from hone.config.schema import ROOTS
from hone.config.schema.roots import section_of
from hone.errors import ConfigError
from tests.helpers import setting_reads
from tests.helpers.nemo_rl_configs import HEADINGS, nemo_rl_config, save
from tests.helpers.other_values import other_value
from tests.helpers.setting_reads import SOURCE, Leaf, leaves, unread

ELSEWHERE: dict[str, tuple[str, str]] = {
    # read in ways that the search does not see: the file, and what is in it
    **{
        f"AdaLoraConfig.{key}": (
            "model/adapters.py",
            'lora.adalora.model_dump(exclude={"enabled", "init_r"})',
        )
        for key in ("tinit", "deltaT", "beta1", "beta2")
    },
    "DatasetSource.kwargs": ("data/sources.py", 'getattr(entry, "kwargs", {})'),
    "DatasetSource.input_key": ("data/datasets.py", "input_key=entry.input_key"),
    "DatasetSource.prompt_template": ("data/datasets.py", "prompt_template=entry.prompt_template"),
    "DatasetEntry.weight": ("data/datasets.py", 'getattr(entry, "weight", 1.0)'),
    "EvalDataConfig.repeat": ("data/datasets.py", 'getattr(entry, "repeat", 1)'),
    "PreferenceEntry.chosen_key": ("data/datasets.py", 'getattr(entry, "chosen_key", None)'),
    "PreferenceEntry.rejected_key": ("data/datasets.py", 'getattr(entry, "rejected_key", None)'),
    "WandbConfig.name": ("tracking/trackers.py", "name=settings.name or"),
    **{
        f"RewardFunctionConfig.{key}": ("rollout/rewards/resolve.py", f'"{key}"')
        for key in ("weight", "weight_schedule", "datasets", "envs")
    },
    **{
        f"SandboxConfig.{key}": ("rollout/sandbox/sandbox.py", f"{key}: ")
        for key in (
            *("require_isolation", "timeout_s", "memory_mb", "max_processes", "disk_mb"),
            *("max_open_files", "output_kb"),
        )
    },
    **{
        f"EnvironmentConfig.{key}": ("rollout/environments/processes.py", f"config.{key}")
        for key in ("kwargs", "action", "observation", "load_timeout_s")
    },
    "TeacherConfig.trust_remote_code": (
        "config/schema/distill.py",
        "own = {name: getattr(self, name) for name in type(self).model_fields}",
    ),
    "EnvironmentConfig.timeout_s": (
        "rollout/environments/pool.py",
        "handle.process.call, op, arguments, handle.server.config.timeout_s",
    ),
    **dict.fromkeys(
        (
            "SamplingConfig.repetition_penalty",
            *(f"GenerationConfig.val_{name}" for name in ("top_p", "top_k", "min_p", "repetition_penalty")),
            "GenerationConfig.val_temperature",
        ),
        ("rollout/sampler.py", "getattr(generation, prefix + name)"),
    ),
    "GRPOSection.preset": ("config/loading/base.py", 'key = (section_of(translation.algorithm), "preset")'),
    # accepted with one value alone, or ignored with a reason that is printed
    "LoraConfig.match_all_linear": ("config/checks/models.py", "match_all_linear=false and"),
    "ModelConfig.pipeline_parallel_size": ("config/checks/models.py", "model.pipeline_parallel_size > 1"),
}
"""Each was looked at. One that is read in the plain way has no place here: the test says so."""


@pytest.fixture(scope="module")
def not_read() -> set[str]:
    return {str(leaf) for leaf in unread()}


def test_each_setting_is_read_by_what_runs(not_read: set[str]) -> None:
    assert not_read - ELSEWHERE.keys() == set(), (
        "nothing outside of config/ reads these: a setting without effect"
    )
    assert ELSEWHERE.keys() - not_read == set(), "these are read in the plain way: take them out of the list"


@pytest.mark.parametrize("leaf", ELSEWHERE)
def test_what_is_read_in_other_ways_is_read_there(leaf: str) -> None:
    file, text = ELSEWHERE[leaf]
    assert text in (SOURCE / file).read_text()


def test_a_setting_that_nobody_reads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one with a name that others have: `weight`, `backend`."""
    made = {Leaf("SFTSection", "speed_up"): "sft.speed_up", Leaf("SFTSection", "backend"): "sft.backend"}
    known = Leaf("SFTSection", "only_unmask_final")
    monkeypatch.setattr(setting_reads, "leaves", lambda: made | {known: "sft.only_unmask_final"})
    assert set(unread()) == made.keys()


def test_the_walk_has_all_keys() -> None:
    assert len(leaves()) > 250


ENDPOINT = ["generation.backend=openai", "generation.openai_cfg.base_url=http://h/v1"]
MAKES_UNUSED: dict[str, list[str]] = {
    **{
        f"the servers of {section}.vllm_cfg.server_urls run already": [
            f"{section}.backend=vllm",
            f"{section}.vllm_cfg.server_urls=http://localhost:8000",
        ]
        for section in ("policy.generation", "generation")
    },
    "async_rollouts is not stream": ["{section}.async_rollouts=lookahead"],
    "async_rollouts=stream samples each turn at once": [
        "{section}.async_rollouts=stream",
        "env.path=envs.py:Game",
    ],
    "there is no validation": ["data.validation=null"],
    "no metric ranks the checkpoints": ["checkpointing.metric_name=null"],
    "the adapter of policy.lora.adapter_path has its own": ["policy.lora.adapter_path=x"],
    "the adapter of value.lora.adapter_path has its own": ["value.lora.adapter_path=x"],
    "policy.generation.val_temperature=0 takes the most likely token": [
        "policy.generation.val_temperature=0"
    ],
    "an endpoint answers": ENDPOINT,
    "the endpoint tokenizes": ENDPOINT,
    **{
        f"a suite has its own {what}": ["eval.suite=gsm8k"]
        for what in ("data and prompts", "data: eval.suite_data.NAME is a copy of it", "metrics", "grader")
    },
    "the loss that is chosen clips no ratio": ["loss_fn.use_sapo=true"],
    "loss_fn.reference_policy_kl_penalty is 0": ["loss_fn.reference_policy_kl_penalty=0"],
    "only the estimators grpo and gdpo read it": ["grpo.adv_estimator.name=maxrl"],
    "only the estimator reinforce_plus_plus reads it": ["{section}.adv_estimator.name=rloo"],
    "only the estimator gae reads it": ["ppo.adv_estimator.name=rloo"],
    "only the estimator gae has a value model": ["ppo.adv_estimator.name=rloo"],
}
"""What makes the keys of a reason unused, where the recipes do not."""


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[0] if isinstance(config, list) else config
        config = getattr(config, part)
    return config


def _told(kind: Any, key: str, given: list[str]) -> list[str]:
    """The notices about a key that is set to another value than the one that it has."""
    field = find(ROOTS[kind], split_path(key)).field
    base = load(kind, None, given).config
    default = field.get_default(call_default_factory=True) if field is not None else None
    other = other_value(field, _value(base, key) if default is None else default)
    other = {
        "kwargs": {"a": 1},
        "vllm_kwargs": {"a": 1},
        "metrics": ["own.py:metric"],
        "functions": [{"name": "length"}],
        "chat_template_kwargs": {"a": 1},
        "target_modules": ["q"],
    }.get(key.rpartition(".")[2], "text" if other is None else other)
    if key.endswith("kl_type"):
        other = "k2"
    text = files.dump(other).splitlines()[0] if not isinstance(other, dict | list) else str(other)
    name = key.rpartition(".")[2]
    return [notice for notice in load(kind, None, [*given, f"{key}={text}"]).notices if name in notice]


def first_commands() -> dict[ConditionalSettings, str]:
    """Each entry with the first command that it is for."""
    found: dict[ConditionalSettings, str] = {}
    for kind, root in ROOTS.items():
        for entry in conditional_settings(root):
            found.setdefault(entry, kind)
    return found


UNUSED = [
    (kind, pattern.format(section=section_of(kind)), entry.reason)
    for entry, kind in first_commands().items()
    for pattern in entry.keys
    if not pattern.endswith(".*")
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key", "reason"), UNUSED)
def test_what_is_not_read_as_the_others_stand_is_told(kind: Any, key: str, reason: str) -> None:
    given = [text.format(section=section_of(kind)) for text in MAKES_UNUSED.get(reason, [])]
    said = _told(kind, key, given)
    reason = reason.format(section=section_of(kind))
    assert any(reason in notice or (reason.endswith(" is off") and "is off" in notice) for notice in said), (
        said
    )


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("sft", ["logger.wandb.name=x"], "logger.wandb.name"),
        ("grpo", ["loss_fn.sapo_temperature_pos=2"], "loss_fn.sapo_temperature_pos"),
        (
            "grpo",
            ["grpo.reward_shaping.overlong_buffer_length=9"],
            "grpo.reward_shaping.overlong_buffer_length",
        ),
        ("sft", ["data.overlong_prompts=drop"], "a row that is too long stops the run"),
        ("ppo", ["ppo.adv_estimator.name=rloo", "value.optimizer.kwargs.lr=1"], "value.optimizer.kwargs.lr"),
        ("sft", ["policy.sequence_packing.algorithm=first_fit_shuffle"], "best-fit decreasing"),
        ("grpo", ["policy.sequence_packing.sequence_length_round=8"], "best-fit decreasing"),
        (
            "sft",
            ["policy.megatron_cfg.enabled=true"],
            "ignored policy.megatron_cfg.enabled: Hone has one engine",
        ),
        (
            "sft",
            ["policy.dtensor_cfg.enabled=false"],
            "ignored policy.dtensor_cfg.enabled: Hone has one engine",
        ),
        (
            "sft",
            ["trainer.accumulate_grad_batches=4", "policy.train_global_batch_size=8"],
            "ignored trainer.accumulate_grad_batches: policy.train_global_batch_size is given",
        ),
    ],
)
def test_ignored_with_a_reason(kind: Any, given: list[str], said: str) -> None:
    found = load(kind, None, given).notices
    assert len([notice for notice in found if said in notice]) == 1, found


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("sft", ["logger.wandb.name=x", "logger.wandb_enabled=true"]),
        ("grpo", ["loss_fn.sapo_temperature_pos=2", "loss_fn.use_sapo=true"]),
        ("grpo", ["grpo.reward_shaping.overlong_buffer_length=9", "grpo.reward_shaping.enabled=true"]),
        ("ppo", ["value.optimizer.kwargs.lr=1"]),
        ("sft", ["policy.optimizer.kwargs.lr=1", "sft.val_batches=3", "sft.seed=3"]),
        ("sft", ["logger.wandb.project=hone"]),  # the default: nothing that would be missed
    ],
)
def test_what_is_read_is_not_told(kind: Any, given: list[str]) -> None:
    assert load(kind, None, given).notices == []


@pytest.mark.parametrize("kind", ROOTS)
def test_pipelines_are_refused_wherever_it_runs(kind: Any) -> None:
    if kind != "eval":
        with pytest.raises(
            ConfigError, match=r"policy\.pipeline_parallel_size=2: Hone has no pipeline parallelism"
        ):
            load(kind, None, ["policy.pipeline_parallel_size=2"])


SAYS_WHO_READS = re.compile(r"^(`?[a-z_+]+`?(, `?[a-z_+]+`?)*|OpenEnv): ")
READ_BY_CHOICE = {
    # checks and what follows are about these
    *("loss_fn.mixed_kl_weight", "loss_fn.jsd_beta", "grpo.adv_estimator.reward_weights"),
    *("env.action", "env.observation"),
    *("grpo.batch_multiplier", "ppo.batch_multiplier", "online_dpo.batch_multiplier"),
    *("eval.metric", "dpo.reference_policy_kl_penalty"),
}


def test_a_key_that_one_choice_reads_is_in_the_table() -> None:
    patterns = {
        pattern.format(section=section_of(kind))
        for kind, root in ROOTS.items()
        for entry in conditional_settings(root)
        for pattern in entry.keys
    }
    missing = {
        key
        for root in ROOTS.values()
        for key, _, owner in all_keys(root)
        if SAYS_WHO_READS.match(about := description(owner, key.rpartition(".")[2]))
        and not about.startswith(
            ("null:", "`default`", "`bradley", "`pass", "`forward", "`builtin", "`lookahead", "false:")
        )
        and not any(key == p or (p.endswith(".*") and key.startswith(p[:-1])) for p in patterns)
    }
    assert missing - READ_BY_CHOICE == {key for key in missing if _is_a_list_of_values(key)}


def _is_a_list_of_values(key: str) -> bool:
    """`grpo`: …, `rloo`: … describes the values of a key that is itself the choice."""
    return key.endswith(
        (".name", "_type", "_level", "weight_schedule", "reward_model_type", "overlong_prompts")
    )


TRIED: set[str] = set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [kind if kind in ("sft", "grpo") else pytest.param(kind, marks=pytest.mark.long) for kind in HEADINGS],
)
def test_each_of_upstreams_keys_has_an_effect_or_a_reason(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set to another value it is refused, told, or changes our configuration."""
    monkeypatch.setattr(notices, "MANY", 10**6)
    path = save(nemo_rl_config(kind), tmp_path)
    base, without_effect = load(kind, path, []), []
    for place, value in paths_of(nemo_rl_config(kind)):
        key = ".".join(map(str, place))
        if find(ROOTS[kind], place).what != "unknown" or key.startswith(("data.train", "data.validation")):
            continue
        if key in TRIED:  # the same rule, of another kind of run
            continue
        TRIED.add(key)
        other = (
            not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "other"
        )
        try:
            changed = load(kind, path, [f"{key}={files.dump(other).splitlines()[0]}"])
        except ConfigError:
            continue
        told = any(key.rpartition(".")[2] in notice for notice in changed.notices)
        if not told and changed.config == base.config:
            without_effect.append(key)
    assert not without_effect
