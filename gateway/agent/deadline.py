"""When the job's time limit is, so that a service can end before Slurm ends it."""

from __future__ import annotations

import re
import time
from typing import Awaitable, Callable, Mapping, Optional, Sequence, Tuple

Tool = Callable[[Sequence[str], float], Awaitable[Tuple[int, str]]]

_END = re.compile(r"\bEndTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\b")
#: A stop asked for so shortly before the limit (seconds) was Slurm's, for the limit.
_NEAR = 2.0


class Deadline:
    """`end`: Unix time of the job's end by its time limit, or None where there is none."""

    def __init__(self, environment: Mapping[str, str], tool: Tool) -> None:
        self._job_id = environment.get("SLURM_JOB_ID", "")
        self._tool = tool
        self.end = _number(environment.get("SLURM_JOB_END_TIME"))
        start = _number(environment.get("SLURM_JOB_START_TIME")) or time.time()
        self._length = self.end - start if self.end is not None else None

    @property
    def reached(self) -> bool:
        return self.end is not None and time.time() >= self.end - _NEAR

    def wait(self, before: float) -> Optional[float]:
        """Seconds until a service should begin to stop; None if never. Short jobs keep nine tenths of their time."""
        if self.end is None or before <= 0:
            return None
        if self._length is not None:
            before = min(before, self._length / 10)
        return self.end - before - time.time()

    async def ask(self) -> None:
        """Look whether the limit was changed meanwhile (or find it, on a Slurm that tells jobs nothing)."""
        if not self._job_id:
            return
        code, output = await self._tool(["scontrol", "show", "job", "-o", self._job_id], 15)
        found = _END.search(output) if code == 0 else None
        if found:
            self.end = time.mktime(time.strptime(found.group(1), "%Y-%m-%dT%H:%M:%S"))


def _number(text: Optional[str]) -> Optional[float]:
    return float(text) if text and text.isdigit() else None
