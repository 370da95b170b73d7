"""How busy the data plane is, as its processes report it: one row a session and process, written over and over."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from gateway.model.load import Load, total
from gateway.store.schema import loads as table
from gateway.store.schema import sessions

__all__ = ["Load", "loads", "report"]


def report(connection: Connection, rows: Sequence[Load]) -> None:
    """Put the rows in the place of those before; what is said of a session that is forgotten is left out."""
    ids = {row.session_id for row in rows}
    known = set(connection.execute(select(sessions.c.id).where(sessions.c.id.in_(ids))).scalars())
    kept = [row for row in rows if row.session_id in known]
    for row in kept:
        same = (table.c.session_id == row.session_id) & (table.c.writer == row.writer)
        connection.execute(delete(table).where(same))
    if kept:
        connection.execute(insert(table), [row.model_dump() for row in kept])


def loads(connection: Connection, now: datetime) -> dict[str, Load]:
    """What all processes together have to do with the live sessions, by session id."""
    query = select(table).join(sessions, sessions.c.id == table.c.session_id).where(~sessions.c.ended)
    return total((Load.model_validate(row, from_attributes=True) for row in connection.execute(query)), now)
