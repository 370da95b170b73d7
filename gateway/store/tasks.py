"""Tasks in the database. Reads start from the caller (`visible_to`); writes are guarded by the version read.

Whoever works on a task holds it: each of its writes shows that nobody else has taken it since (`Grip`). As for leases
of clusters, no clock of the database decides: who waits for a holder to lapse watches `renewals` by its own clock.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, insert, select, update

from gateway.errors import Conflict, LeaseLost, TaskNotFound
from gateway.model.principal import Principal
from gateway.model.task import FilePart, Task, TaskPhase
from gateway.store.engine import about
from gateway.store.reach import held_to
from gateway.store.schema import files, tasks

_JSON = {"about", "faults"}


class Grip(NamedTuple):
    """What a holder shows with every write."""

    task: str
    holder: str
    term: int


class Held(NamedTuple):
    """A task that has not ended, and who holds it; nobody: `holder` is empty."""

    task: str
    owner: str
    holder: str
    term: int
    renewals: int


def visible_to(caller: Principal) -> Select[Any]:
    """The caller's own tasks, and all for operators; a token that is held to something reaches what is of that."""
    query = select(tasks).where(*held_to(caller, tasks.c.session, tasks.c.project))
    return query if caller.everywhere else query.where(tasks.c.owner == caller.name)


def get(connection: Connection, caller: Principal, task_id: str) -> Task:
    """TaskNotFound also for those that the caller may not know of."""
    row = connection.execute(visible_to(caller).where(tasks.c.id == task_id)).one_or_none()
    if row is None:
        raise TaskNotFound(f"there is no task {task_id!r}", hint="`sluice batch list` shows yours.")
    return _task(row)


def find(
    connection: Connection, caller: Principal, *, after: str | None = None, limit: int = 50, own: bool = False
) -> list[Task]:
    """Newest first; `after` is the last of the page before. `own`: an operator's own alone."""
    query = visible_to(caller)
    if own:
        query = query.where(tasks.c.owner == caller.name)
    if after is not None:
        query = query.where(tasks.c.id < after)
    return [_task(row) for row in connection.execute(query.order_by(tasks.c.id.desc()).limit(limit))]


def known(connection: Connection, caller: Principal, key: str) -> bool:
    """Whether the caller made a task under this key before."""
    mine = (tasks.c.owner == caller.name) & (tasks.c.idempotency_key == key)
    return connection.execute(select(tasks.c.id).where(mine)).first() is not None


def earlier(connection: Connection, caller: Principal, key: str, digest: str) -> Task | None:
    """The task that this request made before, under the same key. Conflict if it was another request."""
    row = connection.execute(
        select(tasks).where(tasks.c.owner == caller.name, tasks.c.idempotency_key == key)
    ).one_or_none()
    if row is None:
        return None
    if row.idempotency_digest != digest:
        raise Conflict("this Idempotency-Key was used for another request", hint="Take a new one.")
    return _task(row)


def live_of(connection: Connection, owner: str) -> int:
    """How many of somebody's tasks have not ended."""
    query = select(func.count()).where(tasks.c.owner == owner, ~tasks.c.ended)
    return int(connection.execute(query).scalar_one())


def reads(connection: Connection, file_id: str) -> bool:
    """Whether a task that has not ended reads this file."""
    query = select(tasks.c.id).where(tasks.c.input_file == file_id, ~tasks.c.ended).limit(1)
    return connection.execute(query).first() is not None


def add(connection: Connection, task: Task, key: str | None = None, digest: str | None = None) -> None:
    about(connection, "news")  # whoever works on tasks hears of it
    connection.execute(insert(tasks).values(**_values(task), idempotency_key=key, idempotency_digest=digest))


def save(connection: Connection, before: Task, after: Task, grip: Grip | None = None) -> Task | None:
    """Write it down if it is still as it was read; None if it is not. LeaseLost if somebody else works on it now."""
    if grip is not None:
        hold(connection, grip)
    about(connection, "news")
    after = after.model_copy(update={"version": before.version + 1})
    still = and_(tasks.c.id == before.id, tasks.c.version == before.version)
    counted = {name: value for name, value in _values(after).items() if name not in {"completed", "failed"}}
    return after if connection.execute(update(tasks).where(still).values(**counted)).rowcount else None


