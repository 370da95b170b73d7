"""Opening a session in a browser: a link that lets one in once, and what it is good for."""

import secrets
from datetime import datetime, timedelta

from sqlalchemy import Connection

from gateway.core import admission, audit
from gateway.core.context import Gateway
from gateway.errors import Invalid, NotReady, Unauthenticated
from gateway.model.api import OpeningView
from gateway.model.fixed import forbidden
from gateway.model.policy import Decision
from gateway.model.principal import Opened, Principal
from gateway.model.session import Phase, Session
from gateway.model.token import digest
from gateway.render import job
from gateway.store import openings, sessions, signins
from gateway.store.signins import Browser

CODE = "sluice-code"
LIFE = timedelta(seconds=60)


async def make(gateway: Gateway, caller: Principal, ref: str) -> OpeningView:
    """A link for the owner of a ready service.

    NotReady, Invalid if it is no service, SessionNotFound, Forbidden for anybody else, PolicyDenied.
    """

    def look(connection: Connection) -> tuple[Session, Decision]:
        found = sessions.get(connection, caller, ref)
        decision = admission.may(gateway, caller, "open", found, connection)
        if not caller.enters(found):  # whatever a site's policies permit
            raise forbidden("fixed-pages", f"the pages of session {found.name} are its owner's alone")
        return found, decision

    session, decision = await gateway.db.read(look)
    if session.plan.kind != "service":
        raise Invalid(f"session {session.name} never has pages: it is no service", hint="Its logs show what it does.")
    if session.phase is not Phase.READY:
        raise NotReady(f"session {session.name} has no pages now: it is {session.word}")
    code, now = secrets.token_urlsafe(32), gateway.clock()
    until = now + LIFE
    browser = _signed_in(gateway, caller, now)
    key = browser.digest if browser is not None else caller.sign_in.key if caller.sign_in is not None else None
    told, opened = audit.by(gateway, caller), Opened(session.id, session.owner, caller.token, key)

    def write(connection: Connection) -> None:
        if browser is not None:
            signins.add(connection, browser)
        openings.add(connection, digest(code), opened, now=now, until=until)
        audit.record_session(connection, told, "session.open", session, policy=decision.policy)

    await gateway.db.write(write)
    domain, own = gateway.settings.proxy.session_domain, own_prefix(session)
    place = f"//{session.name}.{domain}{own}/" if domain else f"{own or f'/s/{session.name}'}/"
    return OpeningView(url=f"{place}?{CODE}={code}", expires_at=until)


def _signed_in(gateway: Gateway, caller: Principal, now: datetime) -> Browser | None:
    """What stands for the sign-in of a terminal, that it can be ended; a browser's own is kept already."""
    by = caller.sign_in
    if by is None or by.key is not None:
        return None
    return Browser(
        digest=digest(secrets.token_urlsafe(32)),
        user_id=caller.id,
        issuer=by.issuer,
        subject=by.subject,
        sid=by.sid,
        id_token="",
        created_at=now,
        expires_at=now + LIFE + timedelta(hours=gateway.settings.proxy.cookie_hours),
    )


def own_prefix(session: Session) -> str:
    """What every path that its service is asked for begins with, for services that must know where they are."""
    service = session.plan.service
    return job.own_prefix(session.id) if service is not None and service.prefix == "keep" else ""


async def take(gateway: Gateway, code: str) -> Opened:
    """What a code lets somebody into, once. Unauthenticated if it lets nobody in."""
    found = await gateway.db.write(openings.take, digest(code), gateway.clock())
    if found is None:
        raise Unauthenticated("this link was used already, or is too old", hint="`sluice open` makes another.")
    return found
