"""Events: rows written with the change that they tell of, read in order of their ids."""

from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, func, select

from gateway.model.principal import Principal
from gateway.store.schema import events, sessions
from gateway.store.sessions import seen_by

PAGE = 500


class Event(BaseModel):
    """Something that happened to a session."""

    model_config = ConfigDict(frozen=True)

    id: int
    session_id: str
    type: str
    at: datetime
    data: dict[str, Any]


def after(connection: Connection, caller: Principal, last: int, *, session_id: str | None = None) -> list[Event]:
    """At most PAGE events with ids above `last` that the caller may know of, oldest first."""
    query = select(events).where(events.c.id > last).order_by(events.c.id).limit(PAGE)
    if session_id is not None:
        query = query.where(events.c.session_id == session_id)
    query = query.join(sessions, sessions.c.id == events.c.session_id).where(seen_by(caller))
    return [Event.model_validate(row, from_attributes=True) for row in connection.execute(query)]


class Whose(NamedTuple):
    """Whose session an event is about: what decides who may know of it."""

    id: str
    owner: str
    project: str


def everybodys(connection: Connection, last: int) -> list[tuple[Event, Whose]]:
    """The same, asked for nobody: an event may be shown to those alone who see whose it is (`Principal.sees`)."""
    query = select(events, sessions.c.project).join(sessions, sessions.c.id == events.c.session_id)
    rows = connection.execute(query.where(events.c.id > last).order_by(events.c.id).limit(PAGE))
    return [
        (Event.model_validate(row, from_attributes=True), Whose(row.session_id, row.owner, row.project)) for row in rows
    ]


def newest(connection: Connection) -> int:
    """The id of the newest event, 0 if there is none."""
    return connection.execute(select(func.max(events.c.id))).scalar() or 0
