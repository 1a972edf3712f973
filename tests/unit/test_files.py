"""Files are replaced whole or not at all, and errors name the file and the full disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from hone.files import (
    by_step,
    disk_full_message,
    is_disk_full,
    last_lines,
    read_json_object,
    replacing,
    write_atomically,
    write_json,
)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_replaced_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "één\n")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_permissions_hold_from_the_first_byte(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", b"key", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, replacing(tmp_path / "picture.png"):
        full()
    assert caught.value.filename == str(tmp_path / "picture.png")
    assert f"disk full while writing {tmp_path / 'picture.png'}" in str(disk_full_message(caught.value))
    assert disk_full_message(PermissionError(errno.EACCES, "no")) is None


def test_a_full_disk_is_found_behind_the_errors_of_libraries() -> None:
    outer = RuntimeError("writing failed")
    outer.__cause__ = OSError(errno.ENOSPC, "full")
    assert is_disk_full(outer)
    assert is_disk_full(RuntimeError("unexpected pos 64 vs 0"))
    assert not is_disk_full(RuntimeError("something else"))


@pytest.mark.parametrize("content", [None, "{", "[1]", "\0"])
def test_json_that_is_missing_damaged_or_no_object_is_empty(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "file").write_text(content)
    assert read_json_object(tmp_path / "file") == {}


def test_json_comes_back_and_half_a_character_is_a_question_mark(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": "é\ud800"})
    assert read_json_object(tmp_path / "file") == {"a": "é?"}


def test_steps_are_ordered_by_their_numbers_and_other_names_are_left_out(tmp_path: Path) -> None:
    for name in ("step_10", "step_9", "step_x", ".writing_step_3_0a", "step_2.jsonl"):
        (tmp_path / name).mkdir()
    found = by_step(tmp_path.iterdir())
    assert [(step, path.name) for step, path in found.items()] == [
        (2, "step_2.jsonl"),
        (9, "step_9"),
        (10, "step_10"),
    ]
    assert by_step((tmp_path / "missing").glob("step_*")) == {}


def test_the_last_lines_of_a_log_are_added_to_a_message_if_there_are_any(tmp_path: Path) -> None:
    log = tmp_path / "rank_0.log"
    assert last_lines(log) == ""
    log.write_text("one\ntwo\nthree\n\n")
    assert last_lines(log, 2) == f"\nlast lines of {log}:\n  two\n  three"
