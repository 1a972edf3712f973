"""Write the tables of docs/coming-from/ from the accepted names; `--check` fails when they are out of date."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from hone.config import dialects, keys
from hone.config.alias import Alias, KeyRule
from hone.config.compat import nemo_rl
from hone.config.schema import ROOTS, section_of
from hone.config.schema.base import derived_expression

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "coming-from"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
TRAINING = [kind for kind in ROOTS if kind != "eval"]

# Values of the main files of examples/configs of NeMo RL, August 2026.
NEMO_RL_DEFAULTS = [
    ("grpo", "policy.sequence_packing.enabled", True),
    ("grpo", "policy.scheduler", "warm-up over 50 steps, then constant"),
    ("grpo", "policy.train_micro_batch_size", 4),
    ("grpo", "policy.generation.backend", "vllm"),
    ("grpo", "data.train.split_validation_size", 0.05),
    ("grpo", "logger.tensorboard_enabled", False),
    ("sft", "sft.max_num_steps", 60),
    ("sft", "logger.wandb_enabled", True),
    ("dpo", "policy.train_global_batch_size", 128),
    ("dpo", "dpo.val_period", 25),
    ("rm", "policy.train_global_batch_size", 128),
    ("rm", "policy.max_total_sequence_length", 8192),
    ("ppo", "loss_fn.reference_policy_kl_penalty", 0.0),
    ("ppo", "loss_fn.ratio_clip_max", 0.28),
    ("ppo", "value_loss_fn.scale", 0.4),
    ("ppo", "ppo.reward_scaling.enabled", True),
    ("ppo", "ppo.reward_shaping.enabled", True),
    ("ppo", "policy.max_total_sequence_length", 16384),
    ("distill", "policy.max_total_sequence_length", 8192),
    ("distill", "policy.train_global_batch_size", 64),
    ("distill", "cluster.gpus_per_node", 8),
]
# Defaults of the configuration classes of TRL 1.16.
TRL_DEFAULTS = [
    ("sft", "learning_rate", 2e-5),
    ("sft", "num_train_epochs", 3),
    ("sft", "max_length", 1024),
    ("sft", "weight_decay", 0.0),
    ("sft", "gradient_checkpointing", True),
    ("sft", "save_steps", 500),
    ("dpo", "learning_rate", 1e-6),
    ("dpo", "beta", 0.1),
    ("dpo", "num_train_epochs", 3),
    ("grpo", "learning_rate", 1e-6),
    ("grpo", "num_generations", 8),
    ("grpo", "max_completion_length", 512),
    ("grpo", "beta", 0.0),
    ("grpo", "epsilon", 0.2),
    ("grpo", "temperature", 1.0),
    ("grpo", "num_iterations", 1),
    ("rm", "learning_rate", 1e-4),
    ("rm", "center_rewards_coefficient", None),
]


def shown(value: Any) -> str:
    """A value as YAML has it, on one line."""
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(*names: str) -> str:
    """Names in a cell."""
    return ", ".join(f"`{name}`" for name in names)


def general(kind: str, key: str) -> str:
    """A key with LOOP for the command's own section."""
    head, dot, rest = key.partition(".")
    return f"LOOP{dot}{rest}" if head == section_of(kind) and kind != "eval" else key


def specific(kinds: list[str], *names: str) -> tuple[str, ...]:
    """General keys; those of one command with its own section again."""
    section = section_of(kinds[0])
    return names if len(kinds) > 1 else tuple(re.sub(r"^LOOP(?=\.)", section, name) for name in names)


def default(kind: str, key: str) -> str:
    """Our default; an entry of a mapping such as the optimizer's arguments is looked up in it."""
    path: tuple[str, ...] = tuple(key.split("."))
    found = keys.find(ROOTS[kind], path)
    assert found.field is not None, (kind, key)
    expression = derived_expression(found.model, path[found.known - 1])
    value = expression or found.field.get_default(call_default_factory=True)
    for part in path[found.known :]:
        value = value[part]
    return shown(value)


