"""Writes are durable, grouped and apart from each other; the schema goes up and down."""

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from gateway.errors import DatabaseUnavailable
from gateway.store.database import Database, migrate
from gateway.store.people import users
from gateway.store.revisions import downgrade


def run(connection: Connection, statement: str) -> None:
    connection.execute(text(statement))


async def test_a_failed_write_undoes_itself_and_nothing_of_its_neighbours(database: Database) -> None:
    await database.write(run, "CREATE TABLE t (n INTEGER PRIMARY KEY)")

    def put(connection: Connection, number: int, *, fail: bool) -> int:
        connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": number})
        if fail:
            raise ValueError(number)
        return number

    writes = [database.write(put, n, fail=n % 3 == 0) for n in range(30)]
    answers = await asyncio.gather(*writes, return_exceptions=True)
    good = [n for n in range(30) if n % 3]
    assert [a for a in answers if isinstance(a, int)] == good
    assert sum(isinstance(a, ValueError) for a in answers) == 10
    rows = await database.read(lambda c: c.execute(text("SELECT n FROM t ORDER BY n")).scalars().all())
    assert rows == good


async def test_who_lost_to_a_neighbour_finds_what_the_neighbour_wrote(database: Database) -> None:
    await database.write(run, "CREATE TABLE t (n INTEGER PRIMARY KEY)")

    async def put_or_find() -> bool:
        try:
            await database.write(run, "INSERT INTO t VALUES (1)")
        except IntegrityError:
            return await database.read(lambda c: c.execute(text("SELECT n FROM t")).scalar()) == 1
        return True

    for _ in range(20):
        assert all(await asyncio.gather(*(put_or_find() for _ in range(20))))
        await database.write(run, "DELETE FROM t")


async def test_what_was_answered_is_on_the_disk(database: Database) -> None:
    await database.write(run, "CREATE TABLE t (n INTEGER)")
    await database.write(run, "INSERT INTO t VALUES (7)")
    other = create_engine(database.url)
    with other.connect() as connection:
        assert connection.execute(text("SELECT n FROM t")).scalars().all() == [7]
    other.dispose()


def test_closing_finishes_the_writes_that_wait(database_url: str) -> None:
    database = Database(database_url)
    database.open()

    async def go() -> None:
        work = [database.write(run, f"CREATE TABLE t{n} (n INTEGER)") for n in range(20)]
        waiting = asyncio.gather(*work)
        await asyncio.sleep(0)
        await asyncio.to_thread(database.close)
        await waiting

    asyncio.run(go())
    again = create_engine(database_url)
    assert {f"t{n}" for n in range(20)} <= set(inspect(again).get_table_names())
    again.dispose()


async def test_who_writes_when_it_is_closed_is_told_so(database: Database) -> None:
    database.close()
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await database.write(run, "CREATE TABLE t (n INTEGER)")


def test_the_migrations_make_the_schema_that_the_code_uses(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), users.metadata) == []


def test_migrations_go_down_and_up_again(database: Database) -> None:
    downgrade(database, "base")
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    migrate(database)
    migrate(database)
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM sessions")).scalar() == 0


@pytest.mark.parametrize("folder", ["a/b"])
def test_the_folder_of_the_file_is_made_private(tmp_path: Path, folder: str) -> None:
    database = Database(f"sqlite:///{tmp_path / folder / 'x.db'}")
    database.open()
    database.close()
    assert (tmp_path / folder).stat().st_mode & 0o077 == 0
