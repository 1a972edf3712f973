"""Settings of environments that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.kinds import section_of
from hone.config.schema import EnvironmentConfig, EvalConfig, RLConfig, kind_of


def turns(config: RLConfig | EvalConfig) -> Iterator[str]:
    """What is wrong with `env`, as sentences."""
    key = section_of(kind_of(config))
    count = (config.eval if isinstance(config, EvalConfig) else config.loop).max_rollout_turns
    env = config.env
    if count > 1 and not (env.is_configured or env.named):
        yield (
            f"{key}.max_rollout_turns={count} needs an environment that answers between turns: give env.tools or "
            "env.path, or set it to 1"
        )
    if env.is_configured and count == 1:
        yield (
            f"{key}.max_rollout_turns=1 leaves an environment no turn to answer: set it to how often the model may "
            "speak, such as 4"
        )
    for name, one in {"env": env, **{f"env.{name}": one for name, one in env.named.items()}}.items():
        yield from _one(name, one, named=one is not env)


def _one(key: str, config: EnvironmentConfig, *, named: bool) -> Iterator[str]:
    if named and not (config.path or config.tools):
        yield f"{key} is no environment: give {key}.path or {key}.tools"
    if (config.action is None) != (config.observation is None):
        yield f"{key}.action and {key}.observation go together: both are for a client of OpenEnv"
    elif config.action is not None and config.path is None:
        yield f"{key}.action is for a client of OpenEnv: name it in {key}.path"
