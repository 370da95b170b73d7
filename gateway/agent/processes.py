"""The payload's processes: started in a session of their own, signalled, waited for, and none left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """Make this process the parent of its descendants' orphans, so that they are found and ended."""
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def descendants(root: int) -> List[int]:
    """Every living process below `root`, parents before children."""
    children: Dict[int, List[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            seen = _parent_and_state(int(name))
            if seen is not None and seen[1] not in "ZX":
                children.setdefault(seen[0], []).append(int(name))
    found: List[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def children(parent: int) -> List[int]:
    """The living processes right below this one."""
    found = []
    for name in os.listdir("/proc"):
        seen = _parent_and_state(int(name)) if name.isdigit() else None
        if seen is not None and seen[0] == parent and seen[1] not in "ZX":
            found.append(int(name))
    return found


def session_of(pid: int) -> int:
    """The process session of a living process of ours; 0 if it is gone or dead."""
    fields = _stat(pid)
    return int(fields[3]) if fields and fields[0] not in "ZX" else 0


def kill_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended, or changed its user
            os.kill(pid, number)


def usage(pids: Sequence[int]) -> Dict[str, float]:
    """What these processes use now: `rss_bytes` and `cpu_seconds` in sum, and how many they are."""
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    rss = ticks = count = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            count += 1
            rss += int(fields[21]) * page
            ticks += sum(int(value) for value in fields[11:15])
    return {"processes": count, "rss_bytes": rss, "cpu_seconds": round(ticks / tick, 2)}


class Payload:
    """One program, its descendants, and its end. Make it in a running event loop, in the main thread."""

    def __init__(self, spared: Sequence[int] = ()) -> None:
        """`spared`: processes below us that are not the payload's."""
        self._loop = asyncio.get_running_loop()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._ended: asyncio.Event = asyncio.Event()
        self._starting = 0
        self._spared: Set[int] = set(spared)
        self._others: Dict[int, Tuple[subprocess.Popen[bytes], Callable[[int], None]]] = {}
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self, argv: Sequence[str], environment: Mapping[str, str], directory: str, output: int, stdin: int
    ) -> int:
        """Start it with both outputs to the descriptor `output`; its session. OSError if it cannot be started."""
        self._process = subprocess.Popen(
            list(argv),
            env=dict(environment),
            cwd=directory,
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self._reap()
        return self._process.pid

    def spawn(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        files: Tuple[int, int, int],
        exited: Callable[[int], None],
        *,
        new_session: bool = False,
    ) -> int:
        """Start one program more, with these descriptors as its input and outputs; its pid. OSError if it cannot be.

        `exited` is told its return code, as subprocess gives it. It is ended with the rest.
        """
        stdin, stdout, stderr = files
        process = subprocess.Popen(
            list(argv),
            env=dict(environment),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=new_session,
        )
        self._others[process.pid] = process, exited
        self._reap()
        return process.pid

    @property
    def pid(self) -> Optional[int]:
        return self._process.pid if self._process is not None else None

    @property
    def returncode(self) -> Optional[int]:
        return self._process.returncode if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def wait(self) -> int:
        """The return code, as subprocess gives it (-n after signal n)."""
        await self._ended.wait()
        return int(self.returncode or 0)

    def signal(self, number: int) -> None:
        """To the main process only: Apptainer hands it on to the program in the container, once."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def alive(self) -> List[int]:
        """Every process of the job but the agent and its own helpers."""
        return [pid for pid in descendants(os.getpid()) if pid not in self._spared]

    async def end_rest(self, patience: float) -> int:
        """End whatever is left: SIGTERM, after `patience` seconds SIGKILL; how many had to be killed."""
        kill_all(self.alive(), signal.SIGTERM)
        until = self._loop.time() + patience
        while self.alive() and self._loop.time() < until:  # noqa: ASYNC110  # the kernel sends no event for these
            await asyncio.sleep(0.05)
        killed = 0
        for _round in range(200):
            left = self.alive() or self.alive()  # one that started another and ended while we looked hid it
            if not left:
                break
            killed = max(killed, len(left))
            kill_all(left, signal.SIGKILL)
            await asyncio.sleep(0.01)
        self._reap()
        return killed

    async def tool(self, argv: Sequence[str], within: float) -> Tuple[int, str]:
        """Run a helper (scontrol, openssl) to its end: return code and output. 127 not found, 124 too slow."""
        self._starting += 1
        pid = 0
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            pid = process.pid
            self._spared.add(pid)
            return await _finish(process, within)
        except FileNotFoundError:
            return 127, f"{argv[0]} is not on the PATH of this node"
        except OSError as error:
            return 126, str(error)
        finally:
            self._starting -= 1
            self._spared.discard(pid)
            self._reap()

    def _reap(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._ended.set()
        for process, exited in list(self._others.values()):
            if process.poll() is not None:
                del self._others[process.pid]
                self._loop.call_soon(exited, process.returncode)
        while not self._starting:  # a helper's end is for whoever waits for it
            try:
                seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if seen is None or seen.si_pid == self.pid or seen.si_pid in self._others:
                return
            os.waitpid(seen.si_pid, 0)


async def _finish(process: asyncio.subprocess.Process, within: float) -> Tuple[int, str]:
    try:
        output, _ = await asyncio.wait_for(process.communicate(), within)
    except asyncio.TimeoutError:
        await _kill(process)
        return 124, f"no answer within {within:.0f} s"
    except asyncio.CancelledError:
        await _kill(process)
        raise
    return process.returncode or 0, output.decode("utf-8", "replace").strip()


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _stat(pid: int) -> List[str]:
    """The fields of /proc/PID/stat from the state on; empty if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return []
    return text[text.rfind(")") + 2 :].split()


def _parent_and_state(pid: int) -> Optional[Tuple[int, str]]:
    fields = _stat(pid)
    return (int(fields[1]), fields[0]) if len(fields) > 1 else None
