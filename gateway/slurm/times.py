"""Slurm's ways to write a time: `1-00:00:00`, `UNLIMITED`, epoch seconds, `{"set": true, "number": 30}`."""

import re
from datetime import UTC, datetime
from typing import Any, Final

_NONE: Final = frozenset(
    {"", "UNLIMITED", "INFINITE", "INVALID", "NOT_SET", "PARTITION_LIMIT", "UNKNOWN", "NONE", "N/A"}
)
_LIMIT: Final = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_FAR: Final = 253_402_300_799  # the last second of the year 9999


def minutes(text: str) -> int | None:
    """A limit as the commands print it (`10:00`, `1-00:00:00`, `2-12`), in minutes, rounded up; None for no limit."""
    found = _LIMIT.fullmatch(text.strip())
    if found is None:
        return None
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:  # days-hours[:minutes[:seconds]]
        hours, mins, seconds = ([*parts, 0, 0])[:3]
        total = ((int(found["days"]) * 24 + hours) * 60 + mins) * 60 + seconds
    elif len(parts) == 1:  # minutes
        total = parts[0] * 60
    elif len(parts) == 2:  # noqa: PLR2004  minutes:seconds
        total = parts[0] * 60 + parts[1]
    else:  # hours:minutes:seconds
        total = (parts[0] * 60 + parts[1]) * 60 + parts[2]
    return -(-total // 60)


def moment(value: Any) -> datetime | None:
    """Epoch seconds, as a number, text or REST's object; None where Slurm says none (0, `Unknown`, `N/A`)."""
    found = number(value)
    if found is None or found <= 0 or found > _FAR:
        return None
    return datetime.fromtimestamp(found, UTC)


def number(value: Any) -> int | None:
    """An integer as any release of the REST API writes it; None if it is not set or infinite."""
    if isinstance(value, dict):
        if not value.get("set", True) or value.get("infinite"):
            return None
        value = value.get("number")
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return int(value)
    if isinstance(value, str) and value.strip().upper() not in _NONE:
        text = value.strip()
        return int(text) if text.removeprefix("-").isdecimal() else None
    return None
