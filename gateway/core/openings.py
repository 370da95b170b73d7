"""Opening a session in a browser: a link that lets one in once, and what it is good for."""

import secrets
from datetime import timedelta

from sqlalchemy import Connection

from gateway.core import admission, audit
from gateway.core.context import Gateway
from gateway.errors import Forbidden, NotReady, Unauthenticated
from gateway.model.api import OpeningView
from gateway.model.policy import Decision
from gateway.model.principal import Opened, Principal
from gateway.model.session import Phase, Session
from gateway.model.token import digest
from gateway.render import job
from gateway.store import openings, sessions

CODE = "sluice-code"
LIFE = timedelta(seconds=60)


async def make(gateway: Gateway, caller: Principal, ref: str) -> OpeningView:
    """A link for the owner of a ready session. NotReady, SessionNotFound, Forbidden for anybody else, PolicyDenied."""

    def look(connection: Connection) -> tuple[Session, Decision]:
        found = sessions.get(connection, caller, ref)
        decision = admission.may(gateway, caller, "open", found, connection)
        if not caller.enters(found):  # whatever a site's policies permit
            raise Forbidden(f"the pages of session {found.name} are its owner's alone")
        return found, decision

    session, decision = await gateway.db.read(look)
    if session.phase is not Phase.READY or session.plan.kind != "service":
        raise NotReady(f"session {session.name} has no pages now: it is {session.word}")
    code, now = secrets.token_urlsafe(32), gateway.clock()
    until = now + LIFE
    told, opened = audit.by(gateway, caller), Opened(session.id, session.owner, caller.token)

    def write(connection: Connection) -> None:
        openings.add(connection, digest(code), opened, now=now, until=until)
        audit.record_session(connection, told, "session.open", session, policy=decision.policy)

    await gateway.db.write(write)
    domain, own = gateway.settings.proxy.session_domain, own_prefix(session)
    place = f"//{session.name}.{domain}{own}/" if domain else f"{own or f'/s/{session.name}'}/"
    return OpeningView(url=f"{place}?{CODE}={code}", expires_at=until)


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
