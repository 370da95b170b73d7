"""Sessions: ask for one, read, list, stop, delete. Nothing here talks to Slurm; the reconcile loop does."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from gateway.core import audit, images, placement, secrets
from gateway.core.context import Cluster, Gateway
from gateway.core.placement import Placement
from gateway.core.scripts import script_for, script_of
from gateway.core.staging import directory
from gateway.errors import Conflict, Forbidden, Invalid
from gateway.model.api import JobView, ScriptView, SessionRequest, SessionView
from gateway.model.job import Job, JobScript, job_name
from gateway.model.plan import Plan
from gateway.model.principal import Principal
from gateway.model.recipe import Recipe
from gateway.model.session import Session
from gateway.render.plan import make_plan
from gateway.render.secret import fill, named_sources, secret_values, wanted
from gateway.store import sessions as store


async def create(
    gateway: Gateway, caller: Principal, request: SessionRequest, *, idempotency_key: str | None = None
) -> tuple[Session, bool]:
    """Accept a session: durable when this returns. With a key, the same request gives the same session."""
    digest = _digest(request, gateway.catalogue.get(request.recipe, request.version))
    if idempotency_key is not None and (earlier := await _earlier(gateway, caller, idempotency_key, digest)):
        return earlier, False
    asked = await _plan(gateway, caller, request)
    cluster, where, recipe, plan = asked.cluster, asked.where, asked.recipe, asked.plan
    session_id, now = str(ULID()), gateway.clock()
    session = Session(
        id=session_id,
        name=request.name or f"{recipe.name}-{session_id[-6:].lower()}",
        owner=caller.name,
        project=where.project,
        cluster=cluster.name,
        unix_user=where.unix_user,
        plan=plan,
        created_at=now,
        updated_at=now,
        job=Job(session_id=session_id, attempt=1, name=job_name(session_id, 1)),
    )
    sealed = secrets.seal_for(gateway, session_id, asked.secrets) if asked.secrets else None
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        store.add(connection, session, key=idempotency_key, digest=digest, sealed=sealed)
        audit.record_session(connection, told, "session.create", session, _asked(session))

    try:
        await gateway.db.write(write)
    except IntegrityError as error:
        if idempotency_key is not None and (earlier := await _earlier(gateway, caller, idempotency_key, digest)):
            return earlier, False
        raise Conflict(
            f"you already have a live session named {session.name!r}", hint="Choose another --name, or stop that one."
        ) from error
    gateway.work.ring()
    gateway.news.ring()
    return session, True


async def dry_run(gateway: Gateway, caller: Principal, request: SessionRequest) -> tuple[Plan, JobScript]:
    """What `create` would send to Slurm, under a session id that is never used."""
    asked = await _plan(gateway, caller, request)
    return asked.plan, script_for(gateway, asked.cluster, asked.plan, str(ULID()), 1)


async def get(gateway: Gateway, caller: Principal, ref: str) -> Session:
    """By id or by name. SessionNotFound also for what the caller may not know of."""
    return await gateway.db.read(store.get, caller, ref)


async def stop(gateway: Gateway, caller: Principal, ref: str) -> Session:
    """Ask for the end of a session, in any phase, any number of times; the reconcile loop brings it about."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> Session:
        session, now = store.get(connection, caller, ref), gateway.clock()
        _may_change(caller, session)
        if session.phase.ended or session.stop_requested_at is not None:
            return session
        after = session.model_copy(update={"stop_requested_at": now})
        audit.record_session(connection, told, "session.stop", session)
        return store.save(connection, session, after, now) or session

    session = await gateway.db.write(write)
    gateway.work.ring()
    gateway.news.ring()
    return session


async def delete(gateway: Gateway, caller: Principal, ref: str, *, files: bool = False) -> None:
    """Forget an ended session; with `files` its directory on the cluster goes, too. Conflict while it is live."""
    session = await get(gateway, caller, ref)
    _may_change(caller, session)
    if not session.phase.ended:
        raise Conflict(f"session {session.name} has not ended", hint=f"Stop it first: sluice stop {session.name}.")
    if files:
        cluster = gateway.cluster(session.cluster)
        await cluster.files.remove(session.unix_user, directory(cluster, session))
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        store.remove(connection, session)
        audit.record_session(connection, told, "session.delete", session, {"files": files})

    await gateway.db.write(write)


