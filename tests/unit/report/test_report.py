"""`report.html`: what it holds, and that nothing in it comes to life."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hone.cli import main
from hone.errors import DataError
from hone.report import draw_run, write_report
from hone.report import page as report
from hone.report.panels import sections_of
from hone.tracking import RunFolder
from hone.tracking.catalogue import NOT_DRAWN
from hone.tracking.metrics_csv import MetricTable
from hone.tracking.run_info import write_end, write_start
from hone.training.process import lock_folder
from tests.unit.report.seeing_making import HOSTILE, make_run, record, write

CHROMIUM = next(
    (found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None
)


class Page(HTMLParser):
    """The elements of a page, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not any(name in ("src", "href") for name, _ in attrs), "nothing is fetched"
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.scripts[0]))


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["sft", "dpo", "rm", "grpo", "ppo", "distill"])
def test_every_kind_of_run_has_a_page_with_the_numbers_of_its_table(kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", kind)
    page = page_of(run)
    assert page.tags.count("script") == 2
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert page.data["steps"] == [float(row["step"]) for row in rows]
    for name, values in page.data["metrics"].items():
        assert values == [float(row[name]) for row in rows]
    assert set(page.data["metrics"]) == {
        k for k in rows[0] if not k.endswith("step") and any(r[k] for r in rows)
    }
    assert page.data["algorithm"] == kind
    assert page.data["run_info"]["versions"]["torch"]
    assert (page.data["rollouts"] is not None) == (kind in ("grpo", "ppo", "distill"))


def test_the_page_of_a_run_that_ended_says_so_while_its_process_still_holds_the_folder(
    tmp_path: Path,
) -> None:
    """The page is written by the run itself, just before it lets go."""
    run = make_run(tmp_path / "run", "sft", ended=False)
    with lock_folder(run, "checkpointing.checkpoint_dir"):
        assert page_of(run).data["state"] == "step 4 of 4, running"
        write_end(RunFolder(run), step=4, stopped=None, error=None)
        assert page_of(run).data["state"] == "step 4 of 4, finished"
        write_start(RunFolder(run), algorithm="sft", total_steps=8, step=4)
        assert page_of(run).data["state"] == "step 4 of 8, running"


def test_a_picture_that_fails_is_told_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", "sft")
    assert draw_run(RunFolder(run), "sft") == []
    (run / "curves.png").unlink()
    (run / "curves.png").mkdir()
    (run / "config.yaml").write_text("a: [")
    curves, page = draw_run(RunFolder(run), "sft")
    assert curves.startswith(f"{run / 'curves.png'} could not be made (IsADirectoryError")
    assert page.startswith(f"{run / 'report.html'} could not be made (ConfigError")
    assert f"`hone show {run} --html`" in page


def test_rollouts_histograms_and_causes_by_hand(tmp_path: Path) -> None:
    rollouts = page_of(make_run(tmp_path / "run")).data["rollouts"]
    last = rollouts["steps"][-1]
    assert (last["step"], last["count"]) == (4, 5)
    best = [rollouts["records"][place] for place in last["best"]]
    assert [one["reward"] for one in best] == [1.0, 1.0, 1.0, 0.0]
    assert {one["group"] for one in best[:2]} == {"rows:1@4", "rows:2@4"}
    assert [rollouts["records"][place].get("reward") for place in last["groups"][0]] == [0.0, 1.0, None]
    assert "reward" not in rollouts["records"][last["failed"][0]]
    by_name = {one["name"]: one for one in rollouts["histograms"]}
    assert by_name["reward"]["bins"] == ["0", "1"]
    assert by_name["reward"]["counts"] == [[1, 3]] * 4
    assert by_name["format"]["counts"] == [[4]] * 4, "a failure has no score"
    assert sorted(rollouts["causes"]) == [
        ["excluded: truncated", 8, "truncated"],
        ["timeout in reward 'answer'", 4, "timeout in reward 'answer': it took 10 s"],
    ]
    assert rollouts["prompts"]["rows:1@4"][0]["content"] == "question of rows:1@4"


def test_many_different_rewards_go_into_bins(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=1)
    rewards = [place / 8 for place in range(81)]
    write(run / "rollouts" / "step_1.jsonl", [record(1, "g", reward, rewards={}) for reward in rewards])
    (drawn,) = page_of(run).data["rollouts"]["histograms"]
    assert len(drawn["bins"]) == 10
    assert drawn["counts"] == [[8] * 9 + [9]]


def test_a_large_run_has_a_page_of_five_megabytes_that_says_what_it_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=1)
    for step in range(1, 90):
        records = [record(step, f"g{i // 4}", float(i % 3), completion="word " * 4000) for i in range(16)]
        write(run / "rollouts" / f"step_{step}.jsonl", records)
    table = MetricTable(run / "metrics.csv", None)
    table._rows = {step: {"step": str(step), "reward": str(step)} for step in range(1, 5001)}
    table.columns.append("reward")
    table._rewrite()
    table.close()
    path = write_report(run)
    assert path.stat().st_size < 5_000_000
    data = Page(path.read_text()).data
    assert re.search(
        r"of \d+ rollouts at \d+ of 89 steps; texts up to \d+ characters", data["rollouts"]["note"]
    )
    assert data["left_out"] == ["each point of a curve is the mean of 5 steps"]
    assert data["metrics"]["reward"][0] == 3.0, "the mean of 1 to 5"
    assert len(data["steps"]) == 1000


