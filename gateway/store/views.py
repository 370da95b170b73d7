"""Sessions as the API shows them, straight from their rows: what is read most goes through no other form."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import Connection, Text, and_, bindparam, cast, select

from gateway.model.api import JobView, SessionView
from gateway.model.session import Session, word
from gateway.store.schema import jobs, sessions
from gateway.store.sessions import values_of

_SHARED = ("id", "name", "owner", "project", "cluster", "unix_user", "recipe", "phase", "reason", "message", "ended")
_TIMES = ("created_at", "updated_at", "ready_at", "ended_at", "keep_until")
_OWN = {
    **{name: sessions.c[name] for name in (*_SHARED, *_TIMES)},
    "stop_requested": sessions.c.stop_requested_at.is_not(None),
    "queue_position": jobs.c.position,
}
_JOB = {name: jobs.c[name] for name in JobView.model_fields}
_HEAD = (sessions.c.version, cast(sessions.c.plan, Text), cast(sessions.c.conditions, Text))
_COLUMNS = (*_OWN.items(), *((f"job_{name}", column) for name, column in _JOB.items()))
_ROWS = (
    select(*_HEAD, *(column.label(name) for name, column in _COLUMNS))
    .join(jobs, and_(jobs.c.session_id == sessions.c.id, jobs.c.attempt == sessions.c.attempt))
    .where(sessions.c.id.in_(bindparam("ids", expanding=True)))
)


def bodies(connection: Connection, ids: Collection[str]) -> dict[str, tuple[int, bytes]]:
    """Version and JSON of each, for those who were told the ids by `page` or `current` of gateway.store.sessions."""
    found = {}
    for version, plan, conditions, *values in connection.execute(_ROWS, {"ids": list(ids)}).all():
        own = dict(zip(_OWN, values, strict=False))
        own["conditions"] = from_json(conditions)
        job = dict(zip(_JOB, values[len(_OWN) :], strict=True))
        shown = _shown(own, job, from_json(plan, cache_strings="keys"))
        found[own["id"]] = version, to_json(shown, inf_nan_mode="null")
    return found


def view(session: Session) -> SessionView:
    """The session as the API shows it."""
    own = values_of(session)
    own |= {"stop_requested": session.stop_requested_at is not None, "queue_position": session.job.position}
    return SessionView.model_validate(_shown(own, session.job.model_dump(), own["plan"]))


def _shown(own: Mapping[str, Any], job: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    service = plan.get("service")
    asked = service.get("replicas") if service else None
    return {
        **own,
        "recipe_version": plan["version"],
        "kind": plan["kind"],
        "phase": word(own["phase"], plan["kind"]),
        "model": service["model"] if service else None,
        "image": plan["image"]["name"],
        "image_sha256": plan["image"]["sha256"],
        "parameters": plan.get("parameters", {}),
        "resources": _given(plan.get("resources", {})),
        "labels": plan.get("labels", {}),
        "replicas": {"min": asked["min"], "max": asked["max"]} if asked else None,
        "job": job,
    }


def _given(part: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of the resources."""
    said = ((name, value) for name, value in part.items() if value is not None)
    return {name: _given(value) if isinstance(value, dict) else value for name, value in said}
