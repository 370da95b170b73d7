"""The database: reads in a few threads, writes grouped into durable transactions.

SQLite has one writer, and a durable commit costs a sync of the disk. So writes queue up for one thread that runs
all that are waiting, each in its own savepoint, and commits them together: a hundred callers share one sync, and
every one of them is told only after it. On PostgreSQL the same code runs with its own concurrency control.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.pool import QueuePool

T = TypeVar("T")
P = ParamSpec("P")
Work = Callable[[Connection], T]
GROUP = 256
READERS = 4
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """One database by its SQLAlchemy address. `open()` brings the schema up to date; `close()` ends its threads."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.engine = create_engine(
            self.url, poolclass=QueuePool, pool_size=READERS + 1, max_overflow=2, pool_pre_ping=not self._sqlite
        )
        if self._sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self.writing = self.engine.execution_options(writing=True)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="db-read")
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_forever, name="db-write", daemon=True)

    @property
    def _sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    def open(self) -> None:
        """Make the file's folder, migrate to the newest schema, start writing."""
        if self._sqlite and self.url.database not in {None, "", ":memory:"}:
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        migrate(self)
        self._writer.start()

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` on a connection that only reads."""
        bound = partial(_call, work, args, kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, bound)

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, ...)` in a transaction; returns only when it is durable.

        An exception undoes this work alone, not its neighbours in the group.
        """
        future: Future[T] = Future()
        self._queue.put((partial(_call, work, args, kwargs), future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish the writes that are queued, then let go of everything."""
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    def _read(self, work: Work[T]) -> T:
        with self.engine.connect() as connection:
            return work(connection)

    def _write_forever(self) -> None:
        while (first := self._queue.get()) is not None:
            group, last = [first], False
            while len(group) < GROUP and not self._queue.empty():
                if (item := self._queue.get()) is None:
                    last = True
                    break
                group.append(item)
            self._write(group)
            if last:
                return

    def _write(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        """Run a group and commit it. Only then is anybody told; a failure, too, may be due to a neighbour's write."""
        done: list[tuple[Future[Any], Any]] = []
        failed: list[tuple[Future[Any], Exception]] = []
        try:
            with self.writing.begin() as connection:
                for work, future in group:
                    if not future.set_running_or_notify_cancel():
                        continue
                    try:
                        with connection.begin_nested():
                            result = work(connection)
                    except Exception as error:  # noqa: BLE001 - it is the caller's, who waits for it
                        failed.append((future, error))
                    else:
                        done.append((future, result))
        except Exception as error:  # noqa: BLE001 - the commit failed: every one of the group must know
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for future, result in done:
            future.set_result(result)
        for future, reason in failed:
            future.set_exception(reason)


def _call(work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], connection: Connection) -> T:
    return work(connection, *args, **kwargs)


def migrate(database: Database) -> None:
    """Bring the schema up to the newest revision."""
    with _alembic(database) as config:
        command.upgrade(config, "head")


def downgrade(database: Database, revision: str) -> None:
    """Take the schema down to an older revision; `base` is before the first."""
    with _alembic(database) as config:
        command.downgrade(config, revision)


@contextmanager
def _alembic(database: Database) -> Iterator[Config]:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with database.writing.begin() as connection:
        config.attributes["connection"] = connection
        yield config


def ping(connection: Connection) -> None:
    """Raises if the database does not answer."""
    connection.execute(text("SELECT 1"))


def _prepare_sqlite(connection: Any, record: Any) -> None:
    """WAL, so that readers never wait; FULL, so that an accepted session survives a power cut."""
    del record
    connection.isolation_level = None  # the driver begins no transaction behind our back, so savepoints work
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: a transaction that read first and then writes could fail half way."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writing") else "BEGIN")