def _asked(session: Session) -> audit.Details:
    """What the audit log says of a new session; the answers to its parameters are nobody else's business."""
    plan = session.plan
    return {
        "recipe": plan.recipe,
        "recipe_version": plan.version,
        "image_sha256": plan.image.sha256,
        "cluster": session.cluster,
        "unix_user": session.unix_user,
        "resources": plan.resources.model_dump(mode="json", exclude_none=True),
    }


def _may_change(caller: Principal, session: Session) -> None:
    if not caller.changes(session):
        raise Forbidden(
            f"session {session.name} is {session.owner}'s",
            hint=f"Its owner, managers of the project {session.project} and operators may stop and delete it.",
        )


async def script(gateway: Gateway, caller: Principal, ref: str) -> JobScript:
    """The script of the session's current attempt, as it was or will be sent."""
    session = await get(gateway, caller, ref)
    return script_of(gateway, gateway.cluster(session.cluster), session)


def view(session: Session) -> SessionView:
    """The session as the API shows it."""
    plan, service = session.plan, session.plan.service
    return SessionView(
        **session.model_dump(include=_SHARED),
        conditions=session.conditions,
        recipe=plan.recipe,
        recipe_version=plan.version,
        kind=plan.kind,
        phase=session.word,
        ended=session.phase.ended,
        model=service.model if service else None,
        image=plan.image.name,
        image_sha256=plan.image.sha256,
        parameters=plan.parameters,
        resources=plan.resources.model_dump(mode="json", exclude_none=True),
        labels=plan.labels,
        stop_requested=session.stop_requested_at is not None,
        job=JobView.model_validate(session.job, from_attributes=True),
        queue_position=session.job.position,
    )


def shown(session: Session) -> bytes:
    """The session as the API shows it, as JSON."""
    return view(session).model_dump_json().encode()


def script_view(plan: Plan, script: JobScript) -> ScriptView:
    """A script as the API shows it."""
    options = script.options.model_dump(mode="json", exclude_none=True)
    return ScriptView(script=script.text, options=options, image=plan.image.path, sha256=plan.image.sha256)


_SHARED = {
    *("id", "name", "owner", "project", "cluster", "unix_user", "reason", "message"),
    *("created_at", "updated_at", "ready_at", "ended_at"),
}


@dataclass(frozen=True)
class _Asked:
    """A request worked out. The values of its secrets are in nothing that is shown or recorded as it is."""

    cluster: Cluster
    where: Placement
    recipe: Recipe
    plan: Plan
    secrets: Mapping[str, str] = field(repr=False)


async def _plan(gateway: Gateway, caller: Principal, request: SessionRequest) -> _Asked:
    cluster = gateway.cluster(request.cluster)
    where = await placement.place(gateway, caller, request.project, cluster)
    recipe = gateway.catalogue.get(request.recipe, request.version)
    if recipe.image is None:
        raise Invalid(f"the recipe {recipe.name!r} names no image")
    named = await secrets.resolve(gateway, caller, where.project, wanted(recipe, request.parameters))
    answers = fill(recipe, request.parameters, named)
    plan = make_plan(
        recipe,
        answers,
        resources=request.resources,
        image=await images.resolve(gateway, cluster.name, recipe.image),
        defaults=where.defaults(cluster.settings),
    )
    where.check(plan.resources)
    values = secret_values(recipe, answers, named)
    told = {
        "labels": {**plan.labels, **request.labels},
        "secrets": named_sources(recipe, request.parameters, values),
    }
    return _Asked(cluster, where, recipe, plan.model_copy(update=told), values)


async def _earlier(gateway: Gateway, caller: Principal, key: str, digest: str) -> Session | None:
    found = await gateway.db.read(store.by_key, caller, key)
    if found is None:
        return None
    session, earlier = found
    if earlier != digest:
        raise Conflict(
            "this Idempotency-Key was used for another request", hint="Use a fresh key for each new session."
        )
    return session


def _digest(request: SessionRequest, recipe: Recipe) -> str:
    """What tells requests with the same key apart. Values of secrets are not in it: a digest of one can be guessed."""
    values: Any = request.model_dump(mode="json")
    for name, parameter in recipe.parameters.items():
        if parameter.type == "secret" and isinstance(values["parameters"].get(name), str):
            values["parameters"][name] = None
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
