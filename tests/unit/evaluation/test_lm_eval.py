"""lm-evaluation-harness with Hone's model: the numbers of its own Hugging Face class, and of Hone's suites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone import cli
from hone.embedded import MODELS
from tests.helpers.suite_rows import TEST

pytestmark = pytest.mark.slow  # the harness reads its thousands of tasks each time
lm_eval = pytest.importorskip("lm_eval")
MODEL = str(MODELS["hone/tiny-sft"])
SHORT = [
    {**TEST["arc_easy"][0], "question": question, "answerKey": key}
    for question, key in (("What is sweet?", "A"), ("What is hard?", "B"), ("What is clear?", "C"))
]
CHOICES = """\
task: own_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/test.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices.text}}}}"
doc_to_target: "{{{{choices.label.index(answerKey)}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 2}}
"""
ANSWERS = """\
task: own_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/sums.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["</answer>"], max_gen_toks: 24, do_sample: false}}
metric_list: [{{metric: exact_match}}]
metadata: {{version: 1}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks with data of our own, and the same data for Hone's suite."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SHORT))
    sums = [{"question": f"Tom has {n} apples and buys 3 more.", "answer": str(n + 3)} for n in range(4)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    (folder / "choices.yaml").write_text(CHOICES.format(folder=folder))
    (folder / "sums.yaml").write_text(ANSWERS.format(folder=folder))
    return folder


def theirs(folder: Path, task: str) -> list[dict[str, Any]]:
    """The samples of the harness's own class for Hugging Face models, in the order of the data."""
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": MODEL, "dtype": "float32", "max_length": 128},
        tasks=[task],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(folder)),
        device="cpu",
        bootstrap_iters=0,
    )
    return sorted(found["samples"][task], key=lambda record: record["doc_id"])


def ours(folder: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    common = [f"save_path={out}", "generation.precision=float32"]
    assert cli.main(["eval", *common, *words]) == 0
    (file,) = out.glob("*/samples.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_log_likelihoods_are_those_of_the_harness(tasks: Path, tmp_path: Path) -> None:
    wanted = theirs(tasks, "own_choices")
    bridge = ours(tasks, tmp_path / "bridge", "lm_eval=own_choices", f"lm_eval_path={tasks}")
    suite = ours(tasks, tmp_path / "suite", "suite=arc_easy", f"suite_data.arc_easy={tasks / 'test.jsonl'}")
    assert len(wanted) == len(bridge) == len(suite) == len(SHORT)
    for record, bridged, own in zip(wanted, bridge, suite, strict=True):
        logprobs = [float(answer[0]) for answer in record["filtered_resps"]]
        assert [float(value) for value, _ in bridged["extra"]["extracted"]] == pytest.approx(
            logprobs, abs=1e-4
        )
        assert own["extra"]["logprobs"] == pytest.approx(logprobs, abs=1e-4)
        greedy = [answer[1] for answer in record["filtered_resps"]]
        assert [flag for _, flag in bridged["extra"]["extracted"]] == greedy
        for metric in ("acc", "acc_norm"):
            assert bridged["rewards"][metric] == own["rewards"][metric] == record[metric]


def test_greedy_answers_are_those_of_the_harness(tasks: Path, tmp_path: Path) -> None:
    wanted = theirs(tasks, "own_sums")
    found = ours(tasks, tmp_path, "lm_eval=own_sums", f"lm_eval_path={tasks}")
    assert [record["completion"] for record in found] == [record["filtered_resps"][0] for record in wanted]
    assert any(record["completion"].strip() for record in found)


def test_whole_texts_have_the_likelihood_of_the_harness() -> None:
    from types import SimpleNamespace

    from lm_eval.models.huggingface import HFLM

    from hone.evaluation.lm_eval_model import HoneLM

    texts = ["Tom has 7 apples.", "A bag holds 12 pens, and 3 are lost. " * 12]
    requests = [SimpleNamespace(args=(text,)) for text in texts]
    their = HFLM(pretrained=MODEL, dtype="float32", max_length=127, device="cpu", batch_size=1)
    own = HoneLM(MODEL, **{"generation.precision": "float32", "generation.max_model_len": 128})
    assert own.loglikelihood_rolling(requests) == pytest.approx(
        their.loglikelihood_rolling(requests), abs=1e-3
    )


def test_the_report_is_a_suites(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours(tasks, tmp_path / "out", "lm_eval=own_choices", f"lm_eval_path={tasks}", "limit=2")
    report = json.loads((tmp_path / "out/report.json").read_text())["suites"]["own_choices"]
    assert (report["prompts"], report["version"], report["metric"]) == (2, 2, "acc")
    assert report["score"] == report["lm_eval"]["acc,none"]
    assert cli.main(["show", str(tmp_path / "out/own_choices")]) == 0
    assert cli.main(["eval", "compare", *[str(tmp_path / "out")] * 1, str(tmp_path / "out/own_choices"), "--out",
                     str(tmp_path / "compared")]) == 0  # fmt: skip
    assert "no difference found" in capsys.readouterr().out


def test_an_unknown_task_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "lm_eval=arc_eazy"]) == 2
    assert "did you mean arc_easy" in capsys.readouterr().err


def test_both_kinds_of_suites_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "lm_eval=arc_easy", "suite=gsm8k"]) == 2
    assert "evaluate on one of them at a time" in capsys.readouterr().err
