"""Ends what a job started if its agent is killed outright (out of memory, `kill -9`).

Slurm does that where it tracks processes by cgroup. Where it does not, the program would live on with nobody to know
of it, and keep its GPUs.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Callable, List, Set

from .places import remove_tree
from .processes import kill_all, session_of

_BYE = b"."


class Watchdog:
    """A process of its own, waiting on a pipe whose other end dies with the agent. Start it before any thread."""

    def __init__(self, marker: str, runtime: str) -> None:
        """`marker`: NAME=value that only this job's processes have in their environment."""
        reader, self._writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._writer)
                _watch(reader, marker.encode(), runtime)
            finally:
                os._exit(0)
        os.close(reader)

    def tell(self, session: int) -> None:
        """Name the process session of the program."""
        self._write(b"%d\n" % session)

    def dismiss(self) -> None:
        """All is ended properly: nothing is to be done. Gone when this returns, so that nothing outlives the agent."""
        self._write(_BYE)
        os.close(self._writer)
        with contextlib.suppress(ChildProcessError):  # it was killed, and is forgotten already
            os.waitpid(self.pid, 0)

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it may have been killed, as we may be
            os.write(self._writer, data)


def _watch(reader: int, marker: bytes, runtime: str) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    told = b""
    while True:
        data = os.read(reader, 4096)
        if not data:
            break
        told += data
    if told.endswith(_BYE):
        return
    sessions = {int(line) for line in told.split()}
    _end_all(lambda: _left(sessions, marker))
    remove_tree(runtime)


def _end_all(left: Callable[[], List[int]]) -> None:
    for _round in range(1000):
        pids = left() or left()  # one that started another and ended while we looked hid it
        if not pids:
            return
        kill_all(pids, signal.SIGKILL)


def _left(sessions: Set[int], marker: bytes) -> List[int]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != os.getuid():
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = marker in file.read().split(b"\0")
        except OSError:
            marked = False
        if marked or session_of(int(name)) in sessions:
            found.append(int(name))
    return found