def remove(connection: Connection, task_id: str) -> None:
    """With its results, the files that show them, and what was uploaded for it alone."""
    own = select(tasks.c.input_file).where(tasks.c.id == task_id)
    connection.execute(delete(files).where(files.c.id.in_(own), files.c.purpose == "task_input"))
    connection.execute(delete(tasks).where(tasks.c.id == task_id))


def forget_file(connection: Connection, task_id: str, part: FilePart) -> None:
    """The file that shows its results of one kind is deleted."""
    column = tasks.c.output_file if part == "output" else tasks.c.error_file
    connection.execute(update(tasks).where(tasks.c.id == task_id).values({column: None}))


# Whoever works on them


def live(connection: Connection) -> list[Held]:
    """All that have not ended, the oldest first."""
    query = select(tasks.c.id, tasks.c.owner, tasks.c.holder, tasks.c.term, tasks.c.renewals).where(~tasks.c.ended)
    return [Held(*row) for row in connection.execute(query.order_by(tasks.c.id))]


def reread(connection: Connection, task_id: str) -> Task | None:
    """As it is now; None if it was deleted."""
    row = connection.execute(select(tasks).where(tasks.c.id == task_id)).one_or_none()
    return _task(row) if row is not None else None


def phase(connection: Connection, task_id: str) -> TaskPhase | None:
    """None if it was deleted."""
    found = connection.execute(select(tasks.c.phase).where(tasks.c.id == task_id)).scalar_one_or_none()
    return TaskPhase(found) if found is not None else None


def take(connection: Connection, seen: Held, me: str) -> Grip | None:
    """Hold it, if it is still as it was seen."""
    still = and_(tasks.c.id == seen.task, tasks.c.term == seen.term, tasks.c.renewals == seen.renewals, ~tasks.c.ended)
    values = {"holder": me, "term": seen.term + 1, "renewals": seen.renewals + 1}
    taken = connection.execute(update(tasks).where(still).values(**values)).rowcount
    return Grip(seen.task, me, seen.term + 1) if taken else None


def beat(connection: Connection, grips: Iterable[Grip]) -> set[Grip]:
    """A sign of life for each; those that are still held."""
    renewed = {"renewals": tasks.c.renewals + 1}
    return {grip for grip in grips if connection.execute(update(tasks).where(_held(grip)).values(**renewed)).rowcount}


def give(connection: Connection, grips: Iterable[Grip]) -> None:
    """Let go of them: another may take them at once."""
    for grip in grips:
        values = {"holder": "", "renewals": tasks.c.renewals + 1}
        connection.execute(update(tasks).where(_held(grip)).values(**values))


def hold(connection: Connection, grip: Grip) -> None:
    """LeaseLost unless the task is still this holder's."""
    if connection.execute(select(tasks.c.id).where(_held(grip))).first() is None:
        raise LeaseLost(f"another client service works on {grip.task} now", hint="Nothing was written.")


def count(connection: Connection, grip: Grip, completed: int, failed: int) -> None:
    """So many more lines have their result. LeaseLost."""
    more = {"completed": tasks.c.completed + completed, "failed": tasks.c.failed + failed}
    renewed = {"renewals": tasks.c.renewals + 1}
    if not connection.execute(update(tasks).where(_held(grip)).values(**more, **renewed)).rowcount:
        raise LeaseLost(f"another client service works on {grip.task} now", hint="Nothing was written.")


def forgotten(connection: Connection, before: datetime, limit: int) -> list[str]:
    """Ids of tasks that ended long ago."""
    query = select(tasks.c.id).where(tasks.c.ended, tasks.c.ended_at < before).order_by(tasks.c.id).limit(limit)
    return list(connection.execute(query).scalars())


def _held(grip: Grip) -> ColumnElement[bool]:
    return and_(tasks.c.id == grip.task, tasks.c.holder == grip.holder, tasks.c.term == grip.term)


def _values(task: Task) -> dict[str, Any]:
    return {**task.model_dump(exclude=_JSON), **task.model_dump(mode="json", include=_JSON), "ended": task.phase.ended}


def _task(row: Row[Any]) -> Task:
    return Task.model_validate(row, from_attributes=True)
