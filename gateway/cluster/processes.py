"""Finds the processes of a cluster by what the kernel says of them, so that none is missed after a kill."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway.errors import ClusterError

MARK = "SLUICE_CLUSTER"
"""An environment variable of everything that a cluster starts: its state directory and the identity of its record."""


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def started(pid: int) -> int:
    """When it started, in clock ticks since boot: with the number it names a process for good. 0: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def program(pid: int) -> str:
    """The name of the program that it runs, or "" where there is no such process."""
    return _read(f"/proc/{pid}/comm").decode(errors="replace").strip()


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def marked(mark: str) -> list[int]:
    """Processes with this mark in their environment; `mark` may be the beginning of one."""
    needle = f"\0{MARK}={mark}".encode()
    return [pid for pid in processes() if needle in b"\0" + _read(f"/proc/{pid}/environ")]


def inside(state: Path) -> list[int]:
    """Processes whose root lies on this cluster's disk: everything in its hosts, also what lost the mark."""
    needle = f"upperdir={state}/run/up".encode()
    return [pid for pid in processes() if needle in _read(f"/proc/{pid}/mountinfo")]


def path_in_use(path: str) -> bool:
    """Whether any mount of any process is made of this path."""
    return any(path.encode() in _read(f"/proc/{pid}/mountinfo") for pid in processes())


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(find: Callable[[], list[int]], *, timeout_s: float = 20) -> int:
    """Kill what `find` finds until it finds nothing; returns how many there were."""
    deadline = time.monotonic() + timeout_s
    seen: set[int] = set()
    while pids := [pid for pid in find() if pid != os.getpid() and started(pid)]:
        for pid in pids:
            kill(pid)
        seen.update(pids)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"processes {pids} do not end", hint="do they hang in the kernel? see ps -o pid,stat,wchan"
            )
        time.sleep(0.02)
    return len(seen)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""  # it ended meanwhile
