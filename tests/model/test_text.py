"""Durations, times and memory as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.text import check_text, nearest, parse_duration, parse_memory, parse_time


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("2h", 120),
        ("30m", 30),
        ("1d12h", 2160),
        ("90s", 2),
        (45, 45),
        ("45", 45),
        ("1-00:00:00", 1440),
        ("1-0", 1440),
        ("1-02:30", 1590),
        ("02:30:00", 150),
        ("90:30", 91),
        (" 1h ", 60),
    ],
)
def test_time_limits(text: object, minutes: int) -> None:
    assert parse_time(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "0m", 0, -1, "2 hours", "1:2:3:4", "unlimited", None, True, "h", 1.5])
def test_what_is_no_time_limit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a time limit"):
        parse_time(text)


@given(st.integers(1, 10**6))
def test_a_time_in_slurms_longest_form_is_the_same_number_of_minutes(minutes: int) -> None:
    days, rest = divmod(minutes, 1440)
    assert parse_time(f"{days}-{rest // 60:02}:{rest % 60:02}:00") == minutes
    assert parse_time(f"{minutes}m") == parse_time(str(minutes)) == parse_time(minutes) == minutes


@pytest.mark.parametrize(
    ("text", "mebibytes"), [("16G", 16384), ("512M", 512), ("1.5T", 1572864), ("1K", 1), ("2GiB", 2048), (7, 7), (0, 0)]
)
def test_memory(text: object, mebibytes: int) -> None:
    assert parse_memory(text) == mebibytes


@pytest.mark.parametrize("text", ["", "lots", "-1G", "1X", "1G 2G", None, True, -1])
def test_what_is_no_memory_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not an amount of memory"):
        parse_memory(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), (5, 5), ("0s", 0)])
def test_durations(text: object, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["10", "", "m", "1h 2m", -1, True, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 70000])
def test_texts_that_no_program_can_be_given(text: str) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogate|bytes long"):
        check_text(text)


def test_nearest_names_only_what_is_near() -> None:
    assert nearest("thread", ["threads", "context"]) == "threads"
    assert nearest("zzz", ["threads"]) == ""
