"""SQLite in trouble: a full disk, a lock that somebody holds, a file that is gone. Nothing is lost, and it goes on."""

import asyncio
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from gateway.errors import DatabaseUnavailable, StorageFull
from gateway.store.database import Database
from gateway.web.errors import status_of

SIZE = 4 << 20


def put(connection: Connection, number: int, size: int) -> int:
    connection.execute(text("INSERT INTO t VALUES (:n, zeroblob(:size))"), {"n": number, "size": size})
    return number


def fill(file: RawIOBase) -> None:
    while True:
        file.write(bytes(1 << 12))


async def kept(database: Database) -> list[int]:
    return list(await database.read(lambda c: c.execute(text("SELECT n FROM t ORDER BY n")).scalars().all()))


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of a few MiB, in a folder that nobody else cleans up."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = Path(tempfile.mkdtemp(prefix="sluice-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "sluice-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def small(disk: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{disk / 'sluice.db'}")
    database.open()
    with database.writing.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)"))
    yield database
    database.close()


async def test_on_a_full_disk_writes_are_refused_whole_and_go_on_when_there_is_room(
    small: Database, disk: Path
) -> None:
    await small.write(put, 1, 10)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        fill(file)
    writes = [small.write(put, n, 100_000) for n in range(2, 12)]
    answers = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(answer) for answer in answers} == {StorageFull}
    assert status_of(StorageFull) == 507
    assert await kept(small) == [1], "reading goes on, and shows nothing of what was refused"
    filler.unlink()
    assert await asyncio.gather(*(small.write(put, n, 1000) for n in range(2, 12))) == list(range(2, 12))
    assert await kept(small) == list(range(1, 12))


async def test_of_a_group_that_fills_the_disk_nobody_is_told_that_it_was_kept(small: Database) -> None:
    """SQLite ends the transaction by itself then: what ran before is undone, and what follows must not run alone."""
    sizes = [1000, 1000, 2 * SIZE, 1000, 1000]
    answers = await asyncio.gather(*(small.write(put, n, size) for n, size in enumerate(sizes)), return_exceptions=True)
    told = [n for n, answer in enumerate(answers) if not isinstance(answer, StorageFull)]
    assert await kept(small) == told
    assert isinstance(answers[2], StorageFull)


async def test_a_lock_that_another_process_holds_is_waited_for_and_then_told(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'sluice.db'}?timeout=0.05"
    database, hasty = Database(address), Database(address, patience=0.3)
    database.open()
    hasty.open()
    await database.write(lambda c: c.exec_driver_sql("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)") and None)
    other = sqlite3.connect(tmp_path / "sluice.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="locked"):
        await hasty.write(put, 1, 1)
    assert await kept(database) == []
    waiting = asyncio.create_task(database.write(put, 2, 1))
    await kept(database)
    other.execute("ROLLBACK")
    assert await waiting == 2
    other.close()
    hasty.close()
    database.close()


async def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    file = tmp_path / "sluice.db"
    database = Database(f"sqlite:///{file}")
    database.open()
    database.engine.dispose()
    file.rename(tmp_path / "away")
    file.mkdir()
    with pytest.raises(DatabaseUnavailable, match="unable to open"):
        await database.read(lambda c: c.execute(text("SELECT 1")).scalar())
    file.rmdir()
    (tmp_path / "away").rename(file)
    assert await database.read(lambda c: c.execute(text("SELECT 1")).scalar()) == 1
    database.close()
