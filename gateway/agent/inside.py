"""How to run one more program in the container of a job that runs: in its namespaces, or in one more like it."""

from __future__ import annotations

import os
import shutil
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

from .processes import descendants

#: The best shell of the image. Not as a login shell: that would forget the image's PATH.
SHELL = ("/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash; fi; exec /bin/sh")
#: Entered as they differ from ours, beside those that always do.
_MORE = ("ipc", "uts", "net", "cgroup")


class Entry(NamedTuple):
    """What to start. `joined`: the program is a child of what is started, and sees the processes of the container."""

    argv: List[str]
    environment: Dict[str, str]
    joined: bool


def join(payload: Optional[int], argv: Sequence[str], environment: Mapping[str, str]) -> Optional[Entry]:
    """Into the namespaces of the container whose Apptainer is the process `payload`.

    None where that cannot be: several tasks share a node's processes, a container that a setuid Apptainer made belongs
    to root. `environment` is laid over that of the program in the container.
    """
    nsenter = shutil.which("nsenter")
    inmate = _inmate(payload) if payload is not None and nsenter is not None else None
    if inmate is None or nsenter is None:
        return None
    try:
        with open(f"/proc/{inmate}/environ", "rb") as file:
            pairs = [entry.partition(b"=") for entry in file.read().split(b"\0") if entry]
        more = [f"--{name}" for name in _MORE if _namespace(inmate, name) != _namespace(os.getpid(), name)]
    except OSError:
        return None
    inner = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    words = [nsenter, f"--target={inmate}", "--user", "--preserve-credentials", "--mount", "--pid", *more]
    return Entry([*words, "--root", "--wd", "--", *argv], {**inner, **environment}, joined=True)


def _inmate(payload: int) -> Optional[int]:
    """The program in the container: the first process that is not the first of a process namespace of its own."""
    try:
        ours = _namespace(os.getpid(), "pid"), _namespace(os.getpid(), "user")
    except OSError:
        return None
    for pid in descendants(payload):
        try:
            theirs = _namespace(pid, "pid"), _namespace(pid, "user")
            if theirs[0] != ours[0] and theirs[1] != ours[1] and _number_inside(pid) != 1:
                return pid
        except (OSError, ValueError):
            continue  # it has just ended
    return None


def _namespace(pid: int, name: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{name}")


def _number_inside(pid: int) -> int:
    """The process id as its own namespace has it."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 1