def test_every_metric_has_a_place_once() -> None:
    names = [
        "reward",
        "reward_a",
        "reward_b",
        "seconds_generation",
        "entropy",
        "brand_new",
        "failed_timeout",
        "seconds",
    ]
    placed = [m for _, panels in sections_of(names) for panel in panels for m, _ in panel.lines]
    assert sorted(placed) == sorted(set(names) - {"failed_timeout"} - NOT_DRAWN)


def test_metrics_without_a_panel_have_readable_titles_and_users_metrics_keep_their_names() -> None:
    names = ["tied_groups", "val_tool_failures", "kto_kl", "my_metric"]
    titles = [panel.title for _, panels in sections_of(names) for panel in panels]
    assert titles == ["Tied groups", "Tool failures, held out", "KTO's KL", "my_metric"]


def test_the_page_is_written_where_it_is_asked_for_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    assert main(["show", str(run), "--html", str(tmp_path / "elsewhere.html")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'elsewhere.html'}\n"
    assert main(["show", str(run), "--html"]) == 0
    before = (run / "report.html").read_text()
    assert before == (tmp_path / "elsewhere.html").read_text()
    monkeypatch.setattr(report, "page", lambda view: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write_report(run)
    assert (run / "report.html").read_text() == before
    with pytest.raises(DataError, match="did you mean"):
        write_report(tmp_path / "ran")


def test_a_run_with_nothing_in_it_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sft", steps=0)
    assert page_of(run).data["steps"] == []
    assert RunFolder(run).report.is_file()


def test_hostile_texts_are_data(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", said=HOSTILE)
    text = write_report(run).read_text(encoding="utf-8")
    assert "onerror" in text, "it is there"
    assert "<img" not in text
    assert "\u2028" not in text
    page = Page(text)
    assert page.tags.count("script") == 2
    assert page.data["rollouts"]["records"][0]["completion"] == HOSTILE


@pytest.mark.skipif(CHROMIUM is None, reason="no browser here")
@pytest.mark.slow
def test_a_browser_draws_it_without_a_word_of_complaint_and_stays_unharmed(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    path = write_report(make_run(tmp_path / "run", said=HOSTILE))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    done = subprocess.run([*command, f"file://{path}"], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert "<title>grpo: run</title>" in done.stdout, "nothing of it ran"
    shown = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert "&lt;img src=x onerror=" in shown, "it is shown as it was said"
    assert "<img" not in shown
    assert shown.count("<svg") >= 4
    for text in (
        "Reward",
        "Entropy",
        "What failed or was left out",
        "timeout in reward",
        "step 4 · 5 in all",
    ):
        assert text in shown
    assert "NaN" not in shown
