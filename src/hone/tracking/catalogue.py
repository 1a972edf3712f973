"""Every metric once: its name, its meaning, and the panel in which the report and `curves.png` draw it.

Names are flat and the same everywhere: a column of metrics.csv, a TensorBoard tag, a W&B or MLflow metric. `val_NAME`
is `NAME` on held-out data. Metrics of users' own (`log_metric`) need no entry. The metrics by which checkpoints can be
ranked are in each algorithm's entry of the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hone.registry import specs

HELD_OUT = "val_"
MEASURED_AT = "val_step"
"""The step at which the held-out metrics of a row of metrics.csv were measured. They are repeated in every row until
they are measured again, since plotting libraries draw no line through single values between blanks."""
ALWAYS = ("train_loss", "val_loss", "reward_accuracy", "learning_rate", "gpu_utilization")
"""Columns that every metrics.csv has, blank where there is no value, so that scripts which plot them need no `if`."""


@dataclass(frozen=True)
class Metric:
    """One metric. `label`: its line in a panel of several. `held_out`: drawn on held-out data as well."""

    name: str
    meaning: str
    label: str = ""
    held_out: bool = False


@dataclass(frozen=True)
class Panel:
    """Metrics that are drawn on one set of axes."""

    title: str
    metrics: tuple[Metric, ...]
    unit: str = ""
    percent: bool = False
    """Values are shares, shown as percentages."""
    from_zero: bool = True
    """The axis begins at 0 if no value is negative."""
    stacked: bool = False
    """The metrics are parts of a whole."""
    better: int = 0
    """1: higher is better; -1: lower is better."""

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """The name and label of each line: metrics of training, then those of held-out data."""
        training = [(m.name, m.label or ("training" if m.held_out else "")) for m in self.metrics]
        held_out = [
            (HELD_OUT + m.name, f"{m.label}, held out" if m.label else "held out")
            for m in self.metrics
            if m.held_out
        ]
        return (*training, *held_out)

    @property
    def about(self) -> str:
        """The meaning of the panel's metric; empty if there are several, other than on held-out data."""
        names = {metric.name.removeprefix(HELD_OUT) for metric in self.metrics}
        return self.metrics[0].meaning if len(names) == 1 else ""

    def restricted(self, columns: Sequence[str]) -> Panel | None:
        """The panel of the lines that a run has values for; None if there are none."""
        lines = [(name, label) for name, label in self.lines if name in columns]
        if len(lines) == 1 and lines[0][1] in ("training", "policy"):
            lines = [(lines[0][0], "")]
        found = tuple(Metric(name, meaning(name) or "", label) for name, label in lines)
        return replace(self, metrics=found) if found else None


