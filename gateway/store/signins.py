"""Sign-ins in browsers: those that are under way, and the sessions that came of them. Cookies are kept as digests."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, Connection, delete, false, insert, select
from sqlalchemy.exc import IntegrityError

from gateway.model.token import digest
from gateway.store.people import browsers, sign_ins
from gateway.store.revision import bump


class SignIn(BaseModel):
    """A browser that was sent to the provider: what must come back, and where to go then."""

    model_config = ConfigDict(frozen=True)

    state: str
    nonce: str
    verifier: str
    browser: str
    to: str
    created_at: datetime


class Browser(BaseModel):
    """A browser in which somebody is signed in, by the digest of its cookie.

    Without an ID token: what was opened from a terminal that is signed in, by a key of which there is no cookie.
    """

    model_config = ConfigDict(frozen=True)

    digest: str
    user_id: str
    issuer: str
    subject: str
    sid: str | None
    id_token: str
    created_at: datetime
    expires_at: datetime


def spend(connection: Connection, credential: SignIn, older_than: datetime) -> bool:
    """Keep the digest of a credential that signs somebody in at once; whether it is the first time."""
    key = digest(credential.state)
    if connection.execute(select(sign_ins.c.state).where(sign_ins.c.state == key)).first() is not None:
        return False
    try:
        with connection.begin_nested():
            begin(connection, credential.model_copy(update={"state": key}), older_than=older_than)
    except IntegrityError:
        return False
    return True


def begin(connection: Connection, sign_in: SignIn, *, older_than: datetime) -> None:
    """Keep one that begins; those that were never finished go."""
    connection.execute(delete(sign_ins).where(sign_ins.c.created_at < older_than))
    connection.execute(insert(sign_ins).values(**sign_in.model_dump()))


def take(connection: Connection, state: str) -> SignIn | None:
    """The one with this state, which is then used up."""
    row = connection.execute(select(sign_ins).where(sign_ins.c.state == state)).one_or_none()
    connection.execute(delete(sign_ins).where(sign_ins.c.state == state))
    return SignIn.model_validate(row, from_attributes=True) if row is not None else None


def add(connection: Connection, browser: Browser) -> None:
    connection.execute(delete(browsers).where(browsers.c.expires_at < browser.created_at))
    connection.execute(insert(browsers).values(**browser.model_dump()))


def by_cookie(connection: Connection, digest: str) -> Browser | None:
    row = connection.execute(select(browsers).where(browsers.c.digest == digest)).one_or_none()
    return Browser.model_validate(row, from_attributes=True) if row is not None else None


def end(connection: Connection, digest: str) -> None:
    """One browser signs out."""
    _end(connection, browsers.c.digest == digest)


def end_of_user(connection: Connection, user_id: str) -> int:
    return _end(connection, browsers.c.user_id == user_id)


def end_at_provider(connection: Connection, issuer: str, *, subject: str | None, sid: str | None) -> int:
    """The provider says that a session of its own, or somebody's every session, has ended; how many were ours."""
    where: Any = browsers.c.issuer == issuer
    if subject is not None:
        where &= browsers.c.subject == subject
    if sid is not None:
        unknown = browsers.c.sid.is_(None) & (browsers.c.id_token == "") if subject is not None else false()
        where &= (browsers.c.sid == sid) | unknown  # a terminal's token need not say in which session it was made
    return _end(connection, where)


def _end(connection: Connection, where: ColumnElement[bool]) -> int:
    gone = connection.execute(delete(browsers).where(where))
    bump(connection)
    return gone.rowcount
