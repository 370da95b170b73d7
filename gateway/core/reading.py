"""Reading sessions fast, and never late: what a session looks like is kept, which version is current is asked.

Requests that come while the database is asked are answered by the next question, all together; so a thousand readers
cost a few questions, and each of them is told what was true after it asked, whoever wrote it, on whichever server.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from gateway.model.principal import Principal
from gateway.store import sessions as store
from gateway.store import views
from gateway.store.database import Database
from gateway.store.sessions import Current, SessionQuery

AT_ONCE = 500
KEPT = 10_000
#: A page is mostly work of the interpreter: more of them at once only wait for each other's turns.
PAGES_AT_ONCE = 2


@dataclass(frozen=True)
class Shown:
    """A session as it is shown, in one version: JSON, and its entity tag."""

    version: int
    body: bytes
    tag: str


@dataclass(frozen=True)
class _Ask:
    caller: Principal
    ref: str
    answer: asyncio.Future[Shown]


class Reading:
    """Sessions as the API shows them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._kept: dict[str, Shown] = {}
        self._asks: list[_Ask] = []
        self._asking: asyncio.Task[None] | None = None
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)

    async def one(self, caller: Principal, ref: str) -> Shown:
        """By id or by name. SessionNotFound also for what the caller may not know of."""
        ask = _Ask(caller, ref, asyncio.get_running_loop().create_future())
        self._asks.append(ask)
        if self._asking is None:
            self._asking = asyncio.create_task(self._answer_all(), name="reading")
        return await ask.answer

    async def page(self, caller: Principal, query: SessionQuery) -> tuple[list[Shown], str | None]:
        """One page, newest first, and the cursor of the next."""
        async with self._pages:
            shown, fresh, following = await self._db.read(self._page, caller, query)
        self._keep(fresh)
        return shown, following

    async def _answer_all(self) -> None:
        try:
            while self._asks:
                asks, self._asks = self._asks[:AT_ONCE], self._asks[AT_ONCE:]
                try:
                    found, fresh = await self._db.read(self._many, asks)
                except Exception as error:  # noqa: BLE001 - whoever asked is told
                    for ask in asks:
                        if not ask.answer.done():
                            ask.answer.set_exception(error)
                    continue
                self._keep(fresh)
                for ask, shown in zip(asks, found, strict=True):
                    if ask.answer.done():
                        continue
                    if shown is None:
                        ask.answer.set_exception(store.unknown(ask.ref))
                    else:
                        ask.answer.set_result(shown)
        finally:
            self._asking = None

    def _many(self, connection: Connection, asks: Sequence[_Ask]) -> tuple[list[Shown | None], Mapping[str, Shown]]:
        callers: dict[int, tuple[Principal, set[str]]] = {}
        for ask in asks:
            callers.setdefault(id(ask.caller), (ask.caller, set()))[1].add(ask.ref)
        found = {key: store.current(connection, caller, refs) for key, (caller, refs) in callers.items()}
        current = [found[id(ask.caller)].get(ask.ref) for ask in asks]
        known, fresh = self._known(connection, [one for one in current if one is not None])
        return [known[one[0]] if one is not None else None for one in current], fresh

    def _page(
        self, connection: Connection, caller: Principal, query: SessionQuery
    ) -> tuple[list[Shown], Mapping[str, Shown], str | None]:
        current, following = store.page(connection, caller, query)
        known, fresh = self._known(connection, current)
        return [known[session_id] for session_id, _ in current], fresh, following

    def _known(
        self, connection: Connection, current: Sequence[Current]
    ) -> tuple[Mapping[str, Shown], Mapping[str, Shown]]:
        """How these are shown, and which of them had to be looked at. Nothing is kept here: this runs in a thread."""
        known: dict[str, Shown] = {}
        missing = []
        for session_id, version in dict(current).items():
            shown = self._kept.get(session_id)
            if shown is not None and shown.version == version:
                known[session_id] = shown
            else:
                missing.append(session_id)
        found = views.bodies(connection, missing).items()
        fresh = {key: Shown(version, body, tag_of(body)) for key, (version, body) in found}
        return known | fresh, fresh

    def _keep(self, fresh: Mapping[str, Shown]) -> None:
        for session_id, shown in fresh.items():
            before = self._kept.pop(session_id, None)
            self._kept[session_id] = before if before is not None and before.version > shown.version else shown
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]


def tag_of(body: bytes) -> str:
    """The entity tag of a body."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
