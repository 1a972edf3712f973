"""Checkpoints, logging, devices, reward functions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from hone.config.paths import LocalName, LocalPath
from hone.config.schedule import points, value_at
from hone.config.schema.base import ConfigModel, Derived, Schedule, section

DURATION = r"^\d+:\d{1,2}:\d{1,2}:\d{1,2}$"
"""Days, hours, minutes, seconds."""


class CheckpointingConfig(ConfigModel):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    enabled: bool = True
    """Write checkpoints."""
    checkpoint_dir: Derived[LocalPath] = None  # type: ignore[assignment]
    """The run's folder; null: `results/` and the command's name. The same command resumes from the newest checkpoint
    in it."""
    metric_name: str | None = "val:val_loss"
    """Metric that ranks checkpoints: `val:NAME` or `train:NAME`; null: the newest are kept."""
    higher_is_better: bool = False
    """Whether a higher metric is better."""
    keep_top_k: int | None = Field(3)
    """Number of checkpoints to keep, the best by the metric; null: all."""
    save_period: int = Field(10, ge=1)
    """Steps between checkpoints."""
    checkpoint_must_save_by: str | None = Field(None, pattern=DURATION)
    """Save a checkpoint and stop after this time, as DAYS:HOURS:MINUTES:SECONDS."""
    async_save: bool = True
    """Continue training while a checkpoint is written, if memory has room for a copy of the state."""
    save_optimizer: bool = True
    """Save the optimizer's state too. A run cannot resume without it."""
    allow_config_change: bool = False
    """Resume even though settings that affect the result have changed."""


class OnlineCheckpointingConfig(CheckpointingConfig):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    metric_name: str | None = "val:accuracy"
    """Metric that ranks checkpoints: `val:NAME` or `train:NAME`; null: the newest are kept."""
    higher_is_better: bool = True
    """Whether a higher metric is better."""


class WandbConfig(ConfigModel):
    """Weights & Biases."""

    project: str = "hone"
    """Name of the project."""
    name: str | None = None
    """Name of the run; null: the run's folder."""


class MlflowConfig(ConfigModel):
    """MLflow."""

    experiment_name: str = "hone"
    """Name of the experiment."""
    run_name: str | None = None
    """Name of the run; null: the run's folder."""
    tracking_uri: str | None = None
    """Address of the tracking server; null: MLflow's own default."""


class LoggerConfig(ConfigModel):
    """Trackers and logs, besides `metrics.csv`."""

    log_dir: LocalPath | None = None
    """Folder for the logs, which get a subfolder with the run's name; null: the run's folder."""
    num_val_samples_to_print: int = Field(0, ge=0)
    """Number of samples that each validation prints."""
    tensorboard_enabled: bool = True
    """Write TensorBoard event files, under `tensorboard/` in the run's folder."""
    log_rollouts: bool = True
    """Write all rollouts of every step, with their rewards, as JSONL."""
    wandb_enabled: bool = False
    """Log to Weights & Biases (WANDB_MODE=offline works without an account)."""
    mlflow_enabled: bool = False
    """Log to MLflow."""
    monitor_gpus: bool = True
    """Log memory and utilisation of the GPUs, if there are any."""
    wandb: WandbConfig = section(WandbConfig)
    mlflow: MlflowConfig = section(MlflowConfig)


class ClusterConfig(ConfigModel):
    """The devices of a run."""

    gpus_per_node: int = Field(1, ge=0)
    """GPUs per machine; 0: run on the CPU even if there is a GPU."""
    num_nodes: int = Field(1, ge=1)
    """Number of machines."""
    cpu_workers_per_node: int | None = Field(None, ge=1)
    """CPU processes per machine, each in place of a GPU; null: use gpus_per_node."""
    ray_address: str | None = None
    """Address of a running Ray cluster: `host:6379`, or `auto` for the cluster that this machine is part of. null:
    `auto` for several machines; on one machine Hone starts Ray itself, if the run has more than one device."""
    max_restarts: int = Field(3, ge=0)
    """Maximum number of restarts after lost workers without a new checkpoint in between; then the run stops."""
    worker_timeout_s: float = Field(1800.0, gt=0)
    """Seconds without progress (a micro-batch, a decoded token) after which a worker counts as hung."""
    node_wait_s: float = Field(60.0, ge=0)
    """Seconds to wait for machines to join. After that, a run that lost machines continues with the others."""
    cpu_threads: int | None = Field(None, ge=1)
    """Threads of torch; null: OMP_NUM_THREADS if set, else 1 for a model below 10 M parameters, else all cores."""

    @property
    def reserved_devices(self) -> int:
        """Devices reserved for another model than the policy."""
        return 0

    @property
    def is_distributed(self) -> bool:
        """Whether more than one device is asked for."""
        devices = (self.cpu_workers_per_node or self.gpus_per_node) * self.num_nodes
        return devices > 1 or self.reserved_devices > 0


