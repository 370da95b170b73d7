"""Sessions in the database. Reads start from the caller (`visible_to`); writes are guarded by the version read."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    true,
    update,
)

from gateway.errors import Conflict, SessionNotFound
from gateway.model.job import Job
from gateway.model.principal import Principal
from gateway.model.session import Phase, Session
from gateway.store.schema import events, jobs, sessions

IDS_AT_ONCE = 500
_JOB = [column.label(f"job_{column.name}") for column in jobs.columns]
_JOB_FIELDS = tuple(Job.model_fields)
_SESSION_FIELDS = tuple(name for name in Session.model_fields if name != "job")

# Statements that are built once: building one costs more than running it.
_ADD_SESSION, _ADD_JOB, _ADD_EVENTS = insert(sessions), insert(jobs), insert(events)
_SAVE_SESSION = update(sessions).where(
    sessions.c.id == bindparam("the_id"), sessions.c.version == bindparam("read_version")
)
_SAVE_JOB = update(jobs).where(jobs.c.session_id == bindparam("the_id"), jobs.c.attempt == bindparam("the_attempt"))


class SessionQuery(BaseModel):
    """Filters of a list; `cursor` is the id of the last session of the page before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase | None = None
    recipe: str | None = None
    project: str | None = None
    cluster: str | None = None
    name: str | None = None
    ended: bool | None = None
    labels: Mapping[str, str] = {}
    cursor: str | None = None
    limit: int = 50


def visible_to(caller: Principal) -> Select[Any]:
    """The sessions that the caller may know of: the only way to query them for someone."""
    return _joined().where(seen_by(caller))


def seen_by(caller: Principal) -> ColumnElement[bool]:
    """`Principal.sees` as a condition on rows of sessions."""
    found: list[ColumnElement[bool]] = [true()]
    if caller.session is not None:
        found.append(sessions.c.id == caller.session)
    if caller.project is not None:
        found.append(sessions.c.project == caller.project)
    if not caller.everywhere:
        found.append(or_(sessions.c.owner == caller.name, sessions.c.project.in_(sorted(caller.projects))))
    return and_(*found)


def add(connection: Connection, session: Session, *, key: str | None = None, digest: str | None = None) -> None:
    """Insert a new session and its first job."""
    row = _row(session) | {"idempotency_key": key, "idempotency_digest": digest}
    connection.execute(_ADD_SESSION, row)
    connection.execute(_ADD_JOB, session.job.model_dump())
    append_events(connection, [(session, "session.created", {"recipe": session.plan.recipe, "name": session.name})])


def by_key(connection: Connection, caller: Principal, key: str) -> tuple[Session, str] | None:
    """The session that the caller made with this idempotency key, and the digest of that request."""
    query = visible_to(caller).where(sessions.c.owner == caller.name, sessions.c.idempotency_key == key)
    row = connection.execute(query.add_columns(sessions.c.idempotency_digest)).one_or_none()
    return (_session(row), row.idempotency_digest) if row is not None else None


def get(connection: Connection, caller: Principal, ref: str) -> Session:
    """By id, or by name: a live session first, else the newest of that name."""
    named = and_(sessions.c.name == ref, sessions.c.owner == caller.name)
    query = visible_to(caller).where(or_(sessions.c.id == ref.upper(), named))
    row = connection.execute(query.order_by(sessions.c.ended, sessions.c.id.desc()).limit(1)).one_or_none()
    if row is None:
        raise SessionNotFound(f"there is no session {ref!r}", hint="`sluice list --all` shows your sessions.")
    return _session(row)


def find(connection: Connection, caller: Principal, query: SessionQuery) -> tuple[list[Session], str | None]:
    """One page, newest first, and the cursor of the next."""
    wanted = visible_to(caller)
    for name in ("recipe", "project", "cluster", "name", "ended"):
        if (value := getattr(query, name)) is not None:
            wanted = wanted.where(sessions.c[name] == value)
    if query.phase is not None:
        wanted = wanted.where(sessions.c.phase == query.phase.value)
    for key, value in query.labels.items():
        wanted = wanted.where(sessions.c.plan["labels"][key].as_string() == value)
    if query.cursor is not None:
        wanted = wanted.where(sessions.c.id < query.cursor)
    rows = connection.execute(wanted.order_by(sessions.c.id.desc()).limit(query.limit + 1)).all()
    found = [_session(row) for row in rows[: query.limit]]
    return found, found[-1].id if len(rows) > query.limit else None


def ready(connection: Connection, caller: Principal) -> list[Session]:
    """The caller's services that can be called now."""
    query = visible_to(caller).where(sessions.c.phase == Phase.READY.value, sessions.c.endpoint.is_not(None))
    return [found for row in connection.execute(query) if (found := _session(row)).endpoint is not None]


