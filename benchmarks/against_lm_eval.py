"""Hone's suites against lm-evaluation-harness, prompt by prompt: the same model, data and prompts in fp32.

    python benchmarks/against_lm_eval.py MODEL --gsm8k FOLDER [--problems 20] [--questions 100]

MMLU: the few-shot questions that come with the harness (5 of each of 57 subjects), zero-shot log-likelihoods. GSM8K:
the first problems of FOLDER/test.jsonl with 5 examples of FOLDER/train.jsonl, greedy answers. Prints how far the two
are apart, and the numbers of both.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

from hone import cli

NEW_TOKENS = 128
MMLU = {
    "task": "same_mmlu",
    "output_type": "multiple_choice",
    "doc_to_text": (
        "The following are multiple choice questions (with answers) about {{subject.replace('_', ' ')}}.\n\n"
        "{{question | trim}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
    ),
    "doc_to_choice": ["A", "B", "C", "D"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
_MATCH = {"function": "take_first"}
GSM8K = {
    "task": "same_gsm8k",
    "output_type": "generate_until",
    "training_split": "train",
    "fewshot_split": "train",
    "fewshot_config": {"sampler": "first_n"},
    "num_fewshot": 5,
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["Question:"], "max_gen_toks": NEW_TOKENS, "do_sample": False},
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"],
        }
    ],
    "filter_list": [
        {
            "name": "strict",
            "filter": [{"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"}, _MATCH],
        },
        {
            "name": "flexible",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)"},
                _MATCH,
            ],
        },
    ],
}


def mmlu_rows(most: int) -> list[dict[str, Any]]:
    """The few-shot questions that come with the harness, one of each subject after the other."""
    folder = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "flan_cot_fewshot"
    subjects = []
    for file in sorted(folder.glob("mmlu_*.yaml")):
        found = yaml.load(file.read_text(), _Loader)
        subjects.append([_row(found["dataset_name"], one) for one in found["fewshot_config"]["samples"]])
    rows = [rows[i] for i in range(5) for rows in subjects if i < len(rows)]
    return [row for row in rows if row is not None][:most]


class _Loader(yaml.SafeLoader):
    """Reads the harness's own tags as text."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))


def _row(subject: str, sample: dict[str, str]) -> dict[str, Any] | None:
    question, _, options = sample["question"].partition("\n(A)")
    choices = [part.strip() for part in re.split(r"\([BCD]\)", options)]
    right = re.search(r"answer is \(([A-D])\)", sample["target"])
    if len(choices) != 4 or right is None:
        return None
    return {"question": question, "subject": subject, "choices": choices, "answer": "ABCD".index(right[1])}


def theirs(
    model: str, folder: Path, task: dict[str, Any], files: dict[str, Path], limit: int
) -> dict[str, Any]:
    """The harness's results with its own class for Hugging Face models."""
    sources = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {k: str(v) for k, v in files.items()}},
    }
    (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**task, **sources, "test_split": "test"}))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    arguments = {"pretrained": model, "dtype": "float32", "max_length": 2048}
    return lm_eval.simple_evaluate(
        model="hf", model_args=arguments, tasks=[task["task"]], task_manager=manager, limit=limit,
        batch_size=8, device="cpu", bootstrap_iters=0,
    )  # fmt: skip


def ours(model: str, folder: Path, suite: str, data: Path, *words: str) -> tuple[dict[str, Any], list[Any]]:
    """The report of Hone's suite and its samples."""
    out = folder / f"out_{suite}"
    given = [
        f"suite={suite}",
        f"suite_data.{suite}={data}",
        f"generation.model_name={model}",
        f"save_path={out}",
    ]
    assert cli.main(["eval", *given, "generation.precision=float32", "batch_size=8", *words]) == 0
    lines = (out / suite / "samples.jsonl").read_text().splitlines()
    return json.loads((out / suite / "report.json").read_text()), [json.loads(line) for line in lines]


def compare_mmlu(model: str, folder: Path, most: int) -> None:
    """Log-likelihoods of the letters."""
    rows = mmlu_rows(most)
    file = folder / "mmlu.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    started = time.perf_counter()
    report, samples = ours(model, folder, "mmlu", file, "num_fewshot=0")
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    found = theirs(model, folder, MMLU, {"test": file}, len(rows))
    records = sorted(found["samples"]["same_mmlu"], key=lambda record: record["doc_id"])
    gaps = [
        abs(float(answer[0]) - own)
        for record, sample in zip(records, samples, strict=True)
        for answer, own in zip(record["filtered_resps"], sample["extra"]["logprobs"], strict=True)
    ]
    same = sum(record["acc"] == one["rewards"]["acc"] for record, one in zip(records, samples, strict=True))
    print(
        f"MMLU, {len(rows)} questions: log-likelihoods differ by at most {max(gaps):.1e}; the same verdict on {same}; "
        f"acc {report['metrics']['acc']} and {found['results']['same_mmlu']['acc,none']:.4f}; {seconds:.0f} s and "
        f"{time.perf_counter() - started:.0f} s"
    )


def compare_gsm8k(model: str, folder: Path, data: Path, most: int) -> None:
    """Greedy answers and both extractors."""
    started = time.perf_counter()
    plain = ("apply_chat_template=false", f"limit={most}", f"generation.max_new_tokens={NEW_TOKENS}")
    report, samples = ours(model, folder, "gsm8k", data, *plain)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    found = theirs(model, folder, GSM8K, {name: data / f"{name}.jsonl" for name in ("train", "test")}, most)
    records = {}
    for record in found["samples"]["same_gsm8k"]:
        records.setdefault(record["doc_id"], {})[record["filter"]] = record
    pairs = [(records[i], sample) for i, sample in enumerate(samples)]
    texts = sum(r["strict"]["resps"][0][0] == s["completion"].split("Question:")[0] for r, s in pairs)
    verdicts = sum(
        r[name]["exact_match"] == s["rewards"][name] for r, s in pairs for name in ("strict", "flexible")
    )
    numbers = {
        name: value for name, value in found["results"]["same_gsm8k"].items() if "exact_match," in name
    }
    print(
        f"GSM8K, {most} problems: {texts} answers are the same text, {verdicts} of {2 * most} verdicts are the same; "
        f"{report['metrics']} and {numbers}; {seconds:.0f} s and {time.perf_counter() - started:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--questions", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        compare_mmlu(options.model, folder, options.questions)
        if options.gsm8k is not None:
            compare_gsm8k(options.model, folder, options.gsm8k, options.problems)


if __name__ == "__main__":
    main()
