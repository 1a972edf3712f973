"""What surrounds training: checkpoints, logs, machines, reward functions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from hone.config.paths import LocalName, LocalPath
from hone.config.schedule import points, value_at
from hone.config.schema.base import ConfigModel, Schedule, section

DURATION = r"^\d+:\d{1,2}:\d{1,2}:\d{1,2}$"
"""Days, hours, minutes, seconds."""


class CheckpointingConfig(ConfigModel):
    """When checkpoints are written, and which are kept. The newest is always kept."""

    enabled: bool = True
    """Write checkpoints."""
    checkpoint_dir: LocalPath = "results/sft"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""
    metric_name: str | None = "val:val_loss"
    """What the best are chosen by: `val:NAME` or `train:NAME`; null: the newest are kept."""
    higher_is_better: bool = False
    """Whether a higher metric is better."""
    keep_top_k: int | None = Field(3)
    """How many to keep, by the metric; null: all."""
    save_period: int = Field(10, ge=1)
    """Steps between checkpoints."""
    checkpoint_must_save_by: str | None = Field(None, pattern=DURATION)
    """Save and stop after this much time, as DAYS:HOURS:MINUTES:SECONDS."""
    async_save: bool = True
    """Train on while a checkpoint is written, where memory has room for a copy of what is saved."""
    save_optimizer: bool = True
    """Save the optimizer's state too, without which a run cannot go on."""
    allow_config_change: bool = False
    """Go on from a checkpoint although settings that change the result have changed."""


class OnlineCheckpointingConfig(CheckpointingConfig):
    """When checkpoints are written, and which are kept."""

    checkpoint_dir: LocalPath = "results/online"
    """The run's folder. The same command again goes on from the newest checkpoint in it."""
    metric_name: str | None = "val:accuracy"
    """What the best are chosen by: `val:NAME` or `train:NAME`; null: the newest are kept."""
    higher_is_better: bool = True
    """Whether a higher metric is better."""


class WandbConfig(ConfigModel):
    """Weights & Biases."""

    project: str = "hone"
    """Project."""
    name: str | None = None
    """Name of the run; null: the run's folder."""


class MlflowConfig(ConfigModel):
    """MLflow."""

    experiment_name: str = "hone"
    """Experiment."""
    run_name: str | None = None
    """Name of the run; null: the run's folder."""
    tracking_uri: str | None = None
    """Address of the tracking server; null: MLflow's own default."""


class LoggerConfig(ConfigModel):
    """Where metrics go besides `metrics.csv`."""

    log_dir: LocalPath | None = None
    """Folder for the logs, in which the run gets a folder of its own name; null: the run's folder."""
    num_val_samples_to_print: int = Field(0, ge=0)
    """Validation samples shown on the terminal each time."""
    tensorboard_enabled: bool = True
    """Write TensorBoard event files, under `tensorboard/` in the run's folder."""
    log_rollouts: bool = True
    """Write every rollout of every step as JSONL, with its rewards."""
    wandb_enabled: bool = False
    """Log to Weights & Biases (WANDB_MODE=offline works without an account)."""
    mlflow_enabled: bool = False
    """Log to MLflow."""
    monitor_gpus: bool = True
    """Log memory and load of the GPUs, where there are any."""
    wandb: WandbConfig = section(WandbConfig)
    mlflow: MlflowConfig = section(MlflowConfig)


class ClusterConfig(ConfigModel):
    """The machines a run is for."""

    gpus_per_node: int = Field(1, ge=0)
    """GPUs per machine; 0: run on the CPU even where there is a GPU."""
    num_nodes: int = Field(1, ge=1)
    """Machines."""
    cpu_workers_per_node: int | None = Field(None, ge=1)
    """Processes per machine that compute on the CPU, each in a GPU's place; null: gpus_per_node counts."""
    ray_address: str | None = None
    """Address of a running Ray cluster (`host:6379`, or `auto`: the one that this machine belongs to). null: `auto`
    for several machines; on one machine Hone starts Ray itself, and without a second device there is none."""
    max_restarts: int = Field(3, ge=0)
    """How often in a row, without a checkpoint in between, lost workers are replaced before the run stops."""
    worker_timeout_s: float = Field(1800.0, gt=0)
    """Seconds without a sign of progress (a micro-batch, a decoded token) after which a worker is taken to hang."""
    node_wait_s: float = Field(60.0, ge=0)
    """Seconds to wait for machines to join. A run that had them and lost some then goes on with fewer."""
    cpu_threads: int | None = Field(None, ge=1)
    """Threads of torch; null: OMP_NUM_THREADS, else one for a model below 10 M parameters, else all cores."""

    @property
    def reserved_devices(self) -> int:
        """Devices that another model than the policy has for itself."""
        return 0

    @property
    def is_distributed(self) -> bool:
        """Whether more than one device is asked for."""
        return (
            self.cpu_workers_per_node or self.gpus_per_node
        ) * self.num_nodes > 1 or self.reserved_devices > 0


