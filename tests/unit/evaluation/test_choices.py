"""Log-likelihood tasks: the sums are the model's own, and the metrics are those of the definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hone import cli
from hone.errors import DataError
from hone.evaluation.choices import choice_metrics, choice_problems, score_choices
from hone.evaluation.suite_data import load_problems
from tests.helpers.suite_rows import TEST, write_suite
from tests.helpers.tiny import make_learner, make_model, run
from tests.unit.evaluation.test_suites import writer

NAMES = ["mmlu", "hellaswag", "arc_challenge", "winogrande", "truthfulqa_mc1", "truthfulqa_mc2"]


def test_metrics_by_hand() -> None:
    """Sums -4, -3, -8 of texts of 8, 2 and 8 characters: the second is likeliest, the first for its length."""
    metrics, best = choice_metrics([-4.0, -3.0, -8.0], [8, 2, 8], [True, False, False])
    assert metrics == {"acc": 0.0, "acc_norm": 1.0}
    assert best == {"acc": 1, "acc_norm": 0}


def test_mc2_is_the_share_of_the_true_choices() -> None:
    metrics, _ = choice_metrics([math.log(0.2), math.log(0.1), math.log(0.1)], [3, 3, 3], [True, False, True])
    assert metrics["mc2"] == pytest.approx(0.75)
    assert metrics["acc"] == 1.0


def test_improbable_choices_have_an_mc2_too() -> None:
    metrics, _ = choice_metrics([-2000.0, -2000.0, -2000.0], [3, 3, 3], [True, False, True])
    assert metrics["mc2"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", NAMES)
def test_the_log_likelihood_of_a_choice_is_the_models_own(name: str, tmp_path: Path) -> None:
    """Against a forward of each text alone, without a shared prompt, padding or chunks."""
    one = writer(name, write_suite(tmp_path, name), chat=False, count=0)
    problems = choice_problems(one, load_problems(one.suite, str(tmp_path / name), None))
    assert len(problems) == len(TEST[name])
    model = make_model(vocab_size=420, max_position_embeddings=512)
    learner = make_learner(model, frozen=True)
    for problem, group in zip(problems, run(score_choices(problems, learner)), strict=True):
        for sample, found in zip(problem.samples, group.rollouts[0].extra["logprobs"], strict=True):
            with torch.no_grad():
                logits_TV = model(sample.tokens_T[None]).logits[0].float()
            logprobs_TV = logits_TV[:-1].log_softmax(-1)
            targets_T = sample.tokens_T[1:, None]
            wanted = logprobs_TV.gather(1, targets_T)[:, 0][sample.loss_mask_T[1:]].sum()
            assert found == pytest.approx(float(wanted), abs=1e-4)


def test_targets_are_the_tokens_of_the_choice(tmp_path: Path) -> None:
    one = writer("winogrande", write_suite(tmp_path, "winogrande"), chat=False, count=0)
    (problem,) = choice_problems(one, load_problems(one.suite, str(tmp_path / "winogrande"), None))
    decode = one.encoder.tokenizer.decode
    texts = [(decode(s.tokens_T[~s.loss_mask_T]), decode(s.tokens_T[s.loss_mask_T])) for s in problem.samples]
    assert texts == [
        (f"The trophy did not fit in the case because the {noun}", " was too large.")
        for noun in ("trophy", "case")
    ]
    assert problem.true == (True, False)


def test_choices_of_one_prompt_share_it(tmp_path: Path) -> None:
    one = writer("mmlu", write_suite(tmp_path, "mmlu"), chat=False, count=1)
    problem = choice_problems(one, load_problems(one.suite, str(tmp_path / "mmlu"), None))[0]
    assert {sample.group for sample in problem.samples} == {"mmlu:0"}
    for sample in problem.samples:
        assert sample.prefix == len(sample) - sample.num_targets > 100


def test_a_label_that_is_no_choice_is_refused(tmp_path: Path) -> None:
    path = write_suite(tmp_path, "hellaswag")
    file = path / "validation.jsonl"
    file.write_text(file.read_text().replace('"label": "0"', '"label": "4"'))
    one = writer("hellaswag", path, chat=False, count=0)
    with pytest.raises(DataError, match="hellaswag:0: the label 4 is not one of its 4 choices"):
        choice_problems(one, load_problems(one.suite, str(path), None))


def test_the_command_scores_an_embedded_model(tmp_path: Path) -> None:
    path, out = write_suite(tmp_path, "arc_easy"), tmp_path / "out"
    assert cli.main(["eval", "suite=arc_easy", f"suite_data.arc_easy={path}", f"save_path={out}"]) == 0
    report = json.loads((out / "arc_easy/report.json").read_text())
    assert report["score"] == report["metrics"]["acc_norm"]["mean"] in (0.0, 1.0)
    assert (report["prompts"], report["num_fewshot"], report["backend"]) == (1, 0, "builtin")
    (line,) = [json.loads(line) for line in (out / "arc_easy/samples.jsonl").read_text().splitlines()]
    assert line["extra"]["choices"] == ["honey", "steel", "glass", "salt"]
    assert all(value < 0 for value in line["extra"]["logprobs"])
