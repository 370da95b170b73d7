"""Sessions in the database. Reads start from the caller (`visible_to`); writes are guarded by the version read."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    String,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    union,
    update,
)

from gateway.errors import Conflict, SessionNotFound
from gateway.model.job import Job
from gateway.model.principal import Principal
from gateway.model.session import Phase, Session
from gateway.store import keys, secrets
from gateway.store.engine import about
from gateway.store.reach import held_to
from gateway.store.schema import events, jobs, labels, sessions

IDS_AT_ONCE = 500
_JOB = [column.label(f"job_{column.name}") for column in jobs.columns]
_JOB_FIELDS = tuple(Job.model_fields)
_SESSION_FIELDS = tuple(name for name in Session.model_fields if name != "job")

#: Events after which there is something to do for whoever works for the cluster.
WORK = frozenset({"session.created", "session.stop_requested", "session.woken", "session.job"})
_ID_LENGTH = 26
Current = tuple[str, int]
"""A session's id and the version that it is in."""

# Statements that are built once: building one costs more than running it.
_ADD_SESSION, _ADD_JOB, _ADD_LABELS, _ADD_EVENTS = insert(sessions), insert(jobs), insert(labels), insert(events)
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
    owner: str | None = None
    ended: bool | None = None
    labels: Mapping[str, str] = {}
    cursor: str | None = None
    limit: int = 50


def visible_to(caller: Principal) -> Select[Any]:
    """The sessions that the caller may know of: the only way to query them for someone."""
    return _joined().where(seen_by(caller))


def seen_by(caller: Principal) -> ColumnElement[bool]:
    """`Principal.sees` as a condition on rows of sessions."""
    return or_(*ways_to_see(caller))


def ways_to_see(caller: Principal) -> list[ColumnElement[bool]]:
    """The same as conditions of which one must hold; each has an index of its own. Jobs of sessions are none."""
    found = [sessions.c.parent.is_(None), *held_to(caller, sessions.c.id, sessions.c.project)]
    if caller.everywhere:
        return [and_(*found)]
    projects = [sessions.c.project == project for project in sorted(caller.projects)]
    return [and_(*found, way) for way in (sessions.c.owner == caller.name, *projects)]


def add(
    connection: Connection,
    session: Session,
    *,
    key: str | None = None,
    digest: str | None = None,
    sealed: str | None = None,
) -> None:
    """Insert a new session, its first job, and what it was given in secret, sealed.

    Conflict if its key made one that was deleted.
    """
    if key is not None:
        keys.check(connection, session, key)
    add_row(connection, session, key, digest)
    add_job(connection, session.job)
    if sealed is not None:
        secrets.give(connection, session.id, sealed)
    if session.plan.labels and session.parent is None:
        named = session.plan.labels.items()
        connection.execute(_ADD_LABELS, [{"session_id": session.id, "name": n, "value": v} for n, v in named])


def add_row(connection: Connection, session: Session, key: str | None = None, digest: str | None = None) -> None:
    """Insert the row alone: of a session, or of one more job of a session."""
    connection.execute(_ADD_SESSION, values_of(session) | {"idempotency_key": key, "idempotency_digest": digest})
    created = "session.created", {"recipe": session.plan.recipe, "name": session.name}
    kind, data = created if session.parent is None else ("session.job", told_of_job(session))
    append_events(connection, [(session, kind, data)])


def add_job(connection: Connection, job: Job) -> None:
    connection.execute(_ADD_JOB, job.model_dump())


def by_key(connection: Connection, caller: Principal, key: str) -> tuple[Session, str] | None:
    """The session that the caller made with this idempotency key, and the digest of that request."""
    query = visible_to(caller).where(sessions.c.owner == caller.name, sessions.c.idempotency_key == key)
    row = connection.execute(query.add_columns(sessions.c.idempotency_digest)).one_or_none()
    return (_session(row), row.idempotency_digest) if row is not None else None


def get(connection: Connection, caller: Principal, ref: str) -> Session:
    """By id, or by name: a live session first, else the newest of that name."""
    found = current(connection, caller, [ref]).get(ref)
    if found is None:
        raise unknown(ref)
    return load(connection, [found[0]])[found[0]]


def unknown(ref: str) -> SessionNotFound:
    return SessionNotFound(f"there is no session {ref!r}", hint="`sluice list --all` shows your sessions.")


def find(connection: Connection, caller: Principal, query: SessionQuery) -> tuple[list[Session], str | None]:
    """One page, newest first, and the cursor of the next."""
    found, following = page(connection, caller, query)
    held = load(connection, [session_id for session_id, _ in found])
    return [held[session_id] for session_id, _ in found], following


def page(connection: Connection, caller: Principal, query: SessionQuery) -> tuple[list[Current], str | None]:
    """What is on one page, newest first, and the cursor of the next."""
    asked = query.model_dump_json(exclude={"cursor"}), query.cursor is None
    statement = _built(caller, asked, lambda: _as_text(listing(caller, query)))
    found = sorted(_told(connection, statement, {"cursor": query.cursor} if query.cursor else {}), reverse=True)
    kept = found[: query.limit]
    return kept, kept[-1][0] if len(found) > query.limit else None


