"""Idempotency keys of sessions that were forgotten: kept for a day, so that a late repetition makes no new session."""

from datetime import timedelta

from sqlalchemy import Connection, delete, func, insert, select

from gateway.errors import Conflict
from gateway.model.session import Session
from gateway.store.schema import sessions, spent_keys

KEPT = timedelta(days=1)


def check(connection: Connection, session: Session, key: str) -> None:
    """Conflict if the key made a session of the owner's that was deleted since."""
    mine = select(spent_keys.c.at).where(spent_keys.c.owner == session.owner, spent_keys.c.key == key)
    if connection.execute(mine).first() is not None:
        raise Conflict(
            "the session that was made with this Idempotency-Key was deleted",
            hint="Use a fresh key for each new session.",
        )


def spend(connection: Connection, session: Session) -> None:
    """Keep the key of a session that is about to be forgotten, and let go of old ones."""
    connection.execute(delete(spent_keys).where(spent_keys.c.at < session.updated_at - KEPT))
    kept = select(sessions.c.owner, sessions.c.idempotency_key, func.now()).where(
        sessions.c.id == session.id, sessions.c.ended, sessions.c.idempotency_key.is_not(None)
    )
    connection.execute(insert(spent_keys).from_select(["owner", "key", "at"], kept))
