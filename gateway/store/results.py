"""Results of tasks, line by line. A line has one result, whoever writes how often: its number is the key.

When a task has ended, each result is told where it begins among all of them: then any range of the whole is found by
its first byte, and nothing has to be written a second time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update

from gateway.model.task import FilePart
from gateway.store import tasks as holding
from gateway.store.schema import task_results as results
from gateway.store.tasks import Grip

_ADD = insert(results)
_PLACE = (
    update(results)
    .where(results.c.task_id == bindparam("the_task"), results.c.line == bindparam("the_line"))
    .values(at=bindparam("new_at"), own_at=bindparam("new_own_at"))
)


class Result(NamedTuple):
    """What became of a line: one line of JSON, with its end. `ok`: it was answered."""

    line: int
    ok: bool
    body: bytes


class Places(NamedTuple):
    """How far results have been told where they begin: after this line, and at these bytes of all, output and error."""

    line: int = 0
    every: int = 0
    output: int = 0
    error: int = 0


def keep(connection: Connection, grip: Grip, found: Sequence[Result]) -> None:
    """Write down what became of lines, and count them; those that have a result keep theirs. LeaseLost."""
    lines = [one.line for one in found]
    query = select(results.c.line).where(results.c.task_id == grip.task, results.c.line.in_(lines))
    known = set(connection.execute(query).scalars())
    new = [one for one in found if one.line not in known]
    holding.count(connection, grip, sum(one.ok for one in new), sum(not one.ok for one in new))
    if new:
        connection.execute(
            _ADD,
            [
                {"task_id": grip.task, "line": one.line, "ok": one.ok, "size": len(one.body), "body": one.body}
                for one in new
            ],
        )


def done(connection: Connection, task_id: str, first: int, last: int) -> set[int]:
    """Of the lines from `first` to `last`, those that have a result."""
    query = select(results.c.line).where(results.c.task_id == task_id, results.c.line.between(first, last))
    return set(connection.execute(query).scalars())


def place(connection: Connection, grip: Grip, places: Places, most: int) -> Places | None:
    """Tell so many more results where they begin; None if there are no more. LeaseLost."""
    holding.hold(connection, grip)
    query = select(results.c.line, results.c.ok, results.c.size).where(results.c.task_id == grip.task)
    rows = connection.execute(query.where(results.c.line > places.line).order_by(results.c.line).limit(most)).all()
    if not rows:
        return None
    line, every, output, error = places
    told = []
    for row in rows:
        own = output if row.ok else error
        told.append({"the_task": grip.task, "the_line": row.line, "new_at": every, "new_own_at": own})
        line, every = row.line, every + row.size
        output, error = (output + row.size, error) if row.ok else (output, error + row.size)
    connection.execute(_PLACE, told)
    return Places(line, every, output, error)


def length(connection: Connection, task_id: str) -> int:
    """Bytes of all results that are there."""
    query = select(func.coalesce(func.sum(results.c.size), 0)).where(results.c.task_id == task_id)
    return int(connection.execute(query).scalar_one())


def read(connection: Connection, task_id: str, part: FilePart | None, start: int, most: int) -> bytes:
    """At most about `most` bytes of all results, or of a part of them, from `start` on; empty at the end."""
    place, mine = _of(task_id, part)
    first = connection.execute(select(func.max(place)).where(mine, place <= start)).scalar()
    if first is None:
        return b""
    query = select(place, results.c.body).where(mine, place >= first).order_by(place).execution_options(yield_per=16)
    return b"".join(_taken(connection.execute(query), start, most))


def _taken(rows: Any, start: int, most: int) -> Iterator[bytes]:
    size = 0
    for at, body in rows:
        piece = body[start - at :] if at < start else body
        yield piece
        size += len(piece)
        if size >= most:
            rows.close()
            return


def remove(connection: Connection, task_id: str, part: FilePart) -> None:
    """Forget the results of one kind."""
    connection.execute(delete(results).where(results.c.task_id == task_id, results.c.ok == (part == "output")))


def _of(task_id: str, part: FilePart | None) -> tuple[Column[Any], ColumnElement[bool]]:
    """Where each result begins, and which results they are."""
    if part is None:
        return results.c.at, results.c.task_id == task_id
    return results.c.own_at, and_(results.c.task_id == task_id, results.c.ok == (part == "output"))
