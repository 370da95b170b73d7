"""Files of people: uploaded piece by piece, read by range, kept for a while."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Self

from sqlalchemy import Connection
from ulid import ULID

from gateway.core import audit
from gateway.core.context import Gateway
from gateway.errors import Conflict, Invalid, TooLarge
from gateway.model.fixed import forbidden
from gateway.model.principal import Principal
from gateway.model.task import KeptFile, Purpose
from gateway.store import files as store
from gateway.store import results, tasks
from gateway.store.files import CHUNK

_LONGEST_NAME = 255
UNFINISHED = timedelta(hours=1)
SWEPT_AT_ONCE = 20


class Upload:
    """A file that comes: `async with await begin(…) as upload`, `write`, `finish`. Left otherwise it is gone."""

    def __init__(self, gateway: Gateway, caller: Principal, file: KeptFile, room: int) -> None:
        self._gateway, self._caller, self.file = gateway, caller, file
        self._room, self._number, self._size = room, 0, 0
        self._data = bytearray()
        self._sum = hashlib.sha256()
        self._done = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._done:
            await self._gateway.db.write(store.remove, self.file.id)

    async def write(self, data: bytes) -> None:
        """TooLarge if the file, or all of its owner's together, would be too long."""
        self._size += len(data)
        self._check()
        self._data += data
        while len(self._data) >= CHUNK:
            await self._put(bytes(self._data[:CHUNK]))
            del self._data[:CHUNK]

    async def end(self) -> None:
        """Nothing more comes."""
        if self._data:
            await self._put(bytes(self._data))
            self._data.clear()

    def done(self, connection: Connection) -> KeptFile:
        """Within a write, after `end`: from now on there is this file. The writer then says `keep`."""
        store.finish(connection, self.file.id, self.sha256, self._gateway.clock())
        return self.file.model_copy(update={"bytes": self._size, "sha256": self.sha256, "complete": True})

    def keep(self) -> None:
        self._done = True

    @property
    def sha256(self) -> str:
        """Of what has come."""
        return self._sum.hexdigest()

    async def finish(self) -> KeptFile:
        """Durable when this returns."""
        await self.end()
        told = audit.by(self._gateway, self._caller)

        def write(connection: Connection) -> KeptFile:
            file = self.done(connection)
            audit.record(connection, told, "file.create", "file", file.id, project=file.project, details=_about(file))
            return file

        file = await self._gateway.db.write(write)
        self.keep()
        return file

    def _check(self) -> None:
        most = self._gateway.settings.tasks.file_bytes
        if self._size > most:
            raise TooLarge(f"the file is longer than {_mib(most)}")
        if self._size > self._room:
            raise TooLarge(
                f"your files would take more than {_mib(self._gateway.settings.tasks.user_bytes)}",
                hint="Delete files and tasks that you do not need any more.",
            )

    async def _put(self, data: bytes) -> None:
        self._sum.update(data)
        now = self._gateway.clock()
        await self._gateway.db.write(store.put, self.file.id, self._number, data, now)
        self._number += 1


async def begin(
    gateway: Gateway,
    caller: Principal,
    name: str,
    *,
    purpose: Purpose = "batch",
    project: str | None = None,
    session: str | None = None,
) -> Upload:
    """A file that is to come, for who may keep any. Forbidden, TooLarge."""
    if not caller.id or caller.origin == "kubernetes":
        raise forbidden("fixed-somebody", "you are nobody who could keep files")
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise Invalid(f"a file has a name of 1 to {_LONGEST_NAME} characters", param="file")
    now = gateway.clock()
    file = KeptFile(
        id=f"file-{ULID()}",
        owner=caller.name,
        project=caller.project or project,
        session=caller.session or session,
        purpose=purpose,
        name=name,
        created_at=now,
        touched_at=now,
    )

    def write(connection: Connection) -> int:
        room = gateway.settings.tasks.user_bytes - store.used_by(connection, caller.name)
        store.add(connection, file)
        return room

    upload = Upload(gateway, caller, file, await gateway.db.write(write))
    try:
        upload._check()  # noqa: SLF001 - its own
    except TooLarge:
        await gateway.db.write(store.remove, file.id)
        raise
    return upload


async def get(gateway: Gateway, caller: Principal, file_id: str) -> KeptFile:
    """FileNotFound."""
    return await gateway.db.read(store.get, caller, file_id)


async def content(gateway: Gateway, file: KeptFile, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes from `start` up to `end` of a file that was found for the caller, a piece at a time."""
    while start < end:
        if file.task is not None:
            data = await gateway.db.read(results.read, file.task, file.part, start, CHUNK)
        else:
            data = (await gateway.db.read(store.piece, file.id, start // CHUNK))[start % CHUNK :]
        if not data:
            raise store.unknown(file.id)
        data = data[: end - start]
        start += len(data)
        yield data


async def delete(gateway: Gateway, caller: Principal, file_id: str) -> None:
    """FileNotFound; Conflict while a task reads it."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        file = store.get(connection, caller, file_id)
        if tasks.reads(connection, file.id):
            raise Conflict("a task reads this file", hint="Cancel the task first, or wait for its end.")
        if file.task is not None and file.part is not None:
            results.remove(connection, file.task, file.part)
            tasks.forget_file(connection, file.task, file.part)
        store.remove(connection, file.id)
        audit.record(connection, told, "file.delete", "file", file.id, project=file.project, details=_about(file))

    await gateway.db.write(write)


async def sweep(gateway: Gateway) -> int:
    """Forget what nobody used for long, some at a time; how many."""
    now = gateway.clock()
    before = now - timedelta(days=gateway.settings.tasks.keep_days)
    told = audit.by_system(now)

    def write(connection: Connection) -> int:
        gone = store.forgotten(connection, before, now - UNFINISHED, SWEPT_AT_ONCE)
        gone = [file_id for file_id in gone if not tasks.reads(connection, file_id)]
        old = tasks.forgotten(connection, before, SWEPT_AT_ONCE)
        for file_id in gone:
            store.remove(connection, file_id)
            audit.record(connection, told, "file.delete", "file", file_id, details={"why": "kept for long enough"})
        for task_id in old:
            tasks.remove(connection, task_id)
            audit.record(connection, told, "task.delete", "task", task_id, details={"why": "kept for long enough"})
        return len(gone) + len(old)

    return await gateway.db.write(write)


def _about(file: KeptFile) -> dict[str, str | int]:
    return {"name": file.name, "bytes": file.bytes, "purpose": file.purpose}


def _mib(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size} bytes"
