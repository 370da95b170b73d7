"""Text from people: what may stand in a value at all, durations, times and amounts of memory."""

import math
import re
from collections.abc import Iterable
from difflib import get_close_matches

MAX_TEXT = 64 * 1024
"""Longest value in bytes: the kernel takes no single argument above 128 KiB."""

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SLURM_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d{1,2}){0,2})")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])?(?:i?B)?", re.IGNORECASE)
_MEBIBYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def check_text(value: str) -> str:
    """The value itself, if a program can be given it; ValueError for a NUL, a lone surrogate or too much of it."""
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ValueError("is not valid Unicode text (a lone surrogate)") from error
    if size > MAX_TEXT:
        raise ValueError(f"is {size} bytes long; at most {MAX_TEXT} are allowed")
    return value


def parse_duration(value: object) -> int:
    """Seconds from `90s`, `10m`, `2h`, `1d12h` or a number of seconds; ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value and (found := _DURATION.fullmatch(value.strip().lower())):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        if any(found.groups()):
            return days * 86400 + hours * 3600 + minutes * 60 + seconds
    raise ValueError(f"{value!r} is not a duration: write 90s, 10m, 2h or 1d12h (a bare number is seconds)")


def parse_time(value: object) -> int:
    """Whole minutes, rounded up, from `2h`, `30m`, a number of minutes, or Slurm's own forms (`1-00:00:00`)."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    seconds = _slurm_seconds(value.strip()) if isinstance(value, str) else None
    if seconds is None and isinstance(value, str) and not value.strip().isdigit():
        try:
            seconds = parse_duration(value)
        except ValueError:
            seconds = None
    if not seconds:
        raise ValueError(f"{value!r} is not a time limit: write 2h, 30m, 1d12h, 1-00:00:00 or a number of minutes")
    return math.ceil(seconds / 60)


def _slurm_seconds(text: str) -> int | None:
    """Seconds from Slurm's `minutes[:seconds]`, `hours:minutes:seconds`, `days-hours[:minutes[:seconds]]`."""
    found = _SLURM_TIME.fullmatch(text)
    if not found:
        return None
    clock = [int(part) for part in found["clock"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = (*clock, 0, 0)[:3]
    elif len(clock) == 3:  # noqa: PLR2004 -- hours, minutes, seconds
        hours, minutes, seconds = clock
    else:
        hours, (minutes, seconds) = 0, (*clock, 0)[:2]
    return int(found["days"] or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def parse_memory(value: object) -> int:
    """MiB, rounded up, from `16G`, `512M`, `1.5T` or a number of MiB. 0 is Slurm's word for all of a node."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _MEMORY.fullmatch(value.strip())):
        return math.ceil(float(found[1]) * _MEBIBYTES[(found[2] or "M").upper()])
    raise ValueError(f"{value!r} is not an amount of memory: write 16G, 512M or a number of MiB")


def is_expression(value: object) -> bool:
    """Whether a value of a recipe is a template to be worked out from the parameters."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that `word` was probably meant to be; empty if none is near."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.6)), "")