def live(connection: Connection, cluster: str, known: Mapping[str, Session] = MappingProxyType({})) -> list[Session]:
    """Every session of a cluster that has not ended: the reconcile loop's question, asked for nobody.

    Those of `known`, by id, that nobody wrote since are not read again: of a thousand, few change from turn to turn.
    """
    here = and_(sessions.c.cluster == cluster, ~sessions.c.ended)
    ids = connection.execute(select(sessions.c.id, sessions.c.version).where(here).order_by(sessions.c.id)).all()
    found = {key: known[key] for key, version in ids if key in known and known[key].version == version}
    if not found:
        return [_session(row) for row in connection.execute(_joined().where(here).order_by(sessions.c.id))]
    others = [key for key, _ in ids if key not in found]
    for start in range(0, len(others), IDS_AT_ONCE):
        some = sessions.c.id.in_(others[start : start + IDS_AT_ONCE])
        found |= {
            session.id: session for row in connection.execute(_joined().where(some)) for session in [_session(row)]
        }
    return [found[key] for key, _ in ids if key in found]


def asked(connection: Connection, cluster: str) -> list[Session]:
    """What users asked of a cluster and nobody has begun: sessions to submit, and sessions to stop."""
    stop = and_(sessions.c.stop_requested_at.is_not(None), jobs.c.cancelled_at.is_(None), jobs.c.job_id.is_not(None))
    query = _joined().where(sessions.c.cluster == cluster, ~sessions.c.ended, or_(jobs.c.intent_at.is_(None), stop))
    return [_session(row) for row in connection.execute(query.order_by(sessions.c.id))]


def reread(connection: Connection, session_id: str) -> Session | None:
    """The session as it is now, for a writer that already holds it."""
    row = connection.execute(_joined().where(sessions.c.id == session_id)).one_or_none()
    return _session(row) if row is not None else None


def save(connection: Connection, before: Session, after: Session, now: datetime) -> Session | None:
    """Write a changed session and the events of the change, if nobody wrote in between; None if somebody did."""
    after = after.model_copy(update={"version": before.version + 1, "updated_at": now})
    guard = {"the_id": before.id, "read_version": before.version}
    if connection.execute(_SAVE_SESSION, _row(after) | guard).rowcount == 0:
        return None
    if after.job != before.job:
        job = after.job.model_dump(exclude={"session_id", "attempt"})
        connection.execute(_SAVE_JOB, job | {"the_id": after.id, "the_attempt": after.job.attempt})
    append_events(connection, changes(before, after))
    return after


def remove(connection: Connection, session: Session) -> None:
    """Forget an ended session; its events go with it."""
    guard = and_(sessions.c.id == session.id, sessions.c.ended)
    if connection.execute(delete(sessions).where(guard)).rowcount == 0:
        raise Conflict(f"session {session.name} has not ended", hint="Stop it first: sluice stop.")


def changes(before: Session, after: Session) -> Iterable[tuple[Session, str, dict[str, Any]]]:
    """The events that a change is worth telling: (session, type, data)."""
    if after.phase is not before.phase:
        yield (
            after,
            "session.phase",
            {"phase": after.word, "before": before.word, "reason": after.reason, "message": after.message},
        )
    elif _waiting(after) != _waiting(before):
        yield after, "session.reason", {"phase": after.word, **_waiting(after)}
    if after.job.job_id != before.job.job_id:
        yield after, "session.submitted", {"job_id": after.job.job_id, "attempt": after.job.attempt}
    if after.job.time_limit != before.job.time_limit and before.job.time_limit is not None:
        yield after, "session.time_limit", {"minutes": after.job.time_limit, "before": before.job.time_limit}
    for name, condition in after.conditions.items():
        if condition != before.conditions.get(name):
            data = {"name": name, "status": condition.status, "message": condition.message}
            yield after, "session.condition", data
    if after.stop_requested_at is not None and before.stop_requested_at is None:
        yield after, "session.stop_requested", {}


def _waiting(session: Session) -> dict[str, Any]:
    return {"reason": session.reason, "message": session.message, "position": session.job.position}


def append_events(connection: Connection, told: Iterable[tuple[Session, str, dict[str, Any]]]) -> None:
    rows = [
        {"session_id": session.id, "owner": session.owner, "type": kind, "at": session.updated_at, "data": data}
        for session, kind, data in told
    ]
    if rows:
        connection.execute(_ADD_EVENTS, rows)


def _joined() -> Select[Any]:
    here = and_(jobs.c.session_id == sessions.c.id, jobs.c.attempt == sessions.c.attempt)
    return select(sessions, *_JOB).join(jobs, here)


def _row(session: Session) -> dict[str, Any]:
    values = session.model_dump(mode="python", include=set(_SESSION_FIELDS) - {"plan", "conditions", "endpoint"})
    return values | {
        "phase": session.phase.value,
        "ended": session.phase.ended,
        "recipe": session.plan.recipe,
        "plan": session.plan.model_dump(mode="json"),
        "conditions": {name: c.model_dump(mode="json") for name, c in session.conditions.items()},
        "endpoint": session.endpoint.model_dump() if session.endpoint else None,
        "attempt": session.job.attempt,
    }


def _session(row: Row[Any]) -> Session:
    values = row._mapping  # noqa: SLF001 - SQLAlchemy's documented name
    job = {name: values[f"job_{name}"] for name in _JOB_FIELDS}
    return Session.model_validate({name: values[name] for name in _SESSION_FIELDS} | {"job": job})