LEARNING = (
    Panel("Reward", (Metric("reward", "mean over the step's completions", held_out=True),),
          from_zero=False, better=1),
    Panel("Accuracy", (Metric("accuracy", "share of the answers that are right", held_out=True),),
          percent=True, better=1),
    Panel("Loss", (Metric("train_loss", "mean over the batch's target tokens or pairs", "training"),
                   Metric("val_loss", "the loss on held-out data", "held out")), from_zero=False, better=-1),
    Panel("Pairs ranked right", (Metric("reward_accuracy", "share whose chosen answer has the higher reward",
                                        held_out=True),), percent=True, better=1),
    Panel("Margin of the chosen answer", (Metric("reward_margin", "mean reward of chosen less rejected answers",
                                                 held_out=True),), from_zero=False, better=1),
    Panel("Calibration error", (Metric("val_calibration_error", "mean |confidence - accuracy| of held-out pairs"),),
          better=-1),
    Panel("Scores", (Metric("score_chosen", "mean score of chosen answers", "chosen", held_out=True),
                     Metric("score_rejected", "mean score of rejected answers", "rejected", held_out=True),
                     Metric("score", "mean score of the rows", "rows", held_out=True)), from_zero=False),
    Panel("Absolute error", (Metric("absolute_error", "mean distance of a score from the given number",
                                    held_out=True),), better=-1),
    Panel("Implicit rewards", (
        Metric("rewards_chosen", "beta * (log pi - log pi_ref) of chosen answers", "chosen", held_out=True),
        Metric("rewards_rejected", "the same of rejected answers", "rejected", held_out=True)), from_zero=False),
    Panel("Log-probability of answers", (
        Metric("logps_chosen", "mean log-probability of chosen answers", "chosen", held_out=True),
        Metric("logps_rejected", "mean log-probability of rejected answers", "rejected", held_out=True)),
          unit="nats per answer", from_zero=False),
    Panel("KL to the teacher", (Metric("forward_kl", "KL(teacher || student)", "forward"),
                                Metric("reverse_kl", "KL(student || teacher)", "reverse")),
          unit="nats per token", better=-1),
    Panel("Mass in the top k", (
        Metric("teacher_in_topk", "the teacher's probability of its k likeliest tokens", "teacher"),
        Metric("student_in_topk", "the student's probability of the same tokens", "student")), percent=True),
)  # fmt: skip
COMPLETIONS = (
    Panel("Completion length", (Metric("completion_length", "mean length of a completion", held_out=True),),
          unit="tokens"),
    Panel("Cut off by their length", (
        Metric("truncated", "share of the completions that ended at the length limit", held_out=True),), percent=True),
    Panel("Groups with equal rewards", (Metric("equal_groups", "nothing can be learnt from these"),), percent=True),
    Panel("Groups drawn", (Metric("groups_drawn", "groups that dynamic sampling drew", "in all"),
                           Metric("groups_all_right", "groups of right answers only", "all right"),
                           Metric("groups_all_wrong", "groups of wrong answers only", "all wrong")), unit="a step"),
    Panel("Completions left out", (Metric("failed", "rollouts without a reward", "failed"),
                                   Metric("excluded", "rollouts that are not trained on", "excluded")), unit="a step"),
    Panel("Turns", (Metric("turns", "mean number of the model's turns", held_out=True),), unit="a rollout"),
    Panel("Tool calls", (Metric("tool_calls", "mean number of tool calls", held_out=True),), unit="a rollout"),
    Panel("Out of turns", (Metric("out_of_turns", "share of rollouts that ended at the turn limit", held_out=True),),
          percent=True),
)  # fmt: skip
OPTIMISATION = (
    Panel("Entropy", (Metric("approx_entropy", "mean -log pi of the sampled tokens", "estimate"),
                      Metric("entropy", "mean entropy over the whole vocabulary", "exact")), unit="nats per token"),
    Panel("Clipped tokens", (Metric("clip_low", "share of the tokens clipped below", "below"),
                             Metric("clip_high", "share of the tokens clipped above", "above")), percent=True),
    Panel("KL to the reference", (Metric("kl", "estimate of KL(policy || reference)"),), unit="nats per token"),
    Panel("Generator against learner", (
        Metric("generation_mismatch", "mean |difference of log-probabilities| of the same tokens"),),
          unit="nats per token"),
    Panel("Largest gap of a token", (Metric("generation_mismatch_max", "between generator and learner"),), unit="nats"),
    Panel("Generator against learner, as divergence", (
        Metric("gen_kl_error", "KL(generator || learner)", "KL"),
        Metric("policy_kl_error", "KL(learner || generator)", "reverse KL"),
        Metric("js_divergence_error", "Jensen-Shannon divergence of both", "JS")), unit="nats"),
    Panel("Importance weights", (Metric("sampling_importance_ratio", "learner / generator"),), from_zero=False),
    Panel("Age of the weights that sampled", (
        Metric("staleness_mean", "how many steps older than the learner's, mean over the tokens", "mean"),
        Metric("staleness_max", "the oldest of a step", "oldest")), unit="steps"),
    Panel("Versions of the weights in a completion", (Metric("weight_versions", "mean number"),)),
    Panel("Groups in flight", (Metric("groups_open", "sampled or waiting to be trained on", "open"),
                               Metric("groups_stale", "dropped, older than max_staleness", "too old"))),
    Panel("Idle while the other side works", (
        Metric("learner_idle_share", "share of the time in which only rollouts were sampled", "learner"),
        Metric("generator_idle_share", "share of the time in which only the learner worked", "generator")),
          percent=True),
    Panel("Weights out of bounds", (Metric("is_oob_ratio", "share of importance weights beyond their limits"),),
          percent=True),
    Panel("Importance ratio", (Metric("ratio", "new policy / old policy"),), from_zero=False),
    Panel("Policy loss", (Metric("policy_loss_total", "the policy's loss with all of its parts"),), from_zero=False),
    Panel("Value loss", (Metric("value_loss", "the value model's loss"),)),
    Panel("Values and returns", (Metric("value", "mean value of a token", "value"),
                                 Metric("return", "mean return of a token", "return")), from_zero=False),
    Panel("Clipped values", (Metric("value_clipped", "share of the values that are clipped"),), percent=True),
    Panel("Explained variance", (Metric("explained_variance", "1 - Var(return - value) / Var(return)"),),
          from_zero=False, better=1),
    Panel("Gradient norm", (Metric("grad_norm", "before clipping", "policy"),
                            Metric("value_grad_norm", "of the value model", "value"))),
    Panel("Learning rate", (Metric("learning_rate", "of the step", "policy"),
                            Metric("value_learning_rate", "of the value model", "value"))),
)  # fmt: skip
SPEED = (
    Panel("Throughput", (Metric("tokens_per_s", "tokens trained on or sampled, over the step's seconds"),),
          unit="tokens per second", better=1),
    Panel("Memory", (Metric("gpu_memory_gib", "peak of the fullest device", "GPU"),
                     Metric("host_memory_gib", "peak of the largest rank", "host")), unit="GiB"),
    Panel("GPU load", (Metric("gpu_utilization", "mean over the step and the devices"),), unit="%"),
)  # fmt: skip
SECTIONS = {"Learning": LEARNING, "Completions": COMPLETIONS, "Optimisation": OPTIMISATION, "Speed": SPEED}

