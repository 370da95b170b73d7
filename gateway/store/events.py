"""Events: rows written with the change that they tell of, read in order of their ids."""

from datetime import datetime
from typing import Any

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


def newest(connection: Connection) -> int:
    """The id of the newest event, 0 if there is none."""
    return connection.execute(select(func.max(events.c.id))).scalar() or 0