class RewardFunctionConfig(ConfigModel):
    """One reward function."""

    name: str | None = None
    """Name in metrics. Without `path`, also the function: a built-in name."""
    path: LocalName | None = None
    """The function: a built-in name (docs/rewards.md), `package.module.function`, or `file.py:function`. Also a
    class, or a function that returns a reward function; it is called with `kwargs`."""
    weight: Schedule = 1.0
    """Weight in the total reward. A schedule maps the number of finished optimizer steps to weights, such as
    `{0: 1.0, 100: 0.2}`."""
    weight_schedule: Literal["linear", "step"] = "linear"
    """Between two points of a weight schedule: interpolate, or keep the earlier weight."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Additional keyword arguments of the function."""
    datasets: list[str] | None = None
    """Score only rows of these datasets; null: all."""
    envs: list[str] | None = None
    """Score only rows with these `env_name` values; null: all."""

    def weight_at(self, step: int | None) -> float:
        """The weight after `step` finished optimizer steps; None: at the end."""
        return value_at(points(self.weight), step, self.weight_schedule)


class SandboxConfig(ConfigModel):
    """Limits of the programs that a model wrote and a reward function runs."""

    require_isolation: bool = True
    """Stop if programs cannot be isolated from the machine's network, files and processes. false: run them with the
    isolation that is available; the run prints which."""
    timeout_s: float = Field(5.0, gt=0)
    """Seconds for a program with all of its tests."""
    memory_mb: int = Field(256, ge=32)
    """Memory of all processes of a program together, in MiB; also the address space of each."""
    max_processes: int = Field(16, ge=1)
    """Maximum number of processes and threads."""
    disk_mb: int = Field(32, ge=1)
    """Maximum size of the files it writes, in MiB. They are kept in memory and deleted at the end."""
    max_open_files: int = Field(64, ge=8)
    """Maximum number of open files of a process."""
    output_kb: int = Field(1024, ge=1)
    """Maximum output in KiB; then it is stopped."""


def _function_entries(value: Any) -> Any:
    """`math`, `f.py:fn` and `[f.py:fn, math]` as entries."""
    entries = [value] if isinstance(value, str | dict) else value
    if not isinstance(entries, list):
        return value
    return [
        {"path" if set(entry) & {".", ":"} else "name": entry} if isinstance(entry, str) else entry
        for entry in entries
    ]


class RewardsConfig(ConfigModel):
    """The total reward of a completion: a weighted sum of reward functions, which run in processes with time
    limits."""

    functions: Annotated[list[RewardFunctionConfig], BeforeValidator(_function_entries)] = Field(
        default_factory=list
    )
    """Reward functions with TRL's signature, `f(prompts, completions, **columns) -> list[float | None]`. An entry may
    be a text: a `name`, or, with a dot or colon, a `path`; such as `[math, my_rewards.py:short]`."""
    num_workers: int = Field(2, ge=1)
    """Processes that run reward functions."""
    timeout_s: float = Field(10.0, gt=0)
    """Seconds after which a call is stopped and counts as failed. Time for imports is not included."""
    load_timeout_s: float = Field(120.0, gt=0)
    """Seconds for importing and starting a function, and again for imports within a call. A reward model has at least
    half an hour."""
    memory_limit_mb: int | None = Field(None, ge=64)
    """Address space of each process that runs reward functions, in MiB; null: no limit."""
    max_failure_fraction: float = Field(0.1, ge=0, le=1)
    """Stop the run when more than this fraction of a step's calls fail."""
    sandbox: SandboxConfig = section(SandboxConfig)