HIDDEN = (
    Metric("samples", "samples of the step", held_out=True),
    Metric("units", "samples of the step, a pair counted once"),
    Metric("target_tokens", "tokens of the step that the loss counts"),
    Metric("updates", "optimizer steps so far"),
    Metric("trained_samples", "rollouts of the step that were trained on"),
    Metric("epoch", "passes over the data so far"),
    Metric("seconds", "of the step", held_out=True),
    Metric("workers_retried", "reward calls made again, so far"),
    Metric("workers_killed", "reward workers killed, so far"),
    Metric("truncated_samples", "rows cut to the maximum length, so far"),
    Metric("excluded_samples", "rows left out, so far"),
    Metric("altered_samples", "rows whose text the chat template changes"),
    Metric("policy_loss", "the policy's loss without further parts"),
    Metric("preference_loss", "the preference part of the loss", held_out=True),
    Metric("sft_loss", "the SFT part of the loss", held_out=True),
    Metric("token_mult_prob_error", "mean exp |difference of log-probabilities|, generator against learner"),
    Metric("val_failed", "held-out rollouts without a reward"),
)
"""Counts, and parts of drawn metrics: the report and the summary leave them out; `hone show --metrics` prints them."""

FURTHER = (
    Metric("bco_delta", "BCO's running mean of the implicit rewards", "BCO's delta"),
    Metric("kto_kl", "KTO's estimate of the KL to the reference", "KTO's KL"),
    Metric("positive_nll_loss", "negative log-likelihood of right answers", "NLL of right answers"),
    Metric("router_aux_loss", "load-balancing loss of a mixture of experts", "Load-balancing loss"),
    Metric("orthogonality_loss", "AdaLoRA's orthogonality penalty"),
    Metric("adapter_rank", "AdaLoRA's mean rank of an adapter"),
    Metric("loss_scale", "scale of the fp16 loss"),
    Metric("entropy_threshold", "entropy from which tokens are trained on"),
    Metric("high_entropy_share", "share of the tokens at or above it"),
    Metric("dynamic_sampling_num_gen_batches", "batches that dynamic sampling drew", "Batches drawn"),
    Metric("dynamic_sampling_num_discarded_valid_samples", "groups that it drew beyond those wanted",
           "Usable groups not trained on"),
    Metric("groups_missing", "groups that the step lacks"),
    Metric("groups_all_failed", "groups without any reward"),
    Metric("filtered_reward", "mean reward of the groups that are trained on"),
    Metric("tool_failures", "tool calls that failed", held_out=True),
    Metric("cut_observations", "observations that were cut to fit", held_out=True),
    Metric("env_seconds", "seconds in environments, summed over rollouts", "Seconds in environments", held_out=True),
    Metric("tokens_per_s_per_device", "throughput over the number of devices", "Throughput per device"),
)  # fmt: skip
"""Drawn after all others, each in its own panel (`panel_title`)."""

PREFIXES = {
    "reward_": "mean of one reward function",
    "failed_": "rollouts that failed from one cause",
    "seconds_": "one part of a step's time",
    "weight_": "weight of one reward function at the step",
    "loss_": "one preference loss of several",
    "accuracy_": "what one reward function reports as its accuracy",
}
"""Families of metrics by the prefix of their names; the rest is a name of the run's own."""
PANELS = {panel.title: panel for section in SECTIONS.values() for panel in section}


def _by_name(metrics: Iterable[Metric]) -> Iterator[tuple[str, Metric]]:
    for metric in metrics:
        yield metric.name, metric
        if metric.held_out:
            yield HELD_OUT + metric.name, metric


OF_ALGORITHMS = (Metric(*metric) for spec in specs().values() for metric in spec.metrics.own)
METRICS = dict(
    _by_name((*(m for panel in PANELS.values() for m in panel.metrics), *HIDDEN, *FURTHER, *OF_ALGORITHMS))
)
NOT_DRAWN = frozenset(name for name, _ in _by_name(HIDDEN))


def meaning(name: str) -> str | None:
    """What a metric means; None for one of the user's own."""
    if name in METRICS:
        return METRICS[name].meaning
    bare = name.removeprefix(HELD_OUT)
    return next((text for prefix, text in PREFIXES.items() if bare.startswith(prefix)), None)


def panel_title(name: str) -> str:
    """The title of a panel with only this metric; the name itself for one of the user's own."""
    metric = METRICS.get(name)
    if metric is None:
        return name
    title = metric.label or metric.name.replace("_", " ").capitalize()
    return title if metric.name == name else f"{title}, held out"


def better(name: str) -> int:
    """1 if higher values of a metric are better, -1 if lower ones are, 0 if unknown."""
    return next((panel.better for panel in PANELS.values() if name in dict(panel.lines)), 0)


def reward_functions(columns: Sequence[str]) -> Panel:
    """The panel of the means of the reward functions; only online runs have some."""
    names = sorted(name for name in columns if name.startswith("reward_") and name not in METRICS)
    lines = tuple(Metric(name, PREFIXES["reward_"], name.removeprefix("reward_")) for name in names)
    return Panel("Reward by function", lines if "reward" in columns else (), from_zero=False)
