"""Files in the database, in pieces: an upload or a download holds one of them in memory at a time.

Reads start from the caller (`visible_to`): a file is its owner's alone.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from gateway.errors import FileNotFound
from gateway.model.principal import Principal
from gateway.model.task import KeptFile
from gateway.store.reach import held_to
from gateway.store.schema import file_chunks, files

CHUNK = 1 << 20


def visible_to(caller: Principal) -> Select[Any]:
    """The caller's own files; a token that is held to a project or a session reaches those made for it."""
    held = held_to(caller, files.c.session, files.c.project)
    return select(files).where(files.c.owner == caller.name, files.c.complete, *held)


def get(connection: Connection, caller: Principal, file_id: str) -> KeptFile:
    """FileNotFound also for those that the caller may not know of."""
    row = connection.execute(visible_to(caller).where(files.c.id == file_id)).one_or_none()
    if row is None:
        raise unknown(file_id)
    return KeptFile.model_validate(row, from_attributes=True)


def unknown(file_id: str) -> FileNotFound:
    return FileNotFound(f"there is no file {file_id!r}", hint="Files are kept for a while only, and are their owner's.")


def find(
    connection: Connection,
    caller: Principal,
    *,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = 100,
    oldest: bool = False,
) -> list[KeptFile]:
    """Newest first, or `oldest` first; `after` is the last of the page before."""
    query = visible_to(caller)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        query = query.where(files.c.id > after if oldest else files.c.id < after)
    query = query.order_by(files.c.id if oldest else files.c.id.desc()).limit(limit)
    return [KeptFile.model_validate(row, from_attributes=True) for row in connection.execute(query)]


def used_by(connection: Connection, owner: str) -> int:
    """Bytes that all files of somebody take."""
    total = connection.execute(select(func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.owner == owner))
    return int(total.scalar_one())


def add(connection: Connection, file: KeptFile) -> None:
    connection.execute(insert(files).values(**file.model_dump()))


def replace(connection: Connection, file: KeptFile) -> None:
    """In the place of the one that was made before a crash."""
    remove(connection, file.id)
    add(connection, file)


def put(connection: Connection, file_id: str, number: int, data: bytes, now: datetime) -> None:
    """The next piece of an upload, once. FileNotFound if the upload was given up meanwhile."""
    size = files.c.bytes + len(data)
    here = files.c.id == file_id
    if connection.execute(update(files).where(here).values(bytes=size, touched_at=now)).rowcount == 0:
        raise unknown(file_id)
    connection.execute(insert(file_chunks).values(file_id=file_id, number=number, data=data))


def finish(connection: Connection, file_id: str, sha256: str, now: datetime) -> None:
    """The upload is whole: from now on there is such a file."""
    values = {"sha256": sha256, "complete": True, "touched_at": now}
    if connection.execute(update(files).where(files.c.id == file_id).values(**values)).rowcount == 0:
        raise unknown(file_id)


def length(connection: Connection, file_id: str) -> int:
    """Of the input of a task, for whoever works on it. FileNotFound."""
    found = connection.execute(select(files.c.bytes).where(files.c.id == file_id)).scalar_one_or_none()
    if found is None:
        raise unknown(file_id)
    return int(found)


def piece(connection: Connection, file_id: str, number: int) -> bytes:
    """One piece of a file that was found for the caller. FileNotFound if it was deleted meanwhile."""
    found = connection.execute(
        select(file_chunks.c.data).where(file_chunks.c.file_id == file_id, file_chunks.c.number == number)
    ).scalar_one_or_none()
    if found is None:
        raise unknown(file_id)
    return bytes(found)


def remove(connection: Connection, file_id: str) -> None:
    connection.execute(delete(files).where(files.c.id == file_id))


def forgotten(connection: Connection, before: datetime, unfinished_before: datetime, limit: int) -> list[str]:
    """Ids of uploads that were given up, and of files that nobody used for long and no task will."""
    old = (files.c.complete & (files.c.touched_at < before)) | (
        ~files.c.complete & (files.c.touched_at < unfinished_before)
    )
    query = select(files.c.id).where(files.c.task.is_(None), old).order_by(files.c.touched_at).limit(limit)
    return list(connection.execute(query).scalars())


def touch(connection: Connection, file_id: str, now: datetime) -> None:
    """It is used: it is kept for longer."""
    connection.execute(update(files).where(files.c.id == file_id).values(touched_at=now))
