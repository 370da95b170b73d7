"""Hearing of what other processes write: PostgreSQL tells it (LISTEN), SQLite is asked whether its file has changed.

What is heard is a hint to look, never the news itself: a hint may come late or twice, or be about nothing.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, func, select

from gateway.errors import DatabaseUnavailable
from gateway.store import engine
from gateway.store.database import Database
from gateway.store.schema import events, tasks
from gateway.store.sessions import WORK

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.1
AGAIN_AFTER = 1.0
ALL = frozenset({"news", "work"})
Heard = frozenset[str]


class Mark(NamedTuple):
    """How far what was written is known. `tasks`: how many are live, and how often those were changed."""

    event: int
    tasks: tuple[int, int]


def heard(database: Database) -> AsyncIterator[Heard]:
    """What others wrote, as it happens: `news` (events), `work` (something to do). Ends never."""
    return _sqlite(database) if engine.is_sqlite(database.url) else _postgresql(database)


async def _postgresql(database: Database) -> AsyncIterator[Heard]:
    from psycopg import AsyncConnection, Error, sql  # noqa: PLC0415 - the driver is there only where it is used

    told = False
    while True:
        try:
            connection = await AsyncConnection.connect(**engine.arguments(database.url), autocommit=True)
            async with connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(engine.CHANNEL)))
                told = False
                yield ALL  # what was told while nobody listened
                async for notice in connection.notifies():
                    origin, _, kinds = notice.payload.partition(" ")
                    if origin != database.origin:
                        yield frozenset(kinds.split(","))
        except (Error, OSError) as error:
            if not told:
                log.warning("no news from the database", error=engine.words(error))
            told = True
        await asyncio.sleep(AGAIN_AFTER)


async def _sqlite(database: Database) -> AsyncIterator[Heard]:
    """SQLite's `data_version` changes when another connection has written; to read it costs microseconds."""
    while True:
        try:
            mark = await database.read(_mark)
            with closing(sqlite3.connect(str(database.url.database), timeout=0)) as connection:
                before = _version(connection)
                yield ALL
                while True:
                    await asyncio.sleep(LOOK_EVERY)
                    if (now := _version(connection)) != before:
                        before = now
                        kinds, mark = await database.read(_since, mark)
                        if kinds:
                            yield kinds
        except (sqlite3.Error, DatabaseUnavailable):
            await asyncio.sleep(AGAIN_AFTER)


def _version(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return found


def _mark(connection: Connection) -> Mark:
    newest = connection.execute(select(events.c.id).order_by(events.c.id.desc()).limit(1)).scalar() or 0
    live = select(func.count(), func.coalesce(func.sum(tasks.c.version), 0)).where(~tasks.c.ended)
    number, changes = connection.execute(live).one()
    return Mark(newest, (number, changes))


def _since(connection: Connection, before: Mark) -> tuple[Heard, Mark]:
    now = _mark(connection)
    types = connection.execute(select(events.c.type).where(events.c.id > before.event)).scalars().all()
    kinds = ({"news"} if types or now.tasks != before.tasks else set()) | ({"work"} if WORK & {*types} else set())
    return frozenset(kinds), now
