"""The one place where mutations are told to the audit log, in the transaction that makes them.

    told = audit.by(gateway, caller)

    def write(connection: Connection) -> ...:
        ...
        audit.record(connection, told, "token.revoke", "token", view.id)

What was refused is told by `refused`, in a write of its own. Never in a row: tokens, secrets, answers to the
parameters of recipes.
"""

import os
import pwd
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime

from pydantic import JsonValue
from sqlalchemy import Connection
from structlog.contextvars import get_contextvars

from gateway.core.context import Gateway
from gateway.errors import DatabaseUnavailable, Forbidden, Invalid, SluiceError, StorageFull, Unauthenticated
from gateway.model.audit import AuditHead, AuditLine, AuditQuery, AuditRow, Way, clean
from gateway.model.fixed import forbidden
from gateway.model.principal import Principal
from gateway.model.session import Session
from gateway.model.user import User
from gateway.store import audit as store

BATCH = 500
Details = Mapping[str, JsonValue]


def by(gateway: Gateway, caller: Principal) -> AuditLine:
    """What every row of this caller's request says: who, through what, when, in which request."""
    return AuditLine(
        at=gateway.clock(),
        who=caller.name,
        user_id=caller.id,
        kind=caller.kind,
        origin=caller.origin,
        token=caller.token,
        action="",
        request_id=request_id(),
    )


def by_nobody(gateway: Gateway, origin: Way = "api") -> AuditLine:
    """The same of somebody whom nobody knows, or not yet."""
    return AuditLine(at=gateway.clock(), who="", kind="nobody", origin=origin, action="", request_id=request_id())


def known(told: AuditLine, user: User) -> AuditLine:
    """Now we know: it is somebody who signs in, and may not be let in yet."""
    return told.model_copy(update={"who": user.name, "user_id": user.id, "kind": user.kind})


def by_system(now: datetime) -> AuditLine:
    """The gateway's own doing."""
    return AuditLine(at=now, who="system", kind="system", origin="loop", action="", request_id=request_id())


def by_operator() -> AuditLine:
    """Whoever runs a command on the gateway's own machine, past its API: known by their Unix user."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return AuditLine(at=datetime.now(UTC), who=name, user_id=str(uid), kind="unix", origin="cli", action="")


def record(
    connection: Connection,
    told: AuditLine,
    action: str,
    kind: str,
    of: str,
    *,
    project: str | None = None,
    session: str | None = None,
    job_id: int | None = None,
    policy: str = "",
    details: Details | None = None,
) -> None:
    """Add a row to the transaction: `told` (see `by`) did this to the object `of` of that kind."""
    line = told.model_copy(
        update={
            "action": action,
            "object_kind": kind,
            "object": clean(of),
            "project": project,
            "session": session,
            "job_id": job_id,
            "policy": policy,
            "details": {name: _clean(value) for name, value in (details or {}).items()},
        }
    )
    store.append(connection, [line])


def record_session(
    connection: Connection,
    told: AuditLine,
    action: str,
    session: Session,
    details: Details | None = None,
    policy: str = "",
) -> None:
    """The same of a session."""
    record(
        connection,
        told,
        action,
        "session",
        session.root,
        project=session.project,
        session=session.root,
        job_id=session.job.job_id,
        policy=policy,
        details={"name": session.name, **(details or {})},
    )


def record_saved(connection: Connection, changed: Iterable[tuple[Session, Session]], now: datetime) -> None:
    """What the reconcile loop does to jobs, where it writes down what they are."""
    told, lines = by_system(now), []
    for before, after in changed:
        for action, outcome, reason in _deeds(before, after):
            lines.append(
                told.model_copy(
                    update={
                        "action": action,
                        "object_kind": "job",
                        "object": after.job.name,
                        "project": after.project,
                        "session": after.root,
                        "job_id": after.job.job_id,
                        "outcome": outcome,
                        "reason": clean(reason),
                        "details": {"cluster": after.cluster, "unix_user": after.unix_user},
                    }
                )
            )
    if lines:
        store.append(connection, lines)


def _deeds(before: Session, after: Session) -> Iterable[tuple[str, str, str]]:
    """Action, outcome and reason of each act that a change of a session tells of."""
    if before.job.job_id is None and after.job.job_id is not None:
        yield "job.submit", "done", ""
    if after.phase.ended and not before.phase.ended and after.reason == "submit_refused":
        yield "job.submit", "submit_refused", after.message
    if before.job.cancelled_at != after.job.cancelled_at and after.job.cancelled_at is not None:
        yield "job.cancel", "done", ""


def refused(
    gateway: Gateway,
    told: AuditLine,
    error: SluiceError,
    action: str,
    kind: str = "",
    of: str = "",
    *,
    place: str = "",
    project: str | None = None,
    details: Details | None = None,
) -> None:
    """Tell that something was refused, which had no transaction of its own. `place`: where strangers come from."""
    if isinstance(error, DatabaseUnavailable | StorageFull):
        return  # nothing can be kept, and nothing was done
    denied = isinstance(error, Forbidden | Unauthenticated)
    line = told.model_copy(
        update={
            "action": clean(action),
            "object_kind": kind,
            "object": clean(of),
            "project": project,
            "decision": "deny" if denied else "refuse",
            "policy": clean(str(error.details.get("policy", ""))),
            "outcome": error.code,
            # what is invalid may be quoted in the words, and may be a secret in the wrong place
            "reason": "" if isinstance(error, Invalid) else clean(error.message),
            "details": {name: _clean(value) for name, value in (details or {}).items()},
        }
    )
    gateway.witness.tell(line, place)


async def find(gateway: Gateway, caller: Principal, query: AuditQuery) -> tuple[list[AuditRow], int | None]:
    """One page of the rows that the caller may know of, newest first, and the cursor of the next."""
    return await gateway.db.read(store.find, caller, query)


async def export(gateway: Gateway, caller: Principal, query: AuditQuery) -> AsyncIterator[AuditRow]:
    """All of them that there are now, oldest first, some at a time."""
    last, newest = 0, (await gateway.db.read(store.head)).id
    wanted = query.model_copy(update={"limit": BATCH})
    while True:
        rows = await gateway.db.read(store.after, caller, wanted, last)
        for row in rows:
            if row.id > newest:
                return
            last = row.id
            yield row
        if len(rows) < BATCH:
            return


async def head(gateway: Gateway, caller: Principal) -> AuditHead:
    """The newest row of the whole log. Forbidden to all but operators."""
    if not caller.everywhere:
        raise forbidden(
            "fixed-audit-head",
            "only operators see the head of the audit log",
            "`sluice audit list` shows your own rows.",
        )
    return await gateway.db.read(store.head)


def request_id() -> str | None:
    """Of the request that is being answered, if one is."""
    found = get_contextvars().get("request_id")
    return str(found) if found is not None else None


def _clean(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return clean(value)
        case list():
            return [_clean(item) for item in value]
        case dict():
            return {clean(name): _clean(item) for name, item in value.items()}
        case _:
            return value
