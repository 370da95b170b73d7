"""How each kind of database is connected to: SQLite (the default) and PostgreSQL.

PostgreSQL could take many writers at once, and we let it take one: a writing transaction holds one advisory lock of
the database, as SQLite's holds the lock of the file. Then events become visible in the order of their ids, also
when several processes write, so that a reader who goes on after the last id that it saw misses none; and no two
writers can end in a deadlock. What that costs is small, because writes are grouped: many share one commit.
"""

from typing import Any

from pydantic_core import from_json
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import QueuePool

from gateway.errors import DatabaseUnavailable, SettingsInvalid, StorageFull

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
CHANNEL = "sluice"
_ABOUT = "sluice-about"
_WRITER_LOCK = 0x736C75696365  # "sluice"
# Nothing here takes seconds: what does is stuck, and must not hold the lock of the writers for ever. All in ms.
_LIMITS = {"statement_timeout": 30_000, "lock_timeout": 10_000, "idle_in_transaction_session_timeout": 30_000}
_LOCK_TIMEOUT = 10.0
_POSTGRESQL = {
    "connect_timeout": 5,
    "application_name": "sluice",
    # A server whose machine or network went away is noticed in half a minute, not in two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def address(url: str) -> URL:
    """A `database_url` with its driver. SettingsInvalid if it is none that we can use."""
    try:
        found = make_url(url)
    except ArgumentError as error:
        raise SettingsInvalid("database_url: this is no address of a database", hint=_EXAMPLE) from error
    if found.drivername not in _DRIVERS:
        raise SettingsInvalid(f"database_url: {found.drivername!r} is not supported", hint=_EXAMPLE)
    return found.set(drivername=_DRIVERS[found.drivername])


_EXAMPLE = "For example postgresql+psycopg://sluice@db.example.org/sluice; unset, it is SQLite in state_dir."


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def make(url: URL, size: int) -> Engine:
    """An engine with a pool of `size` connections. SettingsInvalid if the driver is missing."""
    if is_sqlite(url):
        waits = {} if "timeout" in url.query else {"timeout": _LOCK_TIMEOUT}
        made = create_engine(
            url, poolclass=QueuePool, pool_size=size, max_overflow=2, connect_args=waits, json_deserializer=from_json
        )
        event.listen(made, "connect", _prepare_sqlite)
        event.listen(made, "begin", _begin_sqlite)
        return made
    try:
        # A connection may have died with the server that it led to. Nobody asks first: who finds one broken gets a new
        # one (gateway.store.database), as all that are as old are thrown away.
        made = create_engine(
            url,
            pool_size=size,
            max_overflow=2,
            connect_args=_postgresql(url),
            json_deserializer=from_json,
        )
    except ImportError as error:
        raise SettingsInvalid(
            f"database_url asks for PostgreSQL, and its driver cannot be loaded: {error}",
            hint="Install it: pip install 'sluice[postgresql]'",
        ) from error
    event.listen(made, "begin", _begin_postgresql)
    return made


def _postgresql(url: URL) -> dict[str, Any]:
    options = " ".join([*(f"-c {name}={value}" for name, value in _LIMITS.items()), "-c timezone=UTC"])
    given = url.query.get("options", "")
    own = given if isinstance(given, str) else " ".join(given)
    arguments = {name: value for name, value in _POSTGRESQL.items() if name not in url.query}
    return {**arguments, "options": f"{options} {own}".strip()}


def arguments(url: URL) -> dict[str, Any]:
    """What psycopg is connected with for this address: for a connection beside the pool."""
    _, given = url.get_dialect()().create_connect_args(url)
    return {**given, **_postgresql(url)}


def tell(connection: Connection, origin: str) -> None:
    """Let other servers hear, at the commit, what kinds of things were written; see `about`."""
    kinds = connection.info.pop(_ABOUT, None)
    if kinds and connection.dialect.name == "postgresql":
        payload = f"{origin} {','.join(sorted(kinds))}"
        connection.execute(select(func.pg_notify(CHANNEL, payload)))


def about(connection: Connection, *kinds: str) -> None:
    """Say that the transaction writes something that others wait for: `news` (events), `work` (something to do)."""
    connection.info.setdefault(_ABOUT, set()).update(kinds)


def reading(engine: Engine) -> Engine:
    """The engine for reads: all statements of one transaction see the same moment."""
    if is_sqlite(engine.url):
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def writing(engine: Engine) -> Engine:
    """The engine for writes: one transaction at a time."""
    return engine.execution_options(writing=True)


def take_time(connection: Connection) -> None:
    """Lift the limits for this transaction: a migration may take long."""
    if connection.dialect.name == "postgresql":
        for name in _LIMITS:
            connection.exec_driver_sql(f"SET LOCAL {name} = 0")


def is_away(error: Exception) -> bool:
    """Whether it certainly did not run and may do so later: the server could not be reached, or a lock is held."""
    if not isinstance(error, DBAPIError):
        return False
    if _sqlite_name(error):
        return _sqlite_name(error).startswith("SQLITE_BUSY")
    if error.connection_invalidated:
        return True
    return isinstance(error, OperationalError | InterfaceError) and getattr(error.orig, "sqlstate", "") is None


def is_unknown(error: Exception) -> bool:
    """Whether a commit that failed so may have been kept all the same."""
    return isinstance(error, DBAPIError) and (
        _sqlite_name(error).startswith("SQLITE_IOERR") or (not _sqlite_name(error) and is_away(error))
    )


def spoils(connection: Connection, error: Exception) -> bool:
    """Whether the whole transaction is lost: no savepoint of it may be gone back to.

    SQLite ends a transaction by itself when the disk is full or fails; what would run after that would run alone.
    """
    return connection.invalidated or (isinstance(error, DBAPIError) and _sqlite_name(error) in _OF_THE_WORLD)


def translated(error: Exception) -> Exception:
    """What the database suffers from as an error of ours; what it says of our statements as it is."""
    if not isinstance(error, DBAPIError):
        return error
    name, state = _sqlite_name(error), getattr(error.orig, "sqlstate", "")
    if name == "SQLITE_FULL" or state == _DISK_FULL:
        found: Exception = StorageFull(
            f"no room is left where the database is: {words(error)}",
            hint="Nothing was written. Make room there (state_dir, for SQLite), and it goes on by itself.",
        )
    elif _of_the_world(error, name, state):
        said = words(error)
        found = DatabaseUnavailable(f"the gateway's database does not answer: {said}", hint="Try again in a moment.")
    else:
        return error
    found.__cause__ = error
    return found


def _of_the_world(error: DBAPIError, name: str, state: str | None) -> bool:
    if name:
        return name in _OF_THE_WORLD
    away = error.connection_invalidated or state == _READ_ONLY
    return away or isinstance(error, OperationalError | InterfaceError)


def _sqlite_name(error: DBAPIError) -> str:
    """SQLite's name of its error, without what is more exact: SQLITE_IOERR_WRITE is SQLITE_IOERR."""
    name: str = getattr(error.orig, "sqlite_errorname", None) or ""
    return "_".join(name.split("_")[:2])


#: SQLite's words for what is not the fault of a statement.
_OF_THE_WORLD = {
    *("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY"),
    *("SQLITE_NOMEM", "SQLITE_PERM", "SQLITE_PROTOCOL", "SQLITE_NOTADB", "SQLITE_CORRUPT"),
}
_DISK_FULL, _READ_ONLY = "53100", "25006"


def words(error: Exception) -> str:
    """The database's own words, on one line and without the statement."""
    said = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    return next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    """WAL, so that readers never wait; FULL, so that an accepted session survives a power cut."""
    del record
    connection.isolation_level = None  # the driver begins no transaction behind our back, so savepoints work
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock at once: a transaction that read first and then writes could fail half way."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writing") else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("writing"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")
