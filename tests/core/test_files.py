"""Files and ended tasks are forgotten by their age, in a real database of each kind, and told to the audit log."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from gateway.core import files
from gateway.errors import FileNotFound, TaskNotFound
from gateway.model.audit import AuditQuery
from gateway.model.principal import LOCAL_ADMIN
from gateway.model.task import KeptFile, Task, TaskPhase
from gateway.store import audit, results, tasks
from gateway.store import files as store
from gateway.store.results import Result


async def upload(world: Any, content: bytes) -> KeptFile:
    """A file of the administrator's."""
    async with await files.begin(world.gateway, LOCAL_ADMIN, "in.jsonl") as upload:
        await upload.write(content)
        return await upload.finish()


async def a_task(world: Any, number: int, file: KeptFile) -> Task:
    """One that is under way, with a result."""
    now = world.time()
    task = Task(
        id=f"batch_{number}",
        owner=LOCAL_ADMIN.name,
        user_id=LOCAL_ADMIN.id,
        input_file=file.id,
        phase=TaskPhase.IN_PROGRESS,
        created_at=now,
        expires_at=now,
    )

    def write(connection: Connection) -> None:
        tasks.add(connection, task)
        seen = next(one for one in tasks.live(connection) if one.task == task.id)
        grip = tasks.take(connection, seen, "test")
        assert grip is not None
        results.keep(connection, grip, [Result(1, ok=True, body=b"{}\n")])

    await world.gateway.db.write(write)
    return task


async def end(world: Any, task: Task) -> None:
    before = await world.gateway.db.read(tasks.reread, task.id)
    after = before.model_copy(update={"phase": TaskPhase.COMPLETED, "ended_at": world.time()})
    assert await world.gateway.db.write(tasks.save, before, after) is not None


async def test_the_sweep_takes_what_is_old_and_nothing_that_is_used(world: Any) -> None:
    gateway, keep = world.gateway, timedelta(days=world.gateway.settings.tasks.keep_days)
    old, read = await upload(world, b"old"), await upload(world, b"read")
    ended, live = await a_task(world, 1, old), await a_task(world, 2, read)
    await end(world, ended)
    given_up = await files.begin(gateway, LOCAL_ADMIN, "half.jsonl")
    await given_up.write(b"half")
    assert await files.sweep(gateway) == 0
    world.time.now += files.UNFINISHED + timedelta(seconds=1)
    assert await files.sweep(gateway) == 1, "the upload that was given up"
    with pytest.raises(FileNotFound):
        await given_up.write(b"x" * store.CHUNK)
    world.time.now += keep
    new = await upload(world, b"new")
    assert await files.sweep(gateway) == 2, "the old file and the ended task"
    assert await files.sweep(gateway) == 0
    kept = await gateway.db.read(store.find, LOCAL_ADMIN)
    assert [file.id for file in kept] == [new.id, read.id], "a task reads one of them still"
    with pytest.raises(TaskNotFound):
        await gateway.db.read(tasks.get, LOCAL_ADMIN, ended.id)
    assert await gateway.db.read(results.done, ended.id, 1, 1) == set()
    assert await gateway.db.read(results.done, live.id, 1, 1) == {1}
    rows, _ = await gateway.db.read(audit.find, LOCAL_ADMIN, AuditQuery(limit=50))
    told = [(row.action, row.object, row.details["why"]) for row in rows if "why" in row.details]
    why = "kept for long enough"
    assert set(told) == {
        ("file.delete", given_up.file.id, why),
        ("file.delete", old.id, why),
        ("task.delete", ended.id, why),
    }


async def test_some_at_a_time_are_swept(world: Any) -> None:
    for _ in range(files.SWEPT_AT_ONCE + 5):
        await upload(world, b"x")
    world.time.now += timedelta(days=world.gateway.settings.tasks.keep_days, seconds=1)
    assert [await files.sweep(world.gateway) for _ in range(3)] == [files.SWEPT_AT_ONCE, 5, 0]


async def test_what_breaks_off_leaves_nothing(world: Any) -> None:
    async def broken() -> None:
        async with await files.begin(world.gateway, LOCAL_ADMIN, "half.jsonl") as upload:
            await upload.write(b"x" * store.CHUNK)
            assert await world.gateway.db.read(store.used_by, LOCAL_ADMIN.name) == store.CHUNK
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        await broken()
    assert await world.gateway.db.read(store.used_by, LOCAL_ADMIN.name) == 0
