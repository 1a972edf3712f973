"""Which metrics are shown together, in which order, with which units; whatever has no place here still gets one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Panel:
    """One set of axes. `share`: values between 0 and 1 are shown as percent. `stack`: parts of a whole."""

    title: str
    lines: tuple[tuple[str, str], ...]
    """Metric, and its label where there are several."""
    unit: str = ""
    share: bool = False
    zero: bool = True
    stack: bool = False
    about: str = ""
    better: int = 0
    """1: higher is better; -1: lower is."""

    def with_values(self, present: Sequence[str]) -> Panel | None:
        """The panel of those metrics that the run has."""
        lines = tuple(line for line in self.lines if line[0] in present)
        if not lines:
            return None
        if len(lines) == 1 and lines[0][1] in ("training", "policy"):
            lines = ((lines[0][0], ""),)
        return Panel(self.title, lines, self.unit, self.share, self.zero, self.stack, self.about, self.better)

    def as_data(self) -> dict[str, Any]:
        """What the page draws."""
        return {
            "title": self.title,
            "lines": [list(line) for line in self.lines],
            "unit": self.unit,
            "share": self.share,
            "zero": self.zero,
            "stack": self.stack,
            "about": self.about,
        }


def _train_and_held_out(name: str) -> tuple[tuple[str, str], ...]:
    return ((name, "training"), (f"val_{name}", "held out"))


def _sides(name: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{held_out}{name}_{side}", f"{side}{', held out' if held_out else ''}")
        for held_out in ("", "val_")
        for side in ("chosen", "rejected")
    )


LEARNING = (
    Panel("Reward", _train_and_held_out("reward"), zero=False, better=1, about="mean over the step's completions"),
    Panel("Accuracy", (("accuracy", "training"), ("val_accuracy", "held out")), share=True, better=1,
          about="share of the answers that are right"),
    Panel("Loss", (("train_loss", "training"), ("val_loss", "held out")), zero=False, better=-1),
    Panel("Pairs ranked right", _train_and_held_out("reward_accuracy"), share=True, better=1),
    Panel("Margin of the chosen answer", _train_and_held_out("reward_margin"), zero=False, better=1),
    Panel("Implicit rewards", _sides("rewards"), zero=False),
    Panel("Log-probability of answers", _sides("logps"), unit="nats per answer", zero=False),
    Panel("KL to the teacher", (("forward_kl", "forward"), ("reverse_kl", "reverse")), unit="nats per token",
          better=-1),
    Panel("Mass in the top k", (("teacher_in_topk", "teacher"), ("student_in_topk", "student")), share=True),
)  # fmt: skip
COMPLETIONS = (
    Panel("Completion length", (("completion_length", "training"), ("val_completion_length", "held out")),
          unit="tokens"),
    Panel("Cut off by their length", (("truncated", "training"), ("val_truncated", "held out")), share=True),
    Panel("Groups with equal rewards", (("equal_groups", ""),), share=True,
          about="nothing can be learnt from these"),
    Panel("Groups drawn", (("groups_drawn", "in all"), ("groups_all_right", "all right"),
                           ("groups_all_wrong", "all wrong")), unit="a step"),
    Panel("Completions left out", (("failed", "failed"), ("excluded", "excluded")), unit="a step"),
    Panel("Turns", (("turns", ""),), unit="a rollout"),
)  # fmt: skip
POLICY = (
    Panel("Entropy", (("approx_entropy", "estimate"), ("entropy", "exact")), unit="nats per token"),
    Panel("Clipped tokens", (("clip_low", "below"), ("clip_high", "above")), share=True),
    Panel("KL to the reference", (("kl", ""),), unit="nats per token"),
    Panel("Generator against learner", (("generation_mismatch", ""),), unit="nats per token",
          about="mean |difference of log-probabilities| of the same tokens"),
    Panel("Largest gap of a token", (("generation_mismatch_max", ""),), unit="nats",
          about="between generator and learner"),
    Panel("Generator against learner, as divergence",
          (("gen_kl_error", "KL"), ("policy_kl_error", "reverse KL"), ("js_divergence_error", "JS")), unit="nats"),
    Panel("Importance weights", (("sampling_importance_ratio", ""),), zero=False, about="learner / generator"),
    Panel("Weights out of bounds", (("is_oob_ratio", ""),), share=True),
    Panel("Importance ratio", (("ratio", ""),), zero=False, about="new policy / old policy"),
    Panel("Policy loss", (("policy_loss_total", ""),), zero=False),
    Panel("Value loss", (("value_loss", ""),)),
    Panel("Values and returns", (("value", "value"), ("return", "return")), zero=False),
    Panel("Clipped values", (("value_clipped", ""),), share=True),
    Panel("Explained variance", (("explained_variance", ""),), zero=False, better=1),
    Panel("Gradient norm", (("grad_norm", "policy"), ("value_grad_norm", "value"))),
    Panel("Learning rate", (("learning_rate", "policy"), ("value_learning_rate", "value"))),
)  # fmt: skip
SPEED = (
    Panel("Throughput", (("tokens_per_s", ""),), unit="tokens per second", better=1),
    Panel("Memory", (("gpu_memory_gib", "GPU"), ("host_memory_gib", "host")), unit="GiB"),
    Panel("GPU load", (("gpu_utilization", ""),), unit="%"),
)
UNSHOWN = {
    *(
        "step",
        "samples",
        "val_samples",
        "updates",
        "trained_samples",
        "epoch",
        "workers_retried",
        "workers_killed",
    ),
    *("seconds", "val_seconds", "val_failed", "units", "target_tokens", "policy_loss", "preference_loss"),
    *(
        "truncated_samples",
        "excluded_samples",
        "altered_samples",
        "sft_loss",
        "val_sft_loss",
        "val_preference_loss",
        "token_mult_prob_error",
    ),
}
"""Counts that say little as a curve; `hone show --metrics` has them. The losses are parts of one that is shown."""


def sections_of(present: Sequence[str]) -> list[tuple[str, list[Panel]]]:
    """The panels of a run with these metrics, by section; no panel is empty."""
    functions = sorted(name for name in present if _is_function(name, present))
    by_function = Panel(
        "Reward by function", tuple((n, n.removeprefix("reward_")) for n in functions), zero=False
    )
    seconds = [name for name in present if name.startswith("seconds_")]
    parts = Panel("A step's time", tuple((n, n.removeprefix("seconds_").replace("_", " ")) for n in seconds),
                  unit="seconds", stack=True)  # fmt: skip
    learning = (LEARNING[0], *([by_function] if len(functions) > 1 else []), *LEARNING[1:])
    wanted = [
        ("Learning", learning),
        ("Completions", COMPLETIONS),
        ("Optimisation", POLICY),
        ("Speed", (parts, *SPEED)),
    ]
    sections = [
        (name, [shown for panel in panels if (shown := panel.with_values(present)) is not None])
        for name, panels in wanted
    ]
    placed = {metric for _, panels in sections for panel in panels for metric, _ in panel.lines}
    rest = [n for n in present if n not in placed | UNSHOWN | set(functions) and not n.startswith("failed_")]
    sections.append(("Further metrics", [Panel(name, ((name, ""),), zero=False) for name in rest]))
    return [(name, panels) for name, panels in sections if panels]


def _is_function(name: str, present: Sequence[str]) -> bool:
    """Whether it is the mean of one reward function: online runs only have those."""
    if "reward" not in present or not name.startswith("reward_"):
        return False
    return name not in ("reward_std", "reward_margin", "reward_accuracy")


def summary_metrics(present: Sequence[str]) -> list[Panel]:
    """One line each of a summary: the first sections' panels, by metric."""
    lines = [
        Panel(panel.title + (f", {label}" if label and len(panel.lines) > 1 else ""), ((metric, ""),),
              panel.unit, panel.share, better=panel.better)
        for _, panels in sections_of(present)
        for panel in panels
        for metric, label in panel.lines
    ]  # fmt: skip
    return lines
