"""PostgreSQL: a server that goes away and comes back costs no write and doubles none."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from gateway.errors import DatabaseUnavailable, SettingsInvalid, Unavailable, WriteUnknown
from gateway.settings import Settings
from gateway.store.database import Database
from gateway.store.engine import address
from tests.postgresql import Server


@pytest.fixture
def database(postgresql: Server) -> Iterator[Database]:
    opened = Database(postgresql.fresh(), patience=120.0)  # a server may take as long to start on a slow machine
    opened.open()
    with opened.writing.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    yield opened
    opened.close()


DIE = """
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$
"""
DIE_IN_COMMIT = """
CREATE CONSTRAINT TRIGGER die AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.n = 13) EXECUTE FUNCTION die()
"""


def run(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)


def put(connection: Connection, number: int) -> int:
    connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": number})
    return number


async def kept(database: Database) -> list[int]:
    return list(await database.read(lambda c: c.execute(text("SELECT n FROM t ORDER BY n")).scalars().all()))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_restart_is_not_noticed(database: Database, postgresql: Server, how: signal.Signals) -> None:
    await database.write(put, 1)
    assert await kept(database) == [1]
    postgresql.restart(how)
    assert await kept(database) == [1]
    postgresql.restart(how)
    assert await database.write(put, 2) == 2
    assert await kept(database) == [1, 2]


async def test_writes_wait_for_a_server_that_is_away(database: Database, postgresql: Server) -> None:
    postgresql.stop()
    waiting = asyncio.gather(*(database.write(put, n) for n in range(200)))
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        await kept(database)
    postgresql.start()
    assert await waiting == list(range(200))
    assert await kept(database) == list(range(200))


async def test_a_write_does_not_wait_for_ever(postgresql: Server, database: Database) -> None:
    hasty = Database(str(database.url), patience=0)
    hasty.open()
    postgresql.stop()
    try:
        with pytest.raises(DatabaseUnavailable, match="does not answer"):
            await hasty.write(put, 1)
    finally:
        postgresql.start()
        hasty.close()
    assert await kept(database) == []


async def test_a_connection_that_breaks_before_the_commit_costs_nothing(database: Database) -> None:
    runs: list[int] = []

    def breaks_once(connection: Connection) -> int:
        runs.append(put(connection, 5))
        if len(runs) == 1:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return len(runs)

    answers = await asyncio.gather(*(database.write(put, n) for n in range(5)), database.write(breaks_once))
    assert answers == [0, 1, 2, 3, 4, 2]
    assert await kept(database) == [0, 1, 2, 3, 4, 5]


async def test_a_connection_that_breaks_in_the_commit_is_told(database: Database) -> None:
    await database.write(run, DIE)
    await database.write(run, DIE_IN_COMMIT)
    with pytest.raises(WriteUnknown, match="look before you ask again"):
        await database.write(put, 13)
    assert await database.write(put, 14) == 14
    assert await kept(database) == [14]


async def test_what_one_process_tells_is_seen_in_order_by_all(database: Database) -> None:
    """Two processes write; a reader who goes on after the last number that it saw misses none."""
    other = Database(str(database.url))
    other.open()
    await database.write(run, "CREATE TABLE told (id BIGSERIAL PRIMARY KEY)")
    seen: list[int] = []

    async def tell(writer: Database) -> None:
        for _ in range(50):
            await writer.write(run, "INSERT INTO told DEFAULT VALUES")

    def news(connection: Connection) -> list[int]:
        query = text("SELECT id FROM told WHERE id > :last ORDER BY id")
        return list(connection.execute(query, {"last": max(seen, default=0)}).scalars())

    async def follow() -> None:
        while len(seen) < 200:
            seen.extend(await database.read(news))

    async with asyncio.timeout(240):
        await asyncio.gather(follow(), *(tell(writer) for writer in (database, other) for _ in range(2)))
    assert seen == list(range(1, 201))
    other.close()


async def test_reads_see_one_moment_and_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match="read-only"):
        await database.read(put, 1)
    await database.write(put, 1)
    with database.reading.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 1
        await database.write(put, 2)
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 1


def test_no_server_is_said_at_the_start(tmp_path: Path) -> None:
    database = Database(f"postgresql://sluice:secret@/sluice?host={tmp_path}")
    with pytest.raises(Unavailable, match="does not answer") as raised:
        database.open()
    assert "secret" not in str(raised.value)
    database.close()


def test_the_password_comes_from_its_file(postgresql: Server, tmp_path: Path) -> None:
    postgresql.run("CREATE ROLE guarded LOGIN PASSWORD 'p@ss/w:rd'")
    postgresql.run("CREATE DATABASE guarded OWNER guarded TEMPLATE template0")
    file = tmp_path / "password"
    file.write_text("p@ss/w:rd\n")
    url = postgresql.url("guarded", "guarded")
    good = Database(Settings(database_url=url, database_password_file=file).database)
    good.open()
    good.close()
    file.write_text("wrong\n")
    bad = Database(Settings(database_url=url, database_password_file=file).database)
    with pytest.raises(Unavailable, match="password authentication failed"):
        bad.open()
    bad.close()


def test_a_user_who_may_make_no_tables_is_told_so(postgresql: Server) -> None:
    postgresql.run("CREATE ROLE bounded LOGIN")
    postgresql.run("CREATE DATABASE bounded TEMPLATE template0")
    database = Database(postgresql.url("bounded", "bounded"))
    with pytest.raises(SettingsInvalid, match="permission denied"):
        database.open()
    database.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [(None, "must name a user"), ("postgresql://db/x", "must name a user"), ("postgresql://a:b@db/x", "no password")],
)
def test_a_password_without_a_user_is_refused(tmp_path: Path, url: str | None, words: str) -> None:
    with pytest.raises(SettingsInvalid, match=words):
        _ = Settings(database_url=url, database_password_file=tmp_path / "password").database


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = Settings(database_url="postgresql://a@db/x", database_password_file=tmp_path / "password")
    with pytest.raises(SettingsInvalid, match="password: No such file"):
        _ = settings.database


def test_addresses() -> None:
    assert address("postgresql://a@db/x").drivername == "postgresql+psycopg"
    for wrong in ("mysql://a@db/x", "postgresql+asyncpg://a@db/x", "nonsense"):
        with pytest.raises(SettingsInvalid, match="database_url"):
            address(wrong)


def test_a_missing_driver_is_named() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from gateway.store.database import Database\n"
        "from gateway.errors import SettingsInvalid\n"
        "try: Database('postgresql+psycopg://a@db/x')\n"
        "except SettingsInvalid as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "pip install 'sluice[postgresql]'" in answer.stdout