def listing(caller: Principal, query: SessionQuery) -> Select[Any]:
    """The ids and versions of one page and one more, by indexes: each way to see a session ends when it has a page."""
    ways = [_page_of(way, query) for way in ways_to_see(caller)]
    if len(ways) == 1:
        return ways[0]
    some = union(*(select(way.subquery()) for way in ways)).subquery()
    return select(some.c.id, some.c.version).order_by(some.c.id.desc()).limit(query.limit + 1)


def _page_of(way: ColumnElement[bool], query: SessionQuery) -> Select[Any]:
    wanted = select(sessions.c.id, sessions.c.version).where(way)
    order: ColumnElement[str] = sessions.c.id
    for name in ("recipe", "project", "cluster", "name", "owner"):
        if (value := getattr(query, name)) is not None:
            wanted = wanted.where(sessions.c[name] == value)
    if query.phase is not None:
        wanted = wanted.where(sessions.c.phase == query.phase.value)
    if query.ended is not None:
        wanted = wanted.where(sessions.c.ended if query.ended else ~sessions.c.ended)
    for number, (name, value) in enumerate(sorted(query.labels.items())):
        label = labels.alias(f"label{number}")
        same = and_(label.c.session_id == sessions.c.id, label.c.name == name, label.c.value == value)
        wanted = wanted.join(label, same)
        order = label.c.session_id if number == 0 else order
    if query.cursor is not None:
        wanted = wanted.where(order < bindparam("cursor", query.cursor))
    return wanted.order_by(order.desc()).limit(query.limit + 1)


def current(connection: Connection, caller: Principal, refs: Collection[str]) -> dict[str, Current]:
    """Which sessions of the caller's the refs name (see `get`), and their versions; a ref that names none is left out.

    Many ids are one question. What a session looks like may be kept by its version, which every change raises.
    """
    ids = {ref.upper() for ref in refs if len(ref) == _ID_LENGTH}
    some = sessions.c.id.in_(bindparam("ids", expanding=True))
    statement = _built(caller, "ids", lambda: _as_text(_seen(caller).where(some)))
    by_id = {one[0]: one for one in _told(connection, statement, {"ids": list(ids)})} if ids else {}
    found = {}
    for ref in refs:
        if (one := by_id.get(ref.upper()) or _named(connection, caller, ref)) is not None:
            found[ref] = one
    return found


def _seen(caller: Principal) -> Select[Any]:
    return select(sessions.c.id, sessions.c.version).where(seen_by(caller))


def _named(connection: Connection, caller: Principal, name: str) -> Current | None:
    named = _seen(caller).where(sessions.c.owner == caller.name, sessions.c.name == name)
    row = connection.execute(named.order_by(sessions.c.ended, sessions.c.id.desc()).limit(1)).one_or_none()
    return (row.id, row.version) if row is not None else None


def load(connection: Connection, ids: Collection[str]) -> dict[str, Session]:
    """Sessions by their ids, for those who were told the ids by `page` or `current`."""
    if not ids:
        return {}
    rows = connection.execute(_joined().where(sessions.c.id.in_(ids))).all()
    return {row.id: _session(row) for row in rows}


def _as_text(query: Select[Any]) -> Select[Any]:
    """The rows of ids and versions, in any order, as one row of text.

    Between two rows a busy process gives the interpreter to its other threads, and may wait long for its turn.
    """
    few = query.subquery()
    return select(func.aggregate_strings(few.c.id + ":" + cast(few.c.version, String), " "))


def _told(connection: Connection, statement: Select[Any], values: Mapping[str, Any]) -> list[Current]:
    text = connection.execute(statement, values).scalar_one()
    pairs = (one.partition(":") for one in (text or "").split())
    return [(session_id, int(version)) for session_id, _, version in pairs]


_BUILT: dict[tuple[str, Hashable], Select[Any]] = {}
_MOST_BUILT = 2000


def _built(caller: Principal, asked: Hashable, build: Callable[[], Select[Any]]) -> Select[Any]:
    """A statement, as it was built before for such a caller who asked for the same."""
    key = caller.model_dump_json(), asked
    found = _BUILT.get(key)
    if found is None:
        if len(_BUILT) >= _MOST_BUILT:
            _BUILT.clear()
        found = _BUILT[key] = build()
    return found


def ready(connection: Connection, caller: Principal) -> list[Session]:
    """The caller's services that can be called now."""
    query = visible_to(caller).where(sessions.c.phase == Phase.READY.value, sessions.c.endpoint.is_not(None))
    return [found for row in connection.execute(query) if (found := _session(row)).endpoint is not None]


