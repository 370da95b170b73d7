"""Where sessions are served: every ready job of each, and the sessions that a request would start."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, or_, select

from gateway.model.announcement import Endpoint
from gateway.model.session import Phase, Session
from gateway.store import sessions as store
from gateway.store.schema import sessions


class Place(BaseModel):
    """A ready job of a session. One that is draining gets no new requests, unless all are."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    job_id: int
    endpoint: Endpoint
    ready_at: datetime
    draining: bool
    primary: bool


class Serving(BaseModel):
    """A session, and where it is served now. `wakes`: with no place a request may wait for one, see `wake`."""

    model_config = ConfigDict(frozen=True)

    session: Session
    places: tuple[Place, ...]
    wakes: bool


def serving(connection: Connection) -> list[Serving]:
    """The live services that can be called now, or that a request would start. Asked for nobody."""
    ready = (sessions.c.phase == Phase.READY.value) & sessions.c.endpoint.is_not(None)
    placed = select(sessions.c.parent).where(ready, sessions.c.parent.is_not(None))
    to_zero = sessions.c.plan[("service", "replicas", "min")].as_integer() == 0
    rows = store.living(connection, or_(ready, sessions.c.id.in_(placed), to_zero))
    members: dict[str, list[Session]] = {}
    for one in rows:
        members.setdefault(one.root, []).append(one)
    found = []
    for session in (one for one in rows if one.parent is None):
        places = [place for one in members[session.id] if (place := _place(one)) is not None]
        if places or wakes(session):
            found.append(Serving(session=session, places=tuple(places), wakes=wakes(session)))
    return found


def wakes(session: Session) -> bool:
    """Whether a request may wait for it while it has no job."""
    return session.plan.replicas.min == 0 and not session.phase.ended and session.stop_requested_at is None


def wake(connection: Connection, session_id: str, now: datetime) -> bool:
    """A request waits for it: if it sleeps, it is started. True for the first caller alone."""
    session = store.reread(connection, session_id)
    if session is None or session.asleep_at is None or session.phase.ended or session.stop_requested_at is not None:
        return False
    woken = session.model_copy(update={"asleep_at": None, "reason": "", "message": "A request has come."})
    saved = store.save(connection, session, woken, now)
    if saved is not None:
        store.append_events(connection, [(saved, "session.woken", {"slept_since": session.asleep_at.isoformat()})])
    return saved is not None


def _place(one: Session) -> Place | None:
    if one.phase is not Phase.READY or one.endpoint is None or one.job.job_id is None:
        return None
    return Place(
        attempt=one.job.attempt,
        job_id=one.job.job_id,
        endpoint=one.endpoint,
        ready_at=one.ready_at or one.updated_at,
        draining=one.drain_at is not None,
        primary=one.parent is None,
    )
