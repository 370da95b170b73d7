"""Says in the job's Slurm comment where the service is, or how the job ended: patiently, and only the latest word."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any, Awaitable, Callable, List, Mapping, Optional, Sequence, Tuple

Tool = Callable[[Sequence[str], float], Awaitable[Tuple[int, str]]]
Say = Callable[[str], None]

_FIELDS = {"comment": "Comment", "extra": "Extra"}
_SCONTROL_SECONDS = 30.0
#: Slurm's words once a job was cancelled or timed out: nothing can be said of it any more.
_TOO_LATE = ("already finished", "Invalid job id")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0


def word(spec: Mapping[str, Any]) -> str:
    """What every announcement begins with: `sluice/1@GATEWAY`. Nothing of the spec needs to be known."""
    gateway = spec.get("gateway", "")
    return f"sluice/1@{gateway}" if gateway else "sluice/1"


def update_command(job_id: str, field: str, text: str) -> List[str]:
    """The command that sets this field (of the job spec's `comment_field`) of the job."""
    return ["scontrol", "update", f"JobId={job_id}", f"{_FIELDS[field]}={text}"]


class Announcer:
    """Keeps trying until Slurm has taken the latest text. A controller that is down costs nothing but time."""

    def __init__(self, tool: Tool, say: Say, job_id: str, field: str) -> None:
        self._tool = tool
        self._say = say
        self._job_id = job_id
        self._field = field
        self._text: Optional[str] = None
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._task: Optional[asyncio.Task[None]] = None

    def announce(self, text: str) -> None:
        """Make this the job's word, soon. It replaces one that Slurm has not taken yet."""
        self._text = text
        self._taken.clear()
        self._changed.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def settle(self, within: float) -> bool:
        """Wait until Slurm has the latest text; False if it does not within so many seconds."""
        if self._task is None:
            return True
        try:
            await asyncio.wait_for(self._taken.wait(), max(0.0, within))
        except asyncio.TimeoutError:
            return False
        return True

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        if not self._job_id:
            self._say("SLURM_JOB_ID is not set: nothing is announced")
            self._taken.set()
            return
        while True:
            await self._changed.wait()
            self._changed.clear()
            pause = _FIRST_PAUSE
            while self._text is not None:
                text = self._text
                argv = update_command(self._job_id, self._field, text)
                code, output = await self._tool(argv, _SCONTROL_SECONDS)
                if code == 0:
                    if text == self._text:
                        self._say(f"announced: {text}")
                        self._taken.set()
                        break
                    self._changed.clear()  # the newer text is on its way already
                    continue
                if any(word in output for word in _TOO_LATE):
                    self._say(f"Slurm counts the job as ended already: {text!r} is not announced")
                    self._taken.set()
                    break
                self._say(f"scontrol could not announce {text!r} (exit {code}): {output[-300:]}; trying again")
                try:
                    await asyncio.wait_for(self._changed.wait(), pause * random.uniform(0.7, 1.3))  # noqa: S311  # spreads, hides nothing
                    self._changed.clear()
                    pause = _FIRST_PAUSE
                except asyncio.TimeoutError:
                    pause = min(pause * 2, _LONGEST_PAUSE)


def advertised(environment: Mapping[str, str]) -> str:
    """The address of this node that the gateway is told. OSError if there is none but loopback.

    SLUICE_ADVERTISE, else what the node's name means, else the address of the default route's interface.
    """
    given = environment.get("SLUICE_ADVERTISE", "")
    if given:
        return given
    for name in (environment.get("SLURMD_NODENAME", ""), socket.gethostname()):
        for address in _addresses(name) if name else []:
            return address
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((elsewhere, 9))  # sends nothing, but picks the interface
                address = str(sock.getsockname()[0])
            except OSError:
                continue
        if not _is_local(address):
            return address
    raise OSError("this node knows no address of its own but loopback: set SLUICE_ADVERTISE in the job's environment")


def endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _addresses(name: str) -> List[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return [address for address in addresses if not _is_local(address)]


def _is_local(address: str) -> bool:
    return address.startswith(("127.", "fe80:", "0.")) or address in ("::1", "::")
