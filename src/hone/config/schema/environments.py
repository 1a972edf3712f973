"""`env`: what answers a model between its turns: tools and environments."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from hone.config.paths import LocalName
from hone.config.schema.base import ConfigModel


class EnvironmentConfig(ConfigModel):
    """One environment: tools, a class of your own, or both."""

    path: LocalName | None = None
    """What makes environments: `my_env.py:Class` or `pkg.module.Class`, with `reset` and `step`; TRL's
    `environment_factory` and environments of `verifiers` are taken as they are (docs/environments.md)."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that class or function."""
    tools: list[LocalName] = Field(default_factory=list)
    """Functions that the model may call, `my_tools.py:name` or `pkg.module.name`: with type hints and a docstring that
    says what each argument is."""
    action: str | None = None
    """OpenEnv: the function that makes an action of a message of the model's."""
    observation: str | None = None
    """OpenEnv: the function that makes text of what the server answers."""
    num_workers: int = Field(128, ge=1)
    """Rollouts that have this environment at once, each in a process of its own."""
    timeout_s: float = Field(10.0, gt=0)
    """Seconds after which a call is stopped. A tool function's time-out is told to the model; another environment's
    fails the rollout."""
    load_timeout_s: float = Field(120.0, gt=0)
    """Seconds that importing it may take."""
    memory_limit_mb: int | None = Field(None, ge=1)
    """Address space of a rollout's process (Linux); null: no limit."""
    max_observation_chars: int = Field(20_000, ge=1)
    """Characters of one answer or tool result; what is longer is cut, and counted."""
    reward_weight: float = 1.0
    """Factor of the environment's own reward in the sum."""


class EnvConfig(EnvironmentConfig):
    """The environment of all prompts, and under further names those that data choose by `env_name`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, EnvironmentConfig] = Field(init=False)
    named_entries: ClassVar[type[ConfigModel]] = EnvironmentConfig
    """What a key that is no field of this section holds."""
    not_entries: ClassVar[tuple[str, ...]] = ("math",)
    """Upstream's name of what is no environment here."""
    max_wait_s: float | None = Field(1.0, ge=0)
    """How long the generator waits for environments that have not answered before it goes on with the others; null: for
    all. Whoever it does not wait for joins a later batch, which can change log-probabilities in their last bits."""

    @property
    def named(self) -> dict[str, EnvironmentConfig]:
        """The environments that data choose by name."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def is_configured(self) -> bool:
        """Whether there is an environment for all prompts."""
        return bool(self.path or self.tools)
