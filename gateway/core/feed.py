"""The newest events, read once for all who follow them; and what other servers say that there is to look at."""

from bisect import bisect_right
from collections.abc import Sequence

import structlog

from gateway.core.bell import Bell
from gateway.errors import SluiceError
from gateway.model.principal import Principal
from gateway.store import events as store
from gateway.store import watch
from gateway.store.database import Database
from gateway.store.events import Event, Whose

log = structlog.get_logger(__name__)

KEPT = 10_000
LOOK_AGAIN = 1.0


class Feed:
    """Events with ids above `floor`, as far as they are known; `bell` rings when there are more.

    While it does not run it holds nothing, and who follows asks the database.
    """

    def __init__(self, db: Database, news: Bell) -> None:
        self._db, self._news = db, news
        self._events: list[tuple[Event, Whose]] = []
        self._ids: list[int] = []
        self.bell = Bell()
        self.floor: int | None = None

    async def run(self) -> None:
        """Read what is new whenever something rings, and every second anyway, until cancelled."""
        try:
            while True:
                heard = self._news.listen()
                try:
                    more = await self._read()
                except SluiceError as error:
                    log.warning("events are not read", code=error.code, error=error.message)
                    more = False
                if not more:
                    await self._news.wait(LOOK_AGAIN, heard)
        finally:
            self.floor, self._events, self._ids = None, [], []
            self.bell.ring()

    def after(self, caller: Principal, last: int, session_id: str | None = None) -> Sequence[Event] | None:
        """The caller's events with ids above `last`; None if some of them may not be held here."""
        if self.floor is None or last < self.floor:
            return None
        newer = self._events[bisect_right(self._ids, last) :]
        return [event for event, whose in newer if session_id in {None, whose.id} and caller.sees(whose)]

    @property
    def newest(self) -> int | None:
        """The id of the newest event that is held here, or was before the first; None while it does not run."""
        return self._ids[-1] if self._ids else self.floor

    async def _read(self) -> bool:
        """Whether there may be more at once."""
        if self.floor is None:
            self.floor = await self._db.read(store.newest)
        found = await self._db.read(store.everybodys, self._ids[-1] if self._ids else self.floor)
        if not found:
            return False
        self._events += found
        self._ids += [event.id for event, _ in found]
        if len(self._ids) > 2 * KEPT:
            self.floor = self._ids[-KEPT - 1]
            del self._events[:-KEPT], self._ids[:-KEPT]
        self.bell.ring()
        return len(found) == store.PAGE


async def hear(db: Database, news: Bell, work: Bell) -> None:
    """Ring when other processes have written something, until cancelled."""
    async for kinds in watch.heard(db):
        if "work" in kinds:
            work.ring()
        news.ring()