def living(connection: Connection, which: ColumnElement[bool]) -> list[Session]:
    """Those that have not ended and are such, jobs of sessions among them; asked for nobody."""
    query = _joined().where(~sessions.c.ended, which).order_by(sessions.c.id)
    return [_session(row) for row in connection.execute(query)]


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
    new = and_(jobs.c.intent_at.is_(None), sessions.c.asleep_at.is_(None))
    query = _joined().where(sessions.c.cluster == cluster, ~sessions.c.ended, or_(new, stop))
    return [_session(row) for row in connection.execute(query.order_by(sessions.c.id))]


def reread(connection: Connection, session_id: str) -> Session | None:
    """The session as it is now, for a writer that already holds it."""
    row = connection.execute(_joined().where(sessions.c.id == session_id)).one_or_none()
    return _session(row) if row is not None else None


def save(connection: Connection, before: Session, after: Session, now: datetime) -> Session | None:
    """Write a changed session and the events of the change, if nobody wrote in between; None if somebody did."""
    after = after.model_copy(update={"version": before.version + 1, "updated_at": now})
    guard = {"the_id": before.id, "read_version": before.version}
    if connection.execute(_SAVE_SESSION, values_of(after) | guard).rowcount == 0:
        return None
    if after.job != before.job:
        job = after.job.model_dump(exclude={"session_id", "attempt"})
        connection.execute(_SAVE_JOB, job | {"the_id": after.id, "the_attempt": after.job.attempt})
    if after.phase.ended and after.plan.secrets:
        secrets.take_back(connection, after.id)
    append_events(connection, changes(before, after))
    return after


def remove(connection: Connection, session: Session) -> None:
    """Forget an ended session; its events go with it. SessionNotFound if somebody was faster."""
    guard = and_(sessions.c.id == session.id, sessions.c.ended)
    keys.spend(connection, session)
    connection.execute(delete(sessions).where(sessions.c.parent == session.id, sessions.c.ended))
    if connection.execute(delete(sessions).where(guard)).rowcount == 0:
        if reread(connection, session.id) is None:
            raise SessionNotFound(f"session {session.name} is forgotten already")
        raise Conflict(f"session {session.name} has not ended", hint="Stop it first: sluice stop.")


def changes(before: Session, after: Session) -> Iterable[tuple[Session, str, dict[str, Any]]]:
    """The events that a change is worth telling: (session, type, data)."""
    drains = (after.drain_at is None) is not (before.drain_at is None)  # where requests go depends on it
    if drains or (after.parent is not None and after.phase is not before.phase):
        yield after, "session.job", told_of_job(after)
    if after.parent is not None:
        return
    if after.phase is not before.phase:
        yield (
            after,
            "session.phase",
            {"phase": after.word, "before": before.word, "reason": after.reason, "message": after.message},
        )
    elif _waiting(after) != _waiting(before):
        yield after, "session.reason", {"phase": after.word, **_waiting(after)}
    other = after.job.attempt != before.job.attempt
    if other and after.job.job_id is not None:
        yield after, "session.adopted", {"attempt": after.job.attempt, "job_id": after.job.job_id, **_of(before)}
    elif after.job.job_id != before.job.job_id and not other:
        yield after, "session.submitted", {"job_id": after.job.job_id, "attempt": after.job.attempt}
    if after.job.time_limit != before.job.time_limit and before.job.time_limit is not None and not other:
        yield after, "session.time_limit", {"minutes": after.job.time_limit, "before": before.job.time_limit}
    for name, condition in after.conditions.items():
        if condition != before.conditions.get(name):
            data = {"name": name, "status": condition.status, "message": condition.message}
            yield after, "session.condition", data
    if after.stop_requested_at is not None and before.stop_requested_at is None:
        yield after, "session.stop_requested", {}


def _of(before: Session) -> dict[str, Any]:
    return {"before": before.job.attempt, "job_before": before.job.job_id}


def told_of_job(member: Session) -> dict[str, Any]:
    """What is told of one of several jobs."""
    said = {"phase": member.word, "reason": member.reason, "message": member.message}
    of = {"attempt": member.job.attempt, "job_id": member.job.job_id, "role": member.job.role.value}
    return {**of, "draining": member.drain_at is not None, **said}


def _waiting(session: Session) -> dict[str, Any]:
    return {"reason": session.reason, "message": session.message, "position": session.job.position}


def append_events(connection: Connection, told: Iterable[tuple[Session, str, dict[str, Any]]]) -> None:
    rows = [
        {"session_id": session.root, "owner": session.owner, "type": kind, "at": session.updated_at, "data": data}
        for session, kind, data in told
    ]
    if rows:
        connection.execute(_ADD_EVENTS, rows)
        work = any(row["type"] in WORK for row in rows)
        about(connection, "news", *(["work"] if work else []))


def _joined() -> Select[Any]:
    here = and_(jobs.c.session_id == sessions.c.id, jobs.c.attempt == sessions.c.attempt)
    return select(sessions, *_JOB).join(jobs, here)


def values_of(session: Session) -> dict[str, Any]:
    """A session as its row."""
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
