"""The audit log in the database: rows are added, each chained to the one before. Reads start from the caller.

The number and the hash of a row are taken from the newest one within the writing transaction. There is one of those
at a time (see gateway.store.engine), whichever server writes: so the chain has no fork and no gap, and a write that is
undone or run again leaves none.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, insert, select

from gateway.model.audit import AuditHead, AuditLine, AuditQuery, AuditRow, chained, head_of
from gateway.model.principal import Principal
from gateway.store.reach import held_to
from gateway.store.schema import audit

_ADD = insert(audit)
_HEAD = select(audit.c.id, audit.c.hash).order_by(audit.c.id.desc()).limit(1)


def append(connection: Connection, lines: Sequence[AuditLine]) -> None:
    """Add rows, in this order, in the transaction of what they tell of."""
    newest, rows = head(connection), []
    for line in lines:
        row = chained(line, newest)
        newest = head_of(row)
        rows.append(row.model_dump())
    if rows:
        connection.execute(_ADD, rows)


def head(connection: Connection) -> AuditHead:
    """The newest row's number and hash."""
    row = connection.execute(_HEAD).one_or_none()
    return AuditHead(id=row.id, hash=row.hash) if row is not None else AuditHead()


def visible_to(caller: Principal) -> Select[Any]:
    """The rows that the caller may know of: operators all, everybody those of their own doing."""
    query = select(audit).where(*held_to(caller, audit.c.session, audit.c.project))
    if caller.everywhere:
        return query
    return query.where(and_(audit.c.who == caller.name, audit.c.kind == caller.kind))


def find(connection: Connection, caller: Principal, query: AuditQuery) -> tuple[list[AuditRow], int | None]:
    """One page, newest first, and the cursor of the next."""
    wanted = _narrowed(visible_to(caller), query)
    if query.cursor is not None:
        wanted = wanted.where(audit.c.id < query.cursor)
    rows = connection.execute(wanted.order_by(audit.c.id.desc()).limit(query.limit + 1)).all()
    found = [AuditRow.model_validate(row, from_attributes=True) for row in rows[: query.limit]]
    return found, found[-1].id if len(rows) > query.limit else None


def after(connection: Connection, caller: Principal, query: AuditQuery, last: int) -> list[AuditRow]:
    """At most `limit` rows with ids above `last`, oldest first."""
    wanted = _narrowed(visible_to(caller), query).where(audit.c.id > last).order_by(audit.c.id).limit(query.limit)
    return [AuditRow.model_validate(row, from_attributes=True) for row in connection.execute(wanted)]


def _narrowed(wanted: Select[Any], query: AuditQuery) -> Select[Any]:
    for name in ("who", "action", "object", "session", "decision"):
        if (value := getattr(query, name)) is not None:
            wanted = wanted.where(audit.c[name] == value)
    if query.since is not None:
        wanted = wanted.where(audit.c.at >= query.since)
    if query.until is not None:
        wanted = wanted.where(audit.c.at < query.until)
    return wanted
