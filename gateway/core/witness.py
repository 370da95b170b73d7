"""What was refused is told to the audit log, in writes of its own, and without letting anybody flood it.

A refusal is written at once. The same one again (the same caller, act, object and reason) is counted, and told with its
number when the time is over in which it was: a minute for callers who are known, ten for those who are not, of whom
only so many are told apart.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gateway.core.bell import Bell
from gateway.errors import SluiceError
from gateway.model.audit import AuditLine
from gateway.store import audit as store
from gateway.store.database import Database

log = structlog.get_logger(__name__)

KNOWN, UNKNOWN = timedelta(minutes=1), timedelta(minutes=10)
STRANGERS = 200
MOST = 20_000
LOOK = 5.0
BATCH = 200
Key = tuple[str, ...]


@dataclass
class _Counted:
    """A refusal that came again: the last of them, and how many since it was last told."""

    line: AuditLine
    first: datetime
    until: datetime
    more: int = 0


class Tally:
    """Which refusals are told now, and which are counted. Pure: the times are given."""

    def __init__(self) -> None:
        self._known: dict[Key, _Counted] = {}
        self._strangers: dict[Key, _Counted] = {}

    def add(self, line: AuditLine, place: str = "") -> AuditLine | None:
        """The row to write, if it is one. `place` tells those apart who are not known."""
        seen, most = (self._strangers, STRANGERS) if line.kind == "nobody" else (self._known, MOST)
        key = _key(line, place)
        if key not in seen and len(seen) >= most:
            key = key[:2]  # all others together
        known = seen.get(key)
        if known is None:
            seen[key] = _Counted(line, line.at, line.at + _span(line))
            return line
        known.more, known.line = known.more + 1, line
        return None

    def due(self, now: datetime | None = None) -> list[AuditLine]:
        """The rows of those whose time is over, of all without `now`; who came again goes on being counted."""
        return [*_due(self._strangers, now), *_due(self._known, now)]


def _due(counted: dict[Key, _Counted], now: datetime | None) -> list[AuditLine]:
    rows = []
    for key, seen in list(counted.items()):
        if now is not None and now < seen.until:
            continue
        if not seen.more:
            del counted[key]
            continue
        said = {**seen.line.details, "count": seen.more, "since": seen.first.isoformat()}
        rows.append(seen.line.model_copy(update={"details": said, "request_id": None}))
        seen.more, seen.first = 0, seen.line.at
        seen.until = (now or seen.line.at) + _span(seen.line)
    return rows


class Witness:
    """Takes refusals from anywhere in the process's event loop; `run` writes them down until it is cancelled."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db, self._clock = db, clock
        self._tally = Tally()
        self._waiting: deque[AuditLine] = deque()
        self._bell = Bell()
        self._away = False
        self._writing = asyncio.Lock()

    def tell(self, line: AuditLine, place: str = "") -> None:
        """Something was refused. Returns at once."""
        row = self._tally.add(line, place)
        if row is not None:
            self._put([row])

    async def run(self) -> None:
        """Until cancelled; then what is known is written."""
        try:
            while True:
                heard = self._bell.listen()
                self._put(self._tally.due(self._clock()))
                if not await self._write():
                    await asyncio.sleep(LOOK)
                elif not self._waiting:
                    await self._bell.wait(LOOK, heard)
        finally:
            self._put(self._tally.due())
            while self._waiting:
                if not await self._write():
                    log.error("refusals are not in the audit log", rows=len(self._waiting))
                    self._waiting.clear()

    def _put(self, rows: Sequence[AuditLine]) -> None:
        for row in rows:
            if len(self._waiting) >= MOST:
                log.error("a refusal is not in the audit log", row=row.model_dump(mode="json"))
                continue
            self._waiting.append(row)
        if rows:
            self._bell.ring()

    async def _write(self) -> bool:
        """Write what waits; whether that could be done. Several services of a process may run this."""
        writing = asyncio.create_task(self._write_next())
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.gather(writing, return_exceptions=True)  # what is being written is not written again
            raise

    async def _write_next(self) -> bool:
        async with self._writing:
            return await self._write_some()

    async def _write_some(self) -> bool:
        rows = list(self._waiting)[:BATCH]
        if not rows:
            return True
        try:
            await self._db.write(store.append, rows)
        except SluiceError as error:
            if not self._away:
                log.warning("refusals wait for the audit log", code=error.code, error=error.message)
            self._away = True
            return False
        self._away = False
        for _ in rows:
            self._waiting.popleft()
        return True


def _key(line: AuditLine, place: str) -> Key:
    return (line.kind, line.outcome, line.who, line.token or "", line.action, line.object, line.policy, place)


def _span(line: AuditLine) -> timedelta:
    return UNKNOWN if line.kind == "nobody" else KNOWN
