"""Further jobs of sessions in the database, and rows that exchange their lives; see gateway.model.group."""

from datetime import datetime

from sqlalchemy import Connection, func, or_, select, update

from gateway.model.session import Session
from gateway.store import sessions as store
from gateway.store.schema import jobs, sessions

Pair = tuple[Session, Session]


def of(connection: Connection, session_id: str) -> list[Session]:
    """The further jobs of a session that have not ended."""
    return store.living(connection, sessions.c.parent == session_id)


def every(connection: Connection, session_id: str) -> list[Session]:
    """All jobs of a session, the ended ones and its own, by attempt; for who was told of the session."""
    rows = connection.execute(
        select(sessions.c.id).where(or_(sessions.c.id == session_id, sessions.c.parent == session_id))
    )
    found = store.load(connection, [row.id for row in rows])
    return sorted(found.values(), key=lambda one: one.job.attempt)


def next_attempt(connection: Connection, session_id: str) -> int:
    """A number that no job of the session has had."""
    mine = or_(sessions.c.id == session_id, sessions.c.parent == session_id)
    query = select(func.max(jobs.c.attempt)).join(sessions, sessions.c.id == jobs.c.session_id).where(mine)
    return int(connection.execute(query).scalar() or 0) + 1


def exchange(connection: Connection, before: Pair, after: Pair, now: datetime) -> Pair | None:
    """Write two rows whose jobs change places, both or none: None if somebody wrote one of them in between."""
    if any(not _current(connection, one) for one in before):
        return None
    for one, other in (before, before[::-1]):
        _move(connection, one, other.id)
    saved = [store.save(connection, old, new, now) for old, new in zip(before, after, strict=True)]
    session, member = saved
    return (session, member) if session is not None and member is not None else None


def part(connection: Connection, before: Session, after: Session, kept: Session, now: datetime) -> Pair | None:
    """Write a session that begins another life, and keep the one before in the row `kept`; None as above."""
    if not _current(connection, before):
        return None
    store.add_row(connection, kept)
    _move(connection, before, kept.id)
    store.add_job(connection, after.job)
    saved = store.save(connection, before, after, now)
    return (saved, kept) if saved is not None else None


def _current(connection: Connection, session: Session) -> bool:
    query = select(sessions.c.version).where(sessions.c.id == session.id)
    return connection.execute(query).scalar() == session.version


def _move(connection: Connection, session: Session, to: str) -> None:
    mine = (jobs.c.session_id == session.id) & (jobs.c.attempt == session.job.attempt)
    connection.execute(update(jobs).where(mine).values(session_id=to))
