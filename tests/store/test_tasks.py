"""Tasks, files and results in a real database of each kind: no line twice, no word of a holder that has lapsed."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection

from gateway.errors import FileNotFound, LeaseLost, TaskNotFound
from gateway.model.principal import Principal
from gateway.model.task import KeptFile, Task, TaskPhase
from gateway.store import files, results, tasks
from gateway.store.database import Database
from gateway.store.files import CHUNK
from gateway.store.results import Places, Result
from gateway.store.tasks import Grip

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN, BOB = Principal(name="ann", id="a"), Principal(name="bob", id="b")
OPERATOR = Principal(name="root", id="r", operator=True)


def a_file(file_id: str = "file-1", **changes: object) -> KeptFile:
    made = KeptFile(id=file_id, owner="ann", purpose="batch", name="in", created_at=NOW, touched_at=NOW)
    return made.model_copy(update=changes)


def a_task(task_id: str = "batch_1", **changes: object) -> Task:
    made = Task(
        id=task_id,
        owner="ann",
        user_id="a",
        input_file="file-1",
        created_at=NOW,
        expires_at=NOW,
        about={"for": "test"},
        phase=TaskPhase.IN_PROGRESS,
    )
    return made.model_copy(update=changes)


async def held(database: Database, holder: str = "one") -> Grip:
    (seen,) = await database.read(tasks.live)
    grip = await database.write(tasks.take, seen, holder)
    assert grip is not None
    return grip


async def test_a_line_has_one_result_however_often_it_is_written(database: Database) -> None:
    await database.write(tasks.add, a_task())
    grip = await held(database)
    first = [Result(2, ok=True, body=b"two\n"), Result(1, ok=False, body=b"one!\n")]
    await database.write(results.keep, grip, first)
    await database.write(results.keep, grip, [*first, Result(3, ok=True, body=b"three\n")])
    found = await database.read(tasks.reread, "batch_1")
    assert found is not None
    assert (found.completed, found.failed) == (2, 1)
    assert await database.read(results.done, "batch_1", 1, 2) == {1, 2}
    places, turns = Places(), 0
    while (after := await database.write(results.place, grip, places, 2)) is not None:
        places, turns = after, turns + 1
    assert (places, turns) == (Places(3, 15, 10, 5), 2)
    assert await database.read(results.read, "batch_1", None, 0, 100) == b"one!\ntwo\nthree\n"
    assert await database.read(results.read, "batch_1", "output", 0, 100) == b"two\nthree\n"
    assert await database.read(results.read, "batch_1", "error", 2, 100) == b"e!\n"
    assert await database.read(results.read, "batch_1", None, 7, 1) == b"o\n"
    assert await database.read(results.length, "batch_1") == 15


async def test_who_has_lapsed_writes_nothing(database: Database) -> None:
    await database.write(tasks.add, a_task())
    old = await held(database)
    (seen,) = await database.read(tasks.live)
    assert await database.write(tasks.beat, [old]) == {old}
    assert await database.write(tasks.take, seen, "two") is None, "it gave a sign of life meanwhile"
    new = await held(database, "two")
    task = await database.read(tasks.reread, "batch_1")
    assert task is not None
    for write in (
        lambda connection: results.keep(connection, old, [Result(1, ok=True, body=b"x\n")]),
        lambda connection: results.place(connection, old, Places(), 10),
        lambda connection: tasks.save(connection, task, task, old),
    ):
        with pytest.raises(LeaseLost):
            await database.write(write)
    assert await database.write(tasks.beat, [old, new]) == {new}
    assert await database.read(results.done, "batch_1", 1, 9) == set()
    await database.write(tasks.give, [old, new])
    assert (await database.read(tasks.live))[0].holder == ""


async def test_a_change_is_written_over_what_was_read_alone(database: Database) -> None:
    await database.write(tasks.add, a_task())
    grip, task = await held(database), await database.read(tasks.reread, "batch_1")
    assert task is not None
    assert task == a_task()
    await database.write(results.keep, grip, [Result(1, ok=True, body=b"x\n")])
    saved = await database.write(tasks.save, task, task.model_copy(update={"message": "waits"}))
    assert saved is not None
    assert await database.write(tasks.save, task, task) is None
    now = await database.read(tasks.reread, "batch_1")
    assert now is not None
    assert (now.message, now.completed, now.version) == ("waits", 1, 2)


async def test_tasks_and_files_are_their_owners_alone(database: Database) -> None:
    def fill(connection: Connection) -> None:
        tasks.add(connection, a_task())
        tasks.add(connection, a_task("batch_2", owner="bob", project="p", session="S"))
        files.add(connection, a_file(complete=True, bytes=3))
        files.add(connection, a_file("file-2", owner="bob", complete=True, project="p", session="S"))

    await database.write(fill)

    async def seen(caller: Principal) -> tuple[list[str], list[str]]:
        kept = await database.read(files.find, caller)
        return [task.id for task in await database.read(tasks.find, caller)], [file.id for file in kept]

    assert await seen(ANN) == (["batch_1"], ["file-1"])
    assert await seen(BOB) == (["batch_2"], ["file-2"])
    assert await seen(OPERATOR) == (["batch_2", "batch_1"], [])
    assert await seen(BOB.model_copy(update={"project": "p", "session": "S"})) == (["batch_2"], ["file-2"])
    assert await seen(BOB.model_copy(update={"project": "q"})) == ([], [])
    assert await seen(BOB.model_copy(update={"session": "T"})) == ([], [])
    with pytest.raises(TaskNotFound):
        await database.read(tasks.get, ANN, "batch_2")
    with pytest.raises(FileNotFound):
        await database.read(files.get, OPERATOR, "file-1")
    assert await database.read(files.used_by, "ann") == 3
    assert await database.read(tasks.reads, "file-1")


async def test_an_upload_is_no_file_before_it_is_whole_and_is_swept_if_it_never_is(database: Database) -> None:
    await database.write(files.add, a_file())
    await database.write(files.put, "file-1", 0, b"x" * CHUNK, NOW)
    with pytest.raises(FileNotFound):
        await database.read(files.get, ANN, "file-1")
    assert await database.read(files.forgotten, NOW, NOW, 10) == []
    later = NOW + timedelta(seconds=1)
    assert await database.read(files.forgotten, NOW, later, 10) == ["file-1"]
    await database.write(files.finish, "file-1", "0" * 64, NOW)
    assert (await database.read(files.get, ANN, "file-1")).bytes == CHUNK
    assert await database.read(files.forgotten, NOW, later, 10) == []
    assert await database.read(files.forgotten, later, later, 10) == ["file-1"]
    await database.write(files.remove, "file-1")
    with pytest.raises(FileNotFound):
        await database.read(files.piece, "file-1", 0)
    with pytest.raises(FileNotFound):
        await database.write(files.put, "file-1", 1, b"x", NOW)


async def test_a_task_goes_with_its_results_and_what_was_uploaded_for_it(database: Database) -> None:
    def fill(connection: Connection) -> None:
        tasks.add(connection, a_task(phase=TaskPhase.COMPLETED, ended_at=NOW))
        files.add(connection, a_file(complete=True, purpose="task_input"))
        files.add(connection, a_file("file-o", complete=True, task="batch_1", part="output"))

    await database.write(fill)
    assert await database.read(tasks.forgotten, NOW, 9) == []
    assert await database.read(tasks.forgotten, NOW + timedelta(seconds=1), 9) == ["batch_1"]
    await database.write(tasks.remove, "batch_1")
    assert await database.read(files.find, ANN) == []
    assert await database.read(tasks.live) == []
