"""Numbers as people read them."""

from __future__ import annotations

import pytest

from hone.units import counted, format_bytes, format_count, format_duration, format_percent


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (42, "42s"), (187, "3m07s"), (7500, "2h05m"), (273600, "3d04h")]
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(950.2, "950"), (12345, "12.3k"), (4.56e6, "4.56M"), (7e9, "7B"), (1e12, "1T")]
)
def test_a_count_has_three_digits_and_a_suffix(value: float, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "0.5 KiB"), (3 << 20, "3.0 MiB"), (3.5 * 2**30, "3.5 GiB"), (2**41, "2.0 TiB")]
)
def test_bytes_are_in_the_largest_unit_that_they_fill(value: float, text: str) -> None:
    assert format_bytes(value) == text


def test_a_share_is_a_percentage_and_a_noun_has_its_plural() -> None:
    assert format_percent(0.1234) == "12.3%"
    assert [counted(1, "thread"), counted(2, "thread"), counted(2, "process")] == [
        *("1 thread", "2 threads", "2 processes")
    ]