def accepted() -> str:
    """Names of NeMo RL and NeMo that are read as a key of ours."""
    found: dict[str, tuple[Alias, list[str]]] = {}
    for kind in TRAINING:
        for alias in nemo_rl.aliases(kind):
            if not alias.path.startswith("value.") and alias.to != (alias.path,):
                found.setdefault(general(kind, alias.path), (alias, []))[1].append(kind)
    rows = []
    for path, (alias, kinds) in sorted(found.items()):
        ours = specific(kinds, *(general(kinds[0], key) for key in alias.to))
        rows.append((code(*specific(kinds, path)), code(*ours) + (" (computed)" if alias.compute else "")))
    return table(("NeMo RL, NeMo", "Hone"), rows)


def rules() -> list[tuple[str, KeyRule]]:
    """The rules of all commands, each once, without those that `value` and `generation` share with `policy`."""
    found: dict[tuple[str, bool], tuple[KeyRule, list[str]]] = {}
    for kind in ROOTS:
        for rule in nemo_rl.rules(kind):
            if rule.while_off is None and not rule.pattern.startswith(("value.", "generation.")):
                key = (general(kind, rule.pattern), rule.allowed is not None)
                found.setdefault(key, (rule, []))[1].append(kind)
    return [
        (specific(kinds, key)[0], rule)
        for (key, _), (rule, kinds) in sorted(found.items(), key=lambda item: item[0])
    ]


def refused() -> str:
    """Keys that only some values may have, by reason."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, rule in rules():
        if rule.allowed is not None and not rule.reason.startswith(("expected", "this is `hone")):
            values = "depends" if callable(rule.allowed) else code(*dict.fromkeys(map(shown, rule.allowed)))
            rows.setdefault((values, rule.reason), []).append(name)
    return table(
        ("NeMo RL", "only with", "because; what to do"),
        ((code(*theirs), values, reason) for (values, reason), theirs in rows.items()),
    )


def ignored() -> str:
    """Keys without effect, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, rule in rules():
        if rule.allowed is None and rule.ignored_at is None:
            by_reason.setdefault(rule.reason, []).append(name)
    return table(("because", "NeMo RL"), ((reason, code(*theirs)) for reason, theirs in by_reason.items()))


def names() -> str:
    """Short names and TRL's, by key of ours."""
    rows: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for kind in TRAINING:
        for alias in dialects.short(kind):
            theirs, kinds = rows.setdefault(tuple(general(kind, key) for key in alias.to), ([], []))
            theirs += [alias.path] if alias.path not in theirs else []
            kinds += [kind] if kind not in kinds else []
    return table(
        ("TRL, and short names", "Hone", "commands"),
        (
            (code(*theirs), code(*specific(kinds, *ours)), "all" if kinds == TRAINING else ", ".join(kinds))
            for ours, (theirs, kinds) in rows.items()
        ),
    )


def instead() -> str:
    """Names that are refused, by what to write in their place."""
    by_text: dict[str, list[str]] = {}
    for name, text in dialects.replacements().items():
        by_text.setdefault(text, []).append(name)
    return table(("TRL", "write"), ((code(*theirs), text) for text, theirs in by_text.items()))


def nemo_rl_defaults() -> str:
    """Defaults that are not theirs."""
    return table(
        ("command", "setting", "NeMo RL's file", "Hone"),
        (
            (code(f"hone {kind}"), code(key), shown(value), default(kind, key))
            for kind, key, value in NEMO_RL_DEFAULTS
        ),
    )


def trl_defaults() -> str:
    """TRL's defaults beside ours."""
    rows = []
    for kind, name, value in TRL_DEFAULTS:
        ours = dialects.aliases(kind)[name].to
        rows.append((code(f"hone {kind}"), code(name), shown(value), default(kind, ours[0]), code(ours[0])))
    return table(("command", "TRL", "its default", "Hone's", "setting"), rows)


TABLES = {
    "accepted": accepted,
    "refused": refused,
    "ignored": ignored,
    "names": names,
    "instead": instead,
    "nemo_rl_defaults": nemo_rl_defaults,
    "trl_defaults": trl_defaults,
}


def text(page: Path) -> str:
    """The page with its tables made anew."""
    return TABLE.sub(
        lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page.read_text(encoding="utf-8")
    )


if __name__ == "__main__":
    for page in sorted(FOLDER.glob("*.md")):
        if "--check" not in sys.argv[1:]:
            page.write_text(text(page), encoding="utf-8")
        elif page.read_text(encoding="utf-8") != text(page):
            sys.exit(f"{page} is out of date: run python scripts/write_migration_docs.py")
