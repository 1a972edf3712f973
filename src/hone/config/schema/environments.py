"""`env`: environments and tools, which answer the model between its turns."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from hone.config.paths import LocalName
from hone.config.schema.base import ConfigModel


class EnvironmentConfig(ConfigModel):
    """One environment: tools, a class of your own, or both."""

    path: LocalName | None = None
    """Class or function that creates environments: `my_env.py:Class` or `pkg.module.Class`, with `reset` and `step`.
    TRL's `environment_factory` and environments of `verifiers` work unchanged (docs/environments.md)."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that class or function."""
    tools: list[LocalName] = Field(default_factory=list)
    """Functions that the model may call, `my_tools.py:name` or `pkg.module.name`. Each needs type hints and a
    docstring that describes its arguments."""
    action: str | None = None
    """OpenEnv: the function that turns a message of the model into an action."""
    observation: str | None = None
    """OpenEnv: the function that turns the server's answer into text."""
    num_workers: int = Field(128, ge=1)
    """Maximum number of concurrent rollouts with this environment, each in its own process."""
    timeout_s: float = Field(10.0, gt=0)
    """Seconds after which a call is stopped. The model is told of a tool function's time-out; that of an environment
    fails the rollout."""
    load_timeout_s: float = Field(120.0, gt=0)
    """Seconds that the import may take."""
    memory_limit_mb: int | None = Field(None, ge=1)
    """Address space of a rollout's process (Linux); null: no limit."""
    max_observation_chars: int = Field(20_000, ge=1)
    """Maximum characters of an observation or tool result; longer ones are truncated and counted."""
    reward_weight: float = 1.0
    """Weight of the environment's own reward in the total reward."""


class EnvConfig(EnvironmentConfig):
    """The environment of all prompts, and named environments, which data select by `env_name`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, EnvironmentConfig] = Field(init=False)
    named_entries: ClassVar[type[ConfigModel]] = EnvironmentConfig
    """The section behind a name that is not a field of this one."""
    max_wait_s: float | None = Field(1.0, ge=0)
    """Seconds that the generator waits for slow environments before it generates for the others; null: no limit. A
    rollout that it does not wait for joins a later batch, which can change log-probabilities in their last bits."""

    @property
    def named(self) -> dict[str, EnvironmentConfig]:
        """The environments that data select by name."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def is_configured(self) -> bool:
        """Whether there is an environment for all prompts."""
        return bool(self.path or self.tools)