class RewardFunctionConfig(ConfigModel):
    """One reward function."""

    name: str | None = None
    """Its name in metrics. Without `path` it also says where the function is."""
    path: LocalName | None = None
    """A built-in (docs/rewards.md), `package.module.function`, or `file.py:function`; also a class, or a function that
    makes one, which is called with `kwargs`."""
    weight: Schedule = 1.0
    """Factor of this function in the sum; `{0: 1.0, 100: 0.2}`: it changes, by the number of optimizer steps done."""
    weight_schedule: Literal["linear", "step"] = "linear"
    """How a weight that changes gets from one point to the next: in a line, or at once."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of the function."""
    datasets: list[str] | None = None
    """Only rows of these datasets are given to the function, the others need it not; null: all."""
    envs: list[str] | None = None
    """Only rows with these `env_name`s; null: all."""

    def weight_at(self, step: int | None) -> float:
        """The weight once `step` optimizer steps are done; None: at the end."""
        return value_at(points(self.weight), step, self.weight_schedule)


class SandboxConfig(ConfigModel):
    """What a program that the model wrote may use, where a reward function runs it."""

    require_isolation: bool = True
    """Stop where programs cannot be kept from the network, files and processes of the machine. false: run them with
    what can be had, which is said when the run starts."""
    timeout_s: float = Field(5.0, gt=0)
    """Seconds for a program with all of its tests."""
    memory_mb: int = Field(256, ge=32)
    """Memory of all of its processes together, in MiB; it also bounds the address space of each."""
    max_processes: int = Field(16, ge=1)
    """Processes and threads at once."""
    disk_mb: int = Field(32, ge=1)
    """What it may write, in MiB; kept in memory and thrown away."""
    max_open_files: int = Field(64, ge=8)
    """Files that a process may hold open."""
    output_kb: int = Field(1024, ge=1)
    """What it may print, in KiB, before it is stopped."""


def _function_entries(value: Any) -> Any:
    """`math`, `f.py:fn` and `[f.py:fn, math]` are entries, too."""
    entries = [value] if isinstance(value, str | dict) else value
    if not isinstance(entries, list):
        return value
    return [
        {"path" if set(entry) & {".", ":"} else "name": entry} if isinstance(entry, str) else entry
        for entry in entries
    ]


class RewardsConfig(ConfigModel):
    """What completions are scored by: the weighted sum of reward functions, run in killable processes."""

    functions: Annotated[list[RewardFunctionConfig], BeforeValidator(_function_entries)] = Field(
        default_factory=list
    )
    """Each with TRL's signature `f(prompts, completions, **columns) -> list[float | None]`. A text is an entry, too:
    a `name`, or with a dot or a colon in it a `path`, such as `[math, my_rewards.py:short]`."""
    num_workers: int = Field(2, ge=1)
    """Processes that run reward functions."""
    timeout_s: float = Field(10.0, gt=0)
    """Seconds after which a call is stopped and counts as failed; what it imports meanwhile is not counted."""
    load_timeout_s: float = Field(120.0, gt=0)
    """Seconds that a function may take to be imported and to begin, and again for what a call of it imports; a reward
    model has half an hour at least."""
    memory_limit_mb: int | None = Field(None, ge=64)
    """Memory (address space) of each process that runs reward functions, in MiB; null: no limit."""
    max_failure_fraction: float = Field(0.1, ge=0, le=1)
    """The run stops when more than this part of a step's calls fail."""
    sandbox: SandboxConfig = section(SandboxConfig)
