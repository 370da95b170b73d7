"""Codes by which a browser is let into one session: good once, for a minute, and kept as digests."""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from gateway.model.principal import Opened
from gateway.store.schema import openings


def add(connection: Connection, digest: str, opened: Opened, *, now: datetime, until: datetime) -> None:
    """Keep a code; those that nobody used go."""
    connection.execute(delete(openings).where(openings.c.expires_at < now))
    row = {"session_id": opened.session, "owner": opened.owner, "token": opened.token, "sign_in": opened.sign_in}
    connection.execute(insert(openings).values(digest=digest, expires_at=until, **row))


def take(connection: Connection, digest: str, now: datetime) -> Opened | None:
    """What a code lets somebody into, which is then used up; of two who try at once one gets it."""
    row = connection.execute(select(openings).where(openings.c.digest == digest)).one_or_none()
    used = connection.execute(delete(openings).where(openings.c.digest == digest)).rowcount
    if row is None or not used or row.expires_at < now:
        return None
    return Opened(row.session_id, row.owner, row.token, row.sign_in)
