"""The database: reads in a few threads, writes grouped into durable transactions.

SQLite has one writer, and a durable commit costs a sync of the disk. So writes queue up for one thread that runs
all that are waiting, each in its own savepoint, and commits them together: a hundred callers share one sync, and
every one of them is told only after it. PostgreSQL is written the same way, for the same reason and for another
one: see gateway.store.engine.
"""

import asyncio
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from gateway.errors import DatabaseUnavailable, SettingsInvalid, WriteUnknown
from gateway.store import engine

T = TypeVar("T")
P = ParamSpec("P")
Work = Callable[[Connection], T]
GROUP = 64  # PostgreSQL keeps track of as many savepoints of a transaction without a file
READERS = 4
PATIENCE = 15.0
PAUSE = 0.2
_VERSIONS, _VERSION = Path(__file__).parent / "migrations" / "versions", "alembic_version"


@dataclass(frozen=True)
class _Write:
    """A write that somebody waits for."""

    work: Work[Any]
    future: Future[Any]
    asked_at: float = field(default_factory=time.monotonic)


class Database:
    """One database by its SQLAlchemy address. `open()` brings the schema up to date; `close()` ends its threads.

    `patience` is how many seconds a write waits for a PostgreSQL server that is away, or for a lock. `origin` tells
    what this process writes from what others do. SettingsInvalid if the address cannot be used.
    """

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        self.url = engine.address(url)
        self.origin = secrets.token_hex(8)
        self.engine = engine.make(self.url, READERS + 1)
        self.reading, self.writing = engine.reading(self.engine), engine.writing(self.engine)
        self._patience = patience
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="db-read")
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_forever, name="db-write", daemon=True)
        self._closing = threading.Event()

    def open(self) -> None:
        """Make the file's folder, migrate to the newest schema, start writing.

        DatabaseUnavailable if it does not answer; SettingsInvalid if it does not let us make tables.
        """
        shown = self.url.render_as_string(hide_password=True)
        if engine.is_sqlite(self.url) and self.url.database not in {None, "", ":memory:"}:
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            migrate(self)
        except OperationalError as error:
            raise DatabaseUnavailable(
                f"the database {shown} does not answer: {engine.words(error)}",
                hint="Is it running, and are host, port, user and password right (database_url)?",
            ) from error
        except ProgrammingError as error:
            raise SettingsInvalid(
                f"the database {shown} refuses to set up its tables: {engine.words(error)}",
                hint="Its user must be allowed to make tables: let the database be owned by that user.",
            ) from error
        self._writer.start()

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` on a connection that only reads; again if the connection was found broken.

        DatabaseUnavailable if the database does not answer.
        """
        bound = partial(_call, work, args, kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, bound)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` in a transaction; returns only when it is durable.

        An exception undoes this work alone, not its neighbours in the group. The work may run more than once, and is
        kept once. DatabaseUnavailable (also once it is closed) and StorageFull: it was not kept. WriteUnknown if the
        connection or the disk broke in the commit: it may have been kept, or not.
        """
        if self._closing.is_set():
            raise DatabaseUnavailable("the database is closed, as the gateway is stopping")
        future: Future[T] = Future()
        self._queue.put(_Write(partial(_call, work, args, kwargs), future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish the writes that are queued, then let go of everything."""
        self._closing.set()
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    def _read(self, work: Work[T]) -> T:
        try:
            try:
                with self.reading.connect() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            with self.reading.connect() as connection:
                return work(connection)
        except DBAPIError as error:
            raise engine.translated(error) from error

    def _write_forever(self) -> None:
        while (first := self._queue.get()) is not None:
            group, last = [first], False
            while len(group) < GROUP and not self._queue.empty():
                if (item := self._queue.get()) is None:
                    last = True
                    break
                group.append(item)
            group = [write for write in group if write.future.set_running_or_notify_cancel()]
            while group and (reason := self._write(group)) is not None:
                group = self._waiting(group, reason)
            if last:
                return

    def _waiting(self, group: list[_Write], reason: Exception) -> list[_Write]:
        """Those of a group that did not run which are worth another try, after a pause; the others are told why not."""
        self._closing.wait(PAUSE)
        oldest = time.monotonic() - self._patience
        keep = [] if self._closing.is_set() else [write for write in group if write.asked_at > oldest]
        for write in group:
            if write not in keep:
                write.future.set_exception(engine.translated(reason))
        return keep

    def _write(self, group: list[_Write]) -> Exception | None:
        """Run a group and commit it; the reason if it certainly did not run and may do so later.

        Only after the commit is anybody told; a failure, too, may be due to a neighbour's write.
        """
        done: list[tuple[Future[Any], Any]] = []
        failed: list[tuple[Future[Any], Exception]] = []
        committing = False
        try:
            with self.writing.connect() as connection, connection.begin() as transaction:
                for write in group:
                    try:
                        done.append((write.future, _run(write.work, connection)))
                    except _Spoilt:
                        raise
                    except Exception as why:  # noqa: BLE001 - whoever asked for it is told
                        failed.append((write.future, engine.translated(why)))
                engine.tell(connection, self.origin)
                committing = True
                transaction.commit()
        except Exception as raised:  # noqa: BLE001 - every one of the group must know
            error = raised.error if isinstance(raised, _Spoilt) else raised
            if not committing and engine.is_away(error):
                return error
            unknown = committing and engine.is_unknown(error)
            reason = _unknown(error) if unknown else engine.translated(error)
            for write in group:
                write.future.set_exception(reason)
            return None
        for future, result in done:
            future.set_result(result)
        for future, refused in failed:
            future.set_exception(refused)
        return None


class _Spoilt(Exception):
    """The transaction is lost with everything that was done in it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _run(work: Work[T], connection: Connection) -> T:
    """One write in its own savepoint. _Spoilt if nothing is left to go back to."""
    savepoint = connection.begin_nested()
    try:
        result = work(connection)
    except Exception as error:
        if engine.spoils(connection, error):
            raise _Spoilt(error) from error
        savepoint.rollback()
        raise
    savepoint.commit()
    return result


def _unknown(error: Exception) -> WriteUnknown:
    unknown = WriteUnknown(
        f"the database broke off while it was writing: {engine.words(error)}",
        hint="It may have been kept, or not: look before you ask again. With an Idempotency-Key, asking again is safe.",
    )
    unknown.__cause__ = error
    return unknown


def _call(work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], connection: Connection) -> T:
    return work(connection, *args, **kwargs)


def migrate(database: Database) -> None:
    """Bring the schema up to the newest revision."""
    with database.writing.connect() as connection:
        if _revision(connection) == newest():
            return
    from gateway.store import revisions  # noqa: PLC0415 - takes seven megabytes, and is seldom needed

    revisions.upgrade(database)


def newest() -> str:
    """The last revision: each is in a file that is named by its number."""
    return max(path.name for path in _VERSIONS.glob("[0-9]*.py")).partition("_")[0]


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSION):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {_VERSION}")).scalar()  # noqa: S608 - ours
    return found


def ping(connection: Connection) -> None:
    """Raises if the database does not answer."""
    connection.execute(text("SELECT 1"))
