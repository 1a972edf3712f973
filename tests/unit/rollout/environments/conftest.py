"""A tokenizer with tools, and rollouts played with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hone.config.schema import EnvConfig
from hone.data.chat import Encoder
from hone.model.loading import load_tokenizer
from hone.rollout.environments.episode import EpisodeRunner
from hone.rollout.environments.episode_result import EpisodeResult
from hone.rollout.environments.pool import EnvironmentPool
from hone.types import Prompt, Sampling
from tests.helpers.env_helpers import TEMPLATE, Scripted

Play = Callable[..., list[list[EpisodeResult]]]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return load_tokenizer("hone/tiny", chat_template=str(TEMPLATE))


def asking(text: str, id: str = "p", **row: Any) -> Prompt:
    content = [{"role": "user", "content": text}]
    return Prompt(id, (1,), content, {"prompt": content, **row})


@pytest.fixture(scope="session")
def pools() -> Iterator[Callable[[EnvConfig], EnvironmentPool]]:
    """Pools that tests share: to start one takes a second."""
    with contextlib.ExitStack() as stack:
        started: dict[str, EnvironmentPool] = {}

        def pool(config: EnvConfig) -> EnvironmentPool:
            key = config.model_dump_json(exclude={"max_wait_s"})
            if key not in started:
                started[key] = stack.enter_context(EnvironmentPool(config))
            return started[key]

        yield pool


@pytest.fixture
def play(tokenizer: Any, pools: Callable[[EnvConfig], EnvironmentPool]) -> Play:
    """Play prompts in an environment with a model that says what a function tells it."""

    def run(
        env: dict[str, Any],
        say: Callable[[str, str], str],
        prompts: list[Prompt],
        *,
        count: int = 1,
        turns: int = 4,
        context: int = 1000,
        max_new_tokens: int = 200,
        generator: Scripted | None = None,
    ) -> list[list[EpisodeResult]]:
        config = EnvConfig.model_validate({"timeout_s": 5.0, "num_workers": 8, **env})
        episodes = EpisodeRunner(pools(config), Encoder(tokenizer), turns, context, config.max_wait_s)
        episodes.check()
        source = generator or Scripted(tokenizer, say)
        source.context = context
        return asyncio.run(episodes.run(prompts, source, Sampling(max_new_tokens), count))

    return run
