"""Processes of this machine: which are still there."""

import os
from pathlib import Path

_STATE, _STARTED = 0, 19  # fields of /proc/<pid>/stat after the name of the program
_ENDED = {"Z", "X"}


def place() -> str:
    """The machine since its last start, and the process namespace: where these are the same, process ids are, too."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started(pid: int | None = None) -> int:
    """When a process began, in ticks since the machine's start; 0 if there is no such process, or it has ended."""
    try:
        text = Path(f"/proc/{os.getpid() if pid is None else pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[_STATE] in _ENDED else int(fields[_STARTED])
