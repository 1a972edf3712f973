"""A server that runs already is looked at before a model is loaded, and is not sampled from with other weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import run

from hone import evaluation
from hone.config import load
from hone.engine.generator_group import GeneratorGroup
from hone.engine.vllm.checks import check
from hone.engine.vllm.generator import VLLMGenerator
from hone.engine.vllm.running import RunningServer
from hone.engine.vllm.server import ServerSettings
from hone.errors import ClusterError, ConfigError, WorkerLostError
from hone.model.model_size import ModelSize
from hone.planning.auxiliary_models import model_size_of_run
from hone.planning.placement import vllm_generates
from hone.types import Prompt, Sampling
from tests.helpers.fake_vllm import FakeVLLM, completion, running

NEEDED = ServerSettings("model", 64, "float32", "raw_logprobs")
PROMPT = Prompt("p", (5, 6, 9), "text")


@pytest.fixture
def fake() -> Iterator[FakeVLLM]:
    with running(FakeVLLM()) as made:
        yield made


@pytest.fixture(scope="module")
def size() -> ModelSize:
    return model_size_of_run(load("grpo", None, []).config)


def set_config(section: str, **values: Any) -> Callable[[FakeVLLM], None]:
    return lambda fake: fake.info.update({section: {**(fake.info[section] or {}), **values}})


BAD: list[tuple[Callable[[FakeVLLM], None], ServerSettings, str]] = [
    (set_config("model_config", max_model_len=40), NEEDED, "--max-model-len 40, .* may have 64 tokens"),
    (set_config("model_config", dtype="torch.bfloat16"), NEEDED, "--dtype bfloat16, .* needs float32"),
    (
        set_config("model_config", logprobs_mode="processed_logprobs"),
        NEEDED,
        "--logprobs-mode processed_logprobs, .* needs raw_logprobs",
    ),
    (
        set_config("weight_transfer_config", backend="nccl"),
        NEEDED,
        "--weight-transfer-config .*nccl.* needs .*hone",
    ),
    (lambda fake: fake.info.update(weight_transfer_config=None), NEEDED, "--weight-transfer-config"),
    (
        set_config("scheduler_config", enable_chunked_prefill=True),
        NEEDED,
        "--no-enable-chunked-prefill False, .* needs True",
    ),
    (
        set_config("lora_config", max_lora_rank=8),
        replace(NEEDED, arguments=["--max-lora-rank", "16"]),
        "--max-lora-rank 8, .* needs 16",
    ),
    (lambda fake: fake.replies.update({"/server_info": (404, {})}), NEEDED, "VLLM_SERVER_DEV_MODE=1"),
    (
        lambda fake: fake.replies.update({"/inference/v1/generate": (404, {})}),
        NEEDED,
        "without --enable-scale-out, which the run needs",
    ),
    (
        lambda fake: fake.replies.update({"/v1/load_lora_adapter": (404, {})}),
        replace(NEEDED, arguments=["--max-lora-rank", "16"]),
        "without VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
    ),
    (
        lambda fake: fake.replies.update(
            {
                "/init_weight_transfer_engine": (
                    500,
                    {
                        "error": {
                            "message": "Worker failed with error 'has another model', please check the stack"
                        }
                    },
                )
            }
        ),
        NEEDED,
        r"http://127.0.0.1:\d+ has another model$",
    ),
]


@pytest.mark.parametrize(("change", "needed", "said"), BAD)
def test_a_server_that_a_run_cannot_use_is_refused_by_name(
    change: Callable[[FakeVLLM], None], needed: ServerSettings, said: str, fake: FakeVLLM, size: ModelSize
) -> None:
    RunningServer(fake.url, NEEDED, size).start()
    change(fake)
    with pytest.raises(ConfigError, match=f"^{fake.url} .*{said}" if "http" not in said else said):
        RunningServer(fake.url, needed, size).start()


def test_a_run_asks_its_servers_before_anything_is_loaded(fake: FakeVLLM, size: ModelSize) -> None:
    """vLLM need not be installed where the learner is."""
    given = ["policy.generation.backend=vllm", f"policy.generation.vllm_cfg.server_urls={fake.url}"]
    config = load("grpo", None, [*given, "policy.precision=float32"]).config
    assert vllm_generates(config)
    check(config, size)
    expected = fake.asked[-1][1]["init_info"]["expected"]
    assert expected["vocab_size"] == size.vocabulary
    fake.stop()
    with pytest.raises(
        ClusterError, match=f"answers at {fake.url}: start one by `VLLM_SERVER_DEV_MODE=1 .*vllm serve "
    ):
        check(config, size)


def test_a_server_that_comes_late_is_waited_for(fake: FakeVLLM) -> None:
    fake.stop()
    threading.Timer(0.6, fake.restart).start()
    server = RunningServer(fake.url, NEEDED, wait_s=10)
    fake.replies["/weight_info"] = (200, {"weight_version": "default"})
    start = time.monotonic()
    server.start()
    assert 0.5 < time.monotonic() - start < 5
    assert server.model == "model"


def generator_at(fake: FakeVLLM, folder: Path, size: ModelSize) -> VLLMGenerator:
    server = RunningServer(fake.url, NEEDED, size, wait_s=5)
    return VLLMGenerator(server, weights=folder, stop_tokens=(1,), context=64)


def published(folder: Path, *versions: int) -> None:
    for version in versions:
        (folder / f"v{version}").mkdir()


def test_a_server_that_was_started_again_gets_the_present_weights(
    fake: FakeVLLM, size: ModelSize, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path, 3)
    group = GeneratorGroup([generator_at(fake, tmp_path, size)], batch_size=None, max_restarts=1)
    group.start()
    run(group.receive(3))
    fake.restart()
    ((done,),) = run(group.generate([PROMPT], Sampling(4)))
    assert [span.version for span in done.versions] == [3, 3]
    assert fake.paths().count("/update_weights") == 2
    assert "weights that this run did not send (default)" in capsys.readouterr().err


def test_weights_of_another_run_are_not_sampled_from(fake: FakeVLLM, size: ModelSize, tmp_path: Path) -> None:
    """Also if their version has the same number."""
    published(tmp_path, 3)
    first, second = (generator_at(fake, tmp_path, size) for _ in range(2))
    for generator in (first, second):
        generator.start()
        run(generator.receive(3))
    run(second.generate([PROMPT], Sampling(4)))
    with pytest.raises(
        WorkerLostError, match=r"did not send \(\w+:3\): it was started again, or another run"
    ):
        run(first.generate([PROMPT], Sampling(4)))


def test_the_folder_of_weights_must_be_seen(fake: FakeVLLM, tmp_path: Path) -> None:
    seen: list[bool] = []
    original = fake.reply

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if "init" in path:
            seen.append(Path(body["init_info"]["sign"]).is_file())
        return original(path, body)

    fake.reply = reply  # type: ignore[method-assign]
    RunningServer(fake.url, NEEDED).check_folder(tmp_path)
    assert seen == [True]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "label", "said"),
    [
        ("other", "default", "has the model other, not "),
        (None, "abc:3", r"weights that a run has sent \(abc:3\)"),
    ],
)
def test_an_evaluation_is_of_the_servers_model(
    model: str | None, label: str, said: str, fake: FakeVLLM
) -> None:
    given = ["generation.backend=vllm", f"generation.vllm_cfg.server_urls={fake.url}"]
    loaded = load("eval", None, [*given, "generation.precision=float32"])
    from hone.model.loading import resolve

    fake.models[0]["root"] = resolve(loaded.config.generation.model_name)
    evaluation.check(loaded)
    fake.label = label
    if model is not None:
        fake.models[0]["root"] = model
    with pytest.raises(ConfigError, match=said):
        evaluation.check(loaded)


def test_several_servers_share_the_prompts(size: ModelSize, tmp_path: Path) -> None:
    published(tmp_path, 1)
    with running(FakeVLLM()) as one, running(FakeVLLM()) as two:
        group = GeneratorGroup(
            [generator_at(fake, tmp_path, size) for fake in (one, two)], batch_size=None, max_restarts=1
        )
        group.start()
        run(group.receive(1))
        prompts = [Prompt(str(i), (5, 6), "text") for i in range(5)]
        done = run(group.generate(prompts, Sampling(4), count=3))
        assert [len(each) for each in done] == [3] * 5
        shares = [len(fake.asked) - len(fake.paths()) for fake in (one, two)]
        assert sorted(shares) == [6, 9]


def test_completions_of_a_server_that_is_lost_go_on_elsewhere(
    size: ModelSize, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path, 1)
    with running(FakeVLLM()) as one, running(FakeVLLM()) as two:
        group = GeneratorGroup(
            [generator_at(fake, tmp_path, size) for fake in (one, two)], batch_size=None, max_restarts=1
        )
        group.start()
        run(group.receive(1))
        busy = threading.Event()

        def fails(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            busy.set()
            return 500, {"error": {"message": "EngineCore died"}}

        one.answer = fails
        two.answer = lambda body: (busy.wait(5), completion(two.label))[1]
        threading.Thread(
            target=lambda: (busy.wait(5), setattr(one, "answer", lambda body: completion(one.label))),
            daemon=True,
        ).start()
        done = run(group.generate([PROMPT] * 4, Sampling(4), count=2))
        assert [len(each) for each in done] == [2] * 4
        assert f"starting vLLM at {one.url} again" in capsys.readouterr().err
