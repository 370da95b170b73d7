"""What processes of ours and of others cost: CPU seconds and memory, of whole trees of them."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.25
_TICKS = 100
#: At rest is who takes less of a core than this; who is given up on would never be.
_AT_REST, _REST_WITHIN = 0.05, 60.0


@dataclass
class Cost:
    """CPU seconds, and megabytes (resident) before and at the most."""

    cpu: float = 0.0
    before: float = 0.0
    peak: float = 0.0


@contextmanager
def cost(pids: Sequence[int], helpers: Sequence[int] = ()) -> Iterator[Cost]:
    """What these processes and their children cost during the block; of `helpers`, the CPU time of each by itself."""
    family = [one for pid in pids for one in tree(pid)]
    found = Cost(before=_memory(family))
    found.peak, began, over = found.before, _cpu([*family, *helpers]), threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY):
            found.peak = max(found.peak, _memory(family))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        found.cpu = _cpu([*family, *helpers]) - began
        found.peak = max(found.peak, _memory(family))


def rest(pids: Sequence[int]) -> None:
    """Wait until these processes and their children have nothing more to do, and no longer than a minute."""
    family = [one for pid in pids for one in tree(pid)]
    before, until = _cpu(family), time.monotonic() + _REST_WITHIN
    while time.monotonic() < until:
        time.sleep(_EVERY)
        now = _cpu(family)
        if now - before <= _AT_REST * _EVERY:
            return
        before = now


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, new = [], [pid]
    while new:
        found += new
        new = [child for one in new for child in children.get(one, ())]
    return found


def agents_of(session: str) -> tuple[int, ...]:
    """The processes of the agents of a session's jobs on this machine: the one that relays, and its watchdog."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            given = (folder / "environ").read_bytes()
        except OSError:
            continue
        if any(word.endswith(b"/agent.pyz") for word in words) and session.lower().encode() in given.lower():
            found.append(int(folder.name))
    return tuple(found)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu(pids: Sequence[int]) -> float:
    return sum((int(fields[11]) + int(fields[12])) / _TICKS for fields in map(_stat, pids) if fields)


def _memory(pids: Sequence[int]) -> float:
    """Resident megabytes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return total / 1024
