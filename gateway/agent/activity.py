"""What no request shows: Jupyter kernels and terminals at work, GPUs in use. What cannot be asked counts as busy."""

from __future__ import annotations

import asyncio
import calendar
import json
import os
import time
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .probe import get

if TYPE_CHECKING:
    from .dial import Target

Tool = Callable[[Sequence[str], float], Awaitable[Tuple[int, str]]]

EVERY = 15.0
_WITHIN = 10.0
_NVIDIA = ("nvidia-smi", "--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits")


class Activity:
    """Looks every few seconds at what the job spec says (`service.activity`); `quiet`: for how long it is still."""

    def __init__(
        self, service: Mapping[str, Any], target: Target, tool: Tool, say: Callable[[str], None], every: float = EVERY
    ) -> None:
        self._watched: Mapping[str, Any] = service["activity"] or {}
        self._prefix: str = service["prefix"]
        self._target, self._tool, self._say, self._every = target, tool, say, every
        self._busy_at: Dict[str, float] = {}
        self._told: Dict[str, str] = {}
        self.rounds = 0
        for name, asked in self._watched.items():
            if asked:
                self._busy_at[name] = time.time()

    async def run(self) -> None:
        """Until cancelled; at once at its end if nothing is to be watched."""
        while self._busy_at:
            for name in self._busy_at:
                await self._look(name)
            self.rounds += 1
            await asyncio.sleep(self._every)

    def quiet(self) -> Dict[str, float]:
        """Seconds since something was done, by what is watched: `kernels`, `gpu_below`."""
        return {name: round(max(0.0, time.time() - at), 3) for name, at in self._busy_at.items()}

    async def _look(self, name: str) -> None:
        now, why = time.time(), ""
        try:
            busy_at = await (self._kernels(now) if name == "kernels" else self._gpus(now))
        except (OSError, ValueError, KeyError, TypeError) as error:
            busy_at, why = now, f"{name} cannot be asked, so they count as busy: {error}"
        if busy_at is not None:
            self._busy_at[name] = max(self._busy_at[name], min(busy_at, now))
        if why and why != self._told.get(name):
            self._say(why)
        self._told[name] = why

    async def _kernels(self, now: float) -> Optional[float]:
        """When a kernel or a terminal of the Jupyter server last did something."""
        loop, found = asyncio.get_running_loop(), []
        for kind in ("kernels", "terminals"):
            path = f"{self._prefix}/api/{kind}"
            rows = json.loads(await loop.run_in_executor(None, get, self._target, path, _WITHIN))
            for row in rows:
                # Terminals have no state. Of a kernel, what is not known to be at rest is at work.
                busy = row.get("execution_state", "idle") not in ("idle", "dead")
                found.append(now if busy else _moment(row["last_activity"]))
        return max(found, default=None)

    async def _gpus(self, now: float) -> Optional[float]:
        """Now, if one of the job's GPUs is used so much or more."""
        code, output = await self._tool(_NVIDIA, _WITHIN)
        if code:
            raise OSError(output.strip()[:200] or f"nvidia-smi ends with {code}")
        rows = [line.split(",") for line in output.splitlines() if line.strip()]
        used = mine([(index.strip(), float(use)) for index, use in rows], os.environ.get("SLURM_JOB_GPUS", ""))
        return now if not used or max(used) >= self._watched["gpu_below"] else None


def mine(rows: Sequence[Tuple[str, float]], given: str) -> List[float]:
    """The use of the job's GPUs. Where devices are constrained only these are seen, else `given` are their numbers."""
    numbers = [number for number in given.split(",") if number]
    if not numbers or len(rows) <= len(numbers):
        return [use for _, use in rows]
    return [use for index, use in rows if index in numbers]


def _moment(text: str) -> float:
    """Jupyter's `2026-01-01T12:00:00.123456Z` as Unix time."""
    return float(calendar.timegm(time.strptime(text.partition(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")))
